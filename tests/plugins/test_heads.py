"""Checkpoints that bring their head: the task takes over its order of classes, or the head is new and that is said."""

import csv
import json
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForTokenClassification,
    BertTokenizer,
)
from words import Words

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.heads import Head, match
from nasframe.running import runner
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe_basics.glue import glue
from nasframe_basics.models import HF, quiet
from nasframe_basics.text_classification import text_classification
from stand_in import SPECIAL, WORDS

FAMILIES = ("bert", "roberta", "electra", "distilbert")


def save(folder, names, family="bert", **config):
    """Save a classifier whose predictions vary, with names for its outputs, and a tokenizer of WORDS."""
    named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    net = tiny_net(family, labels=len(names), initializer_range=0.5, **named, **config)
    net.save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def write(file, names, rows=60):
    """Write texts with labels that have nothing to do with them."""
    draw, last = random.Random(1), len(names) - 1
    lines = [
        [" ".join(draw.choices(WORDS[len(SPECIAL) :], k=6)), names[min(i % (last + 2), last)]] for i in range(rows)
    ]
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([["text", "label"], *lines])
    return file


def loaded(folder):
    """Load a classifier as transformers does, without its messages."""
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(folder)


def rows_of(file):
    """Read a CSV file."""
    return list(csv.DictReader(file.read_text().splitlines()))


def own_accuracy(folder, file, meaning=lambda name: name):
    """Return the accuracy that transformers gives: the share of rows whose label is named by the largest output."""
    net, tokenizer = loaded(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = rows_of(file)
    inputs = dict(tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
    if net.config.model_type in ("roberta", "distilbert"):
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        named = [net.config.id2label[i] for i in net(**inputs).logits.argmax(1).tolist()]
    return np.mean([meaning(name) == row["label"] for name, row in zip(named, rows, strict=True)])


def recipe(folder, model, task, stages="[{evaluate: {split: dev, costs: [params]}}]"):
    """Return a recipe as a mapping's text."""
    file = folder / "recipe.yaml"
    file.write_text(f"model: {model}\ntask: {task}\nstages: {stages}\n")
    return file


def evaluated(folder, model, file, task=""):
    """Evaluate a model as it is; return the run, its metrics and the rows of its predictions."""
    written = f"{{use: text_classification, train: {file}, dev: {file}, max_length: 12{task}}}"
    run = nf.run(nf.load_recipe(recipe(folder, model, written)), out=folder / "run", report=False)
    store = runner.RunStore(run.directory, shared=True)
    metrics, data, notices = store.model("evaluate")["metrics"]["dev"], store.get("data"), store.get("notices", [])
    store.close()
    texts = [notice["text"] for notice in notices if "head" in notice["text"]]
    return metrics, data, texts, rows_of(run.directory / "models/evaluate/predictions.csv")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_used_as_it_is_has_the_accuracy_that_transformers_gives(family, tmp_path):
    model, file = save(tmp_path / "model", ["good", "bad"], family), write(tmp_path / "d.csv", ["bad", "good"])
    metrics, data, notices, predictions = evaluated(tmp_path, f"{{use: hf, path: {model}}}", file)
    own = own_accuracy(model, file)
    assert own != 0.5
    assert metrics["accuracy"] == own
    assert data["labels"] == ["good", "bad"]
    assert len(notices) == 1
    assert "order" in notices[0]
    first = predictions[0]
    assert {"p_good", "p_bad"} <= first.keys()
    assert (int(first["prediction"]) == 0) == (float(first["p_good"]) > 0.5)
    assert first["label"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "classes", "meaning"),
    [
        (["b", "c", "a"], ["a", "b", "c"], {}),
        (
            ["Very Good", "BAD", "so so"],
            ["bad", "so_so", "verygood"],
            {"BAD": "bad", "so so": "so_so", "Very Good": "verygood"},
        ),
        (["c", "b", "x", "a"], ["a", "b", "c"], {}),  # a subset keeps the whole head
        (["US", "other", "us"], ["US", "other", "us"], {}),  # names that differ in case alone
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "1", "2"], {f"LABEL_{i}": str(i) for i in range(3)}),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "2"], {f"LABEL_{i}": str(i) for i in range(3)}),
    ],
)
def test_names_bring_head_and_classes_together(saved, classes, meaning, tmp_path):
    model, file = save(tmp_path / "model", saved), write(tmp_path / "d.csv", classes)
    metrics, data, notices, predictions = evaluated(tmp_path, f"{{use: hf, path: {model}}}", file)
    own = own_accuracy(model, file, lambda name: meaning.get(name, name))
    assert metrics["accuracy"] == own > 0
    assert len(data["labels"]) == len(saved)
    assert notices or saved == classes
    named = [data["labels"][int(row["label"])] for row in predictions]
    assert {meaning.get(name, name) for name in named} == set(classes)


