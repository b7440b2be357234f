"""ROSITA's recipes: they run on stand-ins, end with the sizes they say, and cost the training MACs they say."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import nasframe as nf
from nasframe.nn import count
from nasframe.recipe.resolve import check_recipe
from nasframe_rosita.schedule import all_sizes, lowered, sizes_within
from stand_in import WORDS, write_net, write_reviews

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@functools.cache
def minilm() -> Any:
    with torch.device("meta"):
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return BertForSequenceClassification(config)


@pytest.mark.parametrize(("target", "sizes"), [(0.5, (7, 933)), (0.25, (3, 497))])
def test_the_one_step_sizes_are_those_of_the_target(target: float, sizes: tuple[int, int]) -> None:
    """What ``rosita/setting1-minilm`` writes out is what ``target`` finds for five layers."""
    net, share = minilm(), count.params(minilm(), "encoder")
    found = sizes_within(net, all_sizes(net, {}), 5, target, net)
    assert (found["heads"], found["ffn"]) == sizes
    assert target - 0.001 < share.of(lowered(all_sizes(net, {}), {"layers": 5} | found, 1.0)) / share.of() <= target


def test_the_published_chain_is_the_published_one() -> None:
    """Epochs count the copies; learning rates, spreads and weights are the card's, for each task."""
    expected = {
        "cola": ((155, 2e-5), (310, 1e-5, 0.2), (1550, 1e-5, 0.01, 18)),
        "sst2": ((105, 2e-5), (105, 2e-5, 0.5), (210, 1e-5, 0.01, 18)),
        "qnli": ((63, 2e-5), (63, 3e-5, 0.2), (147, 3e-5, 0.1, 18)),
        "qqp": ((33, 2e-5), (22, 2e-5, 0.2), (55, 3e-5, 0.1, 18)),
        "mnli": ((33, 5e-5), (22, 2e-5, 0.2), (55, 5e-5, 0.1, 27)),
    }
    for task, (student, depth, width) in expected.items():
        plan = nf.resolve(nf.load_recipe(str(RECIPES / f"rosita/published/{task}.yaml")))
        stages = {stage.name: stage.options for stage in plan.stages}
        how = {name: stages[name]["options"] for name in ("student", "depth", "width")}
        cuts = {
            name: next(m for m in stages[name]["modifiers"] if m["use"] == "scheduled_prune")
            for name in ("depth", "width")
        }
        hidden = next(m for m in stages["width"]["modifiers"] if m["use"] == "kd_hidden")
        assert (how["student"].epochs, how["student"].learning_rate) == student
        assert (how["depth"].epochs, how["depth"].learning_rate, cuts["depth"]["over"]) == depth
        rate = (how["width"].epochs, how["width"].learning_rate, cuts["width"]["over"], hidden["weight"])
        assert rate == width
        assert how["width"].schedule == ("linear" if task == "mnli" else "constant")
        assert {options.batch_size for options in how.values()} == {32 if task in ("cola", "sst2") else 64}
        assert stages["teacher"]["options"].batch_size == 32
        assert cuts["depth"]["layers"] == 8
        goal = {unit: cuts["width"][unit] for unit in ("heads", "ffn", "embedding_rank")}
        assert goal == {"heads": 2, "ffn": 512, "embedding_rank": 128}


@pytest.mark.parametrize(
    ("name", "more", "stage", "examples"),
    [
        ("cola", [], "width", 8_551),
        ("cola", ["original-data=true"], "width", 8_551),
        ("mrpc", [], "width", 3_668),
        ("mrpc", ["original-data=true"], "width", 3_668),
        ("setting1", ["cola=true"], "tune", 8_551),
        ("setting1", ["mrpc=true"], "tune", 3_668),
        ("setting2", ["cola=true"], "tune", 8_551),
        ("setting3", ["cola=true"], "width", 8_551),
    ],
)
def test_the_published_patience_is_ten_epochs_of_the_data_with_their_copies(name, more, stage, examples):
    plan = nf.resolve(nf.load_recipe(str(RECIPES / f"rosita/published/{name}.yaml"), more))
    options = next(found.options for found in plan.stages if found.name == stage)
    how = options["options"]
    copies = next((m["copies"] for m in options["modifiers"] if m and m["use"] == "augment"), 0)
    passes = math.ceil((examples - round(0.05 * examples)) / how.batch_size)
    patience = how.early_stop * (how.eval_every or passes)
    assert patience == pytest.approx(10 * passes * (copies + 1), rel=0.011)
    assert how.epochs == 50 * (copies + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "passes"),
    [
        ("sst2-minilm", [], 1423),
        ("sst2-minilm", ["quarter=true"], 1423),
        ("mrpc-minilm", [], 605),
        ("mrpc-minilm", ["quarter=true"], 605),
        ("setting4-minilm", [], 1423),
        ("setting4-minilm", ["quarter=true"], 1423),
        ("setting4-minilm", ["mrpc=true"], 605),
        ("setting4-minilm", ["mrpc=true", "quarter=true", "stages.width.max_steps=205"], 605),
    ],
)
def test_the_chain_costs_the_training_macs_of_the_uniform_super_network(
    name: str, more: list[str], passes: int
) -> None:
    """In passes of the whole network over one batch: as many as baselines/magnitude-one-shot."""
    plan = nf.resolve(nf.load_recipe(str(RECIPES / f"rosita/{name}.yaml"), more))
    net, total = minilm(), 0.0
    whole = count.macs(net, 1, 13).of()
    for stage in plan.stages:
        if stage.verb != "train" or stage.name == "teacher":
            continue
        teachers = [use["teacher"] for use in stage.options["modifiers"] if "teacher" in use]
        taught = {"teacher": 1.0, "student": 1.0, "shallow": macs_of_layers(5) / whole}[teachers[0]]
        steps, prune = stage.options["options"].max_steps, stage.options["modifiers"][0]
        archs = [{}] if stage.name == "student" else schedule(net, prune)
        spread = round(prune.get("over", 0) * steps / max(len(archs) - 1, 1)) * (len(archs) - 1)
        share = [count.macs(net, 1, 13).of(arch) / whole for arch in archs]
        mean = (sum(share[:-1]) / max(len(share) - 1, 1) * spread + share[-1] * (steps - spread)) / steps
        total += steps * (3 * mean + taught)
    assert total == pytest.approx(passes, rel=0.03)


