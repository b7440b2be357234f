"""The recipes ``methods/<method>`` on small models of several families and tasks, to a verified export."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
import yaml
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
)

import nasframe as nf
from nasframe.cli.check import problems_of
from nasframe.store import RunStore
from stand_in import SPECIAL

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "recipes/methods").glob("[!_]*.yaml"))
WORDS = [*SPECIAL, *(f"word{number}" for number in range(40))]
BERT_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": len(WORDS)}
MODELS = {
    "bert-4": lambda: BertModel(BertConfig(num_hidden_layers=4, **BERT_SIZES)),
    "distilbert-3": lambda: DistilBertModel(
        DistilBertConfig(n_layers=3, dim=32, n_heads=4, hidden_dim=64, vocab_size=len(WORDS))
    ),
    "roberta-6": lambda: RobertaModel(
        RobertaConfig(num_hidden_layers=6, pad_token_id=0, bos_token_id=2, eos_token_id=3, **BERT_SIZES)
    ),
    "electra-2": lambda: ElectraModel(ElectraConfig(num_hidden_layers=2, embedding_size=16, **BERT_SIZES)),
}


def text(draw, length=8):
    return " ".join(draw.choices(WORDS[len(SPECIAL) :], k=length))


def rows(kind):
    """Return the rows of a table; labels follow from the first word, so that there is something to learn."""
    draw = random.Random(0)
    table = []
    for _ in range(160):
        first, second = text(draw), text(draw)
        number = int(first.split()[0].removeprefix("word"))
        several = [f"t{part}" for part in (2, 3, 5) if number % part == 0]
        labels = {"binary": number % 2, "classes": f"c{number % 8}", "pairs": number % 2, "regression": number / 7}
        label = {**labels, "several": several}[kind]
        table.append({"text": first, "other": second, "label": label})
    return table


TASKS = {
    "binary": {},
    "classes": {},
    "pairs": {"text": ["text", "other"]},
    "regression": {"regression": True},
    "several": {"multi_label": True},
}


REFUSED = {
    ("nas_bert", "electra-2"): "the network projects its embeddings from 16 to 32",
    ("puzzle", "electra-2"): "the network projects its embeddings from 16 to 32",
}
"""Method and model → why they do not go together."""
LANGUAGE_STAGES = ("language", "library", "search", "extract", "from-scratch", "pre-training")
"""The stages of NAS-BERT whose task is masked words."""


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A folder with all models and tables."""
    home = tmp_path_factory.mktemp("methods")
    for name, make in MODELS.items():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make().save_pretrained(home / name)
            BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(home / name)
    for kind in TASKS:
        lines = [json.dumps(row) for row in rows(kind)]
        (home / f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = WORDS[len(SPECIAL) :]
    paragraphs = [" ".join(words[start:] + words[:start]) for start in range(len(words))]
    (home / "language.txt").write_text("\n\n".join(paragraphs * 40), encoding="utf-8")
    return home


def recipe(home, out, method, model, kind):
    """Write what a user writes: a method, a model and a task."""
    data = {
        "extends": str(ROOT / f"recipes/methods/{method}.yaml"),
        "name": f"{method}-{model}-{kind}",
        "model": {"use": "hf", "path": str(home / model)},
        "task": {"use": "text_classification", "train": str(home / f"{kind}.jsonl"), "text": "text", "label": "label"}
        | {"max_length": 24}
        | TASKS[kind],
    }
    if method == "nas_bert":  # the packaged docstrings are made of words that these models do not know
        language = {"use": "masked_lm", "train": str(home / "language.txt"), "length": 24}
        data["set"] = {f"stages.{stage}.task": language for stage in LANGUAGE_STAGES}
    path = out / "recipe.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def end_to_end(home, out, method, model, kind):
    """Run a method to its export; a network that is pruned is within its budget."""
    path = recipe(home, out, method, model, kind)
    plan = nf.load_recipe(path, ["smoke=true"])
    run = nf.run(plan, out=out / "run", cache=out / "cache", report=False, progress=False)
    assert list((out / "run/models").glob("*/config.json"))
    if method == "nxmiformer":  # shapes stay
        return
    store = RunStore(run.directory, shared=True)
    costs = {row["name"]: row["costs"] for row in store.rows("model")}
    store.close()
    assert costs["best@50%"]["encoder_params"] <= 0.5 * costs["teacher"]["encoder_params"]


PAIRS = [(model, kind) for model in MODELS for kind in TASKS]
COVERING = [(METHODS[number % len(METHODS)], model, kind) for number, (model, kind) in enumerate(PAIRS)]


@pytest.mark.parametrize(("method", "model", "kind"), COVERING)
def test_a_method_runs_to_its_export(material, tmp_path, method, model, kind):
    end_to_end(material, tmp_path, method, model, kind)


def test_every_method_fits_networks_of_other_depths(material, tmp_path):
    """Proven before work: shares and positions are resolved against the network's own sizes."""
    for layers in (3, 12, 24):
        folder = tmp_path / f"bert-{layers}"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            BertModel(BertConfig(num_hidden_layers=layers, **BERT_SIZES)).save_pretrained(folder)
            BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
        for method in METHODS:
            path = recipe(material, tmp_path, method, "bert-4", "binary")
            found = problems_of(str(path), [f"model.path={folder}"])
            assert [str(problem) for problem in found] == [], (method, layers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind", "method"),
    [(*pair, method) for pair in PAIRS for method in METHODS if (method, pair[0]) not in REFUSED],
)
def test_every_method_runs_on_every_model_and_task(material, tmp_path, method, model, kind):
    end_to_end(material, tmp_path, method, model, kind)


@pytest.mark.parametrize(("method", "model"), REFUSED)
def test_a_model_that_a_method_cannot_take_is_refused_before_work(material, tmp_path, method, model):
    (problem,) = problems_of(str(recipe(material, tmp_path, method, model, "binary")))
    assert REFUSED[method, model] in str(problem)