def test_no_row_moves_and_exports_keep_the_checkpoints_order(tmp_path):
    model, file = save(tmp_path / "model", ["good", "x", "bad"]), write(tmp_path / "d.csv", ["bad", "good"])
    task = f"{{use: text_classification, train: {file}, dev: {file}, max_length: 12}}"
    stages = "[{train: {save_as: teacher, max_steps: 1, learning_rate: 1e-9}}]"
    run = nf.run(nf.load_recipe(recipe(tmp_path, f"{{use: hf, path: {model}}}", task, stages)), out=tmp_path / "run")
    kept = loaded(run.models["teacher"])
    assert kept.config.id2label == {0: "good", 1: "x", 2: "bad"}
    saved = loaded(model)
    assert torch.allclose(kept.classifier.weight, saved.classifier.weight, atol=1e-4)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_classes_in_another_order(tmp_path):
    model, file = save(tmp_path / "model", ["good", "bad"]), write(tmp_path / "d.csv", ["bad", "good"])
    task = f"{{use: text_classification, train: {file}, dev: {file}, max_length: 12}}"
    stages = "[{train: {max_steps: 1}}, {train: {name: second, max_steps: 1}}]"
    run = nf.run(nf.load_recipe(recipe(tmp_path, f"{{use: hf, path: {model}}}", task, stages)), out=tmp_path / "run")
    store = runner.RunStore(run.directory)
    with store.transaction():
        store.db.execute("UPDATE stage SET state = 'failed' WHERE name = 'second'")
    store.close()
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="data is not what the run began with"):
        runner.resume(run.directory)


@pytest.mark.parametrize("saved", [["good", "bad"], ["LABEL_0", "LABEL_1"], ["a", "b"]])
def test_head_new_draws_a_head_as_for_an_encoder_alone(saved, tmp_path):
    model = save(tmp_path / "model", saved)
    tiny_net(initializer_range=0.5).bert.save_pretrained(tmp_path / "encoder")
    new, bare = HF(model, head="new").load(["bad", "good"], 5), HF(tmp_path / "encoder").load(["bad", "good"], 5)
    assert HF(model, head="new").head() is None
    assert torch.equal(new.classifier.weight, bare.classifier.weight)
    assert torch.equal(new.classifier.bias, bare.classifier.bias)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_other_classes_is_new_and_that_is_said(family, tmp_path):
    model = save(tmp_path / "model", ["NEGATIVE", "POSITIVE"], family)
    heard = []
    for labels in (["0", "1"], ["0", "1", "2"], None):
        net = HF(model, notify=lambda *notice: heard.append(notice)).load(labels, 3)
        again = HF(model, notify=lambda *notice: None).load(labels, 3)
        saved = loaded(model)
        head = {name: value for name, value in net.state_dict().items() if not name.startswith(net.base_model_prefix)}
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.items())
        weights = [(name, value) for name, value in head.items() if value.ndim > 1]
        assert not any(torch.equal(value, saved.state_dict()[name]) for name, value in weights)
        rest = set(net.state_dict()) - set(head)
        assert all(torch.equal(net.state_dict()[name], saved.state_dict()[name]) for name in rest)
    assert [place for place, _ in heard] == ["model"] * 3
    assert "labels:" in heard[0][1]