def macs_of_layers(layers: int) -> float:
    return count.macs(minilm(), 1, 13).of({"layers": list(range(layers))})


def schedule(net: Any, prune: Any) -> list[Any]:
    full = all_sizes(net, {})
    if prune.get("layers"):
        return [full, lowered(full, {"layers": prune["layers"]}, 1.0)]
    full = lowered(full, {"layers": 5}, 1.0)
    goal = sizes_within(net, full, None, float(prune["target"].removesuffix("%")) / 100, net)
    times = 12 - goal["heads"]
    return [lowered(full, goal, t / times) for t in range(times + 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Networks with the counts of MiniLM and BERT-base, as thin as can be, and a few texts."""
    home = tmp_path_factory.mktemp("rosita")
    words = WORDS + [f"word{i}" for i in range(800 - len(WORDS))]
    for name, layers, hidden, ffn in (("minilm", 6, 384, 1536), ("base", 12, 768, 3072)):
        sizes = {"hidden_size": hidden, "num_attention_heads": 12, "max_position_embeddings": 16}
        write_net(home / name, words, num_hidden_layers=layers, intermediate_size=ffn, **sizes)
    small = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 24}
    write_net(home / "lm", words, BertForMaskedLM, num_hidden_layers=1, max_position_embeddings=32, **small)
    write_reviews(home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "answer"),
    [
        ("sst2-minilm", [], "best@50%"),
        ("sst2-minilm", ["quarter=true"], "best@25%"),
        ("setting1-minilm", [], "best@50%"),
        ("setting2-minilm", [], "best@50%"),
        ("setting3-minilm", ["quarter=true"], "best@25%"),
        ("setting4-minilm", [], "best@50%"),
        ("published/sst2", ["~stages.export"], "rosita"),
        ("published/setting1", [], "rosita"),
        ("published/setting2", [], "rosita"),
        ("published/setting3", [], "rosita"),
    ],
)
def test_a_recipe_runs_to_its_sizes(folder: Path, name: str, more: list[str], answer: str) -> None:
    from nasframe.report.page import build

    published = name.startswith("published")
    lm = [f"stages.{stage}.modifiers.0.model={folder}/lm" for stage in with_augment(name)] if published else []
    task = f"task={{use: text_classification, train: {folder}/reviews.csv, max_length: 12}}"
    model = f"model={{use: hf, path: {folder / ('base' if published else 'minilm')}}}"
    cost = "stages.evaluate.costs=[encoder_params, params]"
    recipe = nf.load_recipe(str(RECIPES / f"rosita/{name}.yaml"), ["smoke=true", model, task, cost, *more, *lm])
    report = build(nf.run(recipe, out=folder / "runs" / f"{name}-{len(more)}").directory)
    found = next(model for model in report["models"] if model["name"] == answer)
    if published:  # 14,474,754 with the 30,522 words and 512 positions of BERT-base
        assert found["costs"]["params"] == 14_474_754 - (30_522 - 800) * 128 - (512 - 16) * 768
    else:
        net, share = minilm(), int(answer[5:7]) / 100
        assert share - 0.001 < found["costs"]["encoder_params"] / count.params(net, "encoder").of() <= share


def with_augment(name: str) -> list[str]:
    stages = {"published/setting1": ["tune"], "published/setting2": ["student", "tune"]}
    return stages.get(name, ["student", "depth", "width"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("stages.depth.modifiers.0.layers=9", "scheduled_prune: layers is to end with 9, there is 6."),
        ("stages.depth.arch=null", "scheduled_prune: stage 'depth' cannot be pruned on a schedule."),
    ],
)
def test_a_schedule_that_the_network_cannot_follow_is_refused_before_any_work(change: str, text: str) -> None:
    plan, problems = check_recipe("rosita/sst2-minilm", [change])
    assert plan is None
    assert text in "\n".join(map(str, problems))