def test_an_encoder_without_head_weights_says_nothing_whatever_its_configuration_says(tmp_path):
    named = {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    tiny_net(labels=3, **named).bert.save_pretrained(tmp_path)
    heard = []
    model = HF(tmp_path, notify=lambda *notice: heard.append(notice))
    assert model.head() is None
    assert model.load(["b", "a"], 0).config.id2label == {0: "b", 1: "a"}
    assert heard == []


def test_labels_name_the_outputs(tmp_path):
    model = save(tmp_path / "model", ["LABEL_0", "LABEL_1"])
    file = write(tmp_path / "d.csv", ["bad", "good"])
    metrics, data, _, _ = evaluated(tmp_path, f"{{use: hf, path: {model}, labels: [good, bad]}}", file)
    assert data["labels"] == ["good", "bad"]
    assert metrics["accuracy"] == own_accuracy(model, file, {"LABEL_0": "good", "LABEL_1": "bad"}.get)
    numbers = write(tmp_path / "numbers.csv", ["0", "1"])
    shutil.rmtree(tmp_path / "run")
    metrics, data, _, _ = evaluated(tmp_path, f"{{use: hf, path: {model}, labels: [1, 0]}}", numbers)
    assert metrics["accuracy"] == own_accuracy(model, numbers, {"LABEL_0": "1", "LABEL_1": "0"}.get)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "option", "place"),
    [
        (["LABEL_0", "LABEL_1"], "", "labels:"),
        (["Good", "good", "bad"], "", "labels:"),  # which one is "GOOD"?
        (["x", "y"], ", labels: [bad, fine]", "model.labels"),
        (["x", "y"], ", labels: [bad, good, fine]", "model.labels"),
    ],
)
def test_outputs_that_cannot_be_told_apart_are_refused_before_any_stage(saved, option, place, tmp_path, capsys):
    model, file = save(tmp_path / "model", saved), write(tmp_path / "d.csv", ["bad", "GOOD"])
    task = f"{{use: text_classification, train: {file}, dev: {file}, max_length: 12}}"
    written = recipe(tmp_path, f"{{use: hf, path: {model}{option}}}", task)
    for more in ([], ["--dry-run"]):
        assert main(["run", str(written), "--out", str(tmp_path / "run"), *more]) == 2
        assert place in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "texts"),
    [("labels: [a, a]", ["a"]), ("labels: [a, b], head: new", ["head: new"]), ("head: old", ["new"])],
)
def test_check_refuses_options_of_the_head_that_cannot_be_meant(options, texts, tmp_path, capsys):
    model, file = save(tmp_path / "model", ["a", "b"]), write(tmp_path / "d.csv", ["a", "b"])
    task = f"{{use: text_classification, train: {file}}}"
    assert main(["check", str(recipe(tmp_path, f"{{use: hf, path: {model}, {options}}}", task))]) == 2
    error = capsys.readouterr().err
    assert "model." in error
    assert all(text in error for text in texts)


@pytest.mark.parametrize(("labels", "fits"), [("[a, b, c]", False), ("[a, b]", True)])
def test_check_counts_the_outputs_that_labels_names(labels, fits, tmp_path, capsys):
    model, file = save(tmp_path / "model", ["x", "y"]), write(tmp_path / "d.csv", ["a", "b"])
    task = f"{{use: text_classification, train: {file}}}"
    code = main(["check", str(recipe(tmp_path, f"{{use: hf, path: {model}, labels: {labels}}}", task))])
    assert code == (0 if fits else 2)
    assert ("model.labels" in capsys.readouterr().err) != fits


def test_a_head_that_scores_is_kept_for_scores_alone(tmp_path):
    model = save(tmp_path / "model", ["LABEL_0"])
    heard = []
    saved = loaded(model)
    kept = HF(model, notify=lambda *notice: heard.append(notice)).load(None, 3)
    assert torch.equal(kept.classifier.weight, saved.classifier.weight)
    assert heard == []
    HF(model, notify=lambda *notice: heard.append(notice)).load(["a", "b"], 3)
    assert len(heard) == 1


def test_a_multi_label_head_is_kept_by_name_and_that_is_said(tmp_path):
    model = save(tmp_path / "model", ["b", "a"], problem_type="multi_label_classification")
    file = write(tmp_path / "d.csv", ["a", "b"])
    metrics, _, notices, _ = evaluated(tmp_path, f"{{use: hf, path: {model}}}", file)
    assert metrics["accuracy"] == own_accuracy(model, file)
    assert any("multi_label" in text for text in notices)


def test_the_head_of_a_tagger_is_no_head_for_texts(tmp_path):
    config = tiny_net(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}).config
    tagger = BertForTokenClassification(config)
    tagger.save_pretrained(tmp_path)
    heard = []
    net = HF(tmp_path, notify=lambda *notice: heard.append(notice)).load(["a", "b"], 0)
    assert not torch.equal(net.classifier.weight, tagger.classifier.weight)
    assert sum("The head is new" in text for _, text in heard) == 1


def test_names_that_do_not_fit_the_weights_are_refused(tmp_path):
    save(tmp_path, ["a", "b"])
    state = load_file(tmp_path / "model.safetensors")
    wide = {"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)}
    save_file(state | wide, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"id2label.* 3 outputs"):
        HF(tmp_path).head()
    assert HF(tmp_path, labels=["a", "b", "c"]).load(["a", "b", "c"], 0).classifier.weight.abs().sum() == 0


def test_without_the_head_a_tasks_own_order_gives_the_same_numbers(tmp_path):
    """In Python a task may be made without the model's head: the network is loaded in the order asked for."""
    model, file = save(tmp_path / "model", ["good", "bad"]), write(tmp_path / "d.csv", ["bad", "good"])
    own = own_accuracy(model, file)
    loader = HF(model, notify=lambda *notice: None)
    for head in ({}, {"saved_head": loader.head()}):
        task = text_classification(file, file, tokenizer=loader.tokenizer(), notify=lambda *notice: None, **head)
        net = loader.load(task.labels, 0)
        with torch.no_grad():
            assert task.evaluate(net, "dev").metrics["accuracy"] == own
        assert [net.config.id2label[i] for i in range(2)] == list(task.labels)
    assert torch.equal(
        loader.load(["good", "bad"], 0)(**tiny_inputs(words=13)).logits,
        loader.load(["bad", "good"], 0)(**tiny_inputs(words=13)).logits.flip(1),
    )


MNLI = ("contradiction", "neutral", "entailment")


@pytest.mark.parametrize(
    ("name", "saved"),
    [("mnli", MNLI), ("mnli", [name.upper() for name in MNLI]), ("mrpc", ["equivalent", "not equivalent"])],
)
def test_glue_takes_over_a_checkpoints_order_and_keeps_its_positive_class(name, saved, tmp_path):
    from test_glue import write as write_glue

    path = write_glue(tmp_path / "data", name)
    own = glue(name, path=path, tokenizer=Words(), select=8)
    head = Head(tuple(saved))
    taken = glue(name, path=path, tokenizer=Words(), select=8, saved_head=head, notify=lambda *notice: None)
    assert list(taken.labels) == list(saved)
    assert taken.fingerprint == own.fingerprint
    turn = [list(match(head, own.labels).outputs).index(i) for i in range(len(saved))]

    def forward(task, **inputs):
        seen = (inputs["input_ids"] * inputs["attention_mask"]).sum(1).float()
        logits = torch.stack([torch.sin(seen * part) for part in (1, 2, 3)][: len(saved)], 1)
        return type("Output", (), {"logits": logits[:, turn] if task is taken else logits})

    for split in ("dev", "select"):
        first, second = (task.evaluate(lambda task=task, **i: forward(task, **i), split, 7) for task in (own, taken))
        assert first.metrics == pytest.approx(second.metrics)
        assert first.predictions["id"] == second.predictions["id"]
    formats = {"mnli": None, "mrpc": "equivalent"}
    assert taken.metrics.get("f1") is None or taken.metrics["f1"].positive == formats[name]


def test_glue_keeps_numbered_outputs_in_its_published_order(tmp_path):
    from test_glue import write as write_glue

    heard = []
    head = Head(tuple(f"LABEL_{i}" for i in range(3)))
    made = glue(
        "mnli", path=write_glue(tmp_path / "data", "mnli"), saved_head=head, notify=lambda *notice: heard.append(notice)
    )
    assert list(made.labels) == ["entailment", "neutral", "contradiction"]
    assert len(heard) == 1


@given(st.lists(st.text("abAB _", min_size=1, max_size=4), min_size=2, max_size=5, unique=True), st.randoms())
def test_every_order_of_the_same_names_is_found(names, draw):
    shuffled = draw.sample(names, len(names))
    found = match(Head(tuple(shuffled)), names)
    assert found.kept
    assert [found.labels[output] for output in found.outputs] == names
    assert list(found.labels) == shuffled


@pytest.mark.parametrize("classes", [["1", "2"], ["0.5", "1"], ["-1", "1"], ["a", "b"], ["0", "0.0"]])
def test_numbered_outputs_are_for_classes_that_number_them(classes):
    with pytest.raises(UsageError, match=r"labels: \[\.\.\]"):
        match(Head(("LABEL_0", "LABEL_1")), classes)


def test_a_task_that_does_not_ask_for_the_head_is_refused_too(tmp_path, capsys):
    (tmp_path / "plugin.py").write_text(
        "from nasframe import hookimpl\nfrom nasframe.testing.toy import ToyTask\n\n"
        "@hookimpl\ndef register_tasks(register):\n    register('deaf', ToyTask)\n"
    )
    model = save(tmp_path / "model", ["LABEL_0", "LABEL_1"])
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"plugins: [{tmp_path}/plugin.py]\nmodel: {{use: hf, path: {model}}}\ntask: {{use: deaf}}\n"
        "stages: [{evaluate: {costs: [params]}}]\n"
    )
    assert main(["run", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "head: new" in capsys.readouterr().err


def test_classes_that_count_from_one_are_no_outputs_of_a_larger_head():
    head = Head(tuple(f"LABEL_{output}" for output in range(5)), "classes", False, "stars")
    with pytest.raises(UsageError, match="labels"):
        match(head, ["1", "2", "3", "4"])
    assert match(head, ["0", "1", "3"]).outputs == (0, 1, 3)
