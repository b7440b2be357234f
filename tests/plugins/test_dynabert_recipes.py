"""DynaBERT's recipes and the baselines: they run, meet their budgets, and cost the same training MACs."""

from __future__ import annotations

import functools
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import nasframe as nf
from nasframe.nn import count
from nasframe.recipe.resolve import resolve
from nasframe.report.page import build
from stand_in import write_net, write_reviews

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BASELINES = sorted(path.stem for path in (RECIPES / "baselines").glob("*.yaml") if path.stem[0] != "_")
METHODS = [name for name in BASELINES if name not in ("sst2", "cola", "mrpc")]
SHARES = {"75%": 0.75, "50%": 0.5, "35%": 0.35, "20%": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A network as thin as the recipes' spaces allow, at MiniLM's and at BERT-base's counts, and a few texts."""
    home = tmp_path_factory.mktemp("recipes")
    sizes = {"hidden_size": 24, "num_attention_heads": 12, "max_position_embeddings": 32}
    for name, layers, ffn in (("minilm", 6, 1536), ("base", 12, 3072)):
        write_net(home / name, num_hidden_layers=layers, intermediate_size=ffn, **sizes)
    write_net(home / "lm", kind=BertForMaskedLM, num_hidden_layers=1, intermediate_size=24, **sizes)
    write_reviews(home)
    return home


def smoke(folder: Path, name: str, *more: str) -> dict[str, Any]:
    """Run a recipe in smoke mode on the stand-ins; return its report."""
    size = "base" if "published" in name else "minilm"
    task = f"task={{use: text_classification, train: {folder}/reviews.csv, max_length: 12}}"
    changes = [
        "smoke=true",
        f"model={{use: hf, path: {folder / size}}}",
        task,
        "stages.evaluate.costs=[encoder_params]",
    ]
    run = nf.run(
        nf.load_recipe(str(RECIPES / f"{name}.yaml"), [*changes, *more]),
        out=folder / "runs" / name.replace("/", "-") / str(len(more)),
    )
    return build(run.directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*(f"baselines/{name}" for name in METHODS), "dynabert/sst2-minilm", "dynabert/mrpc-minilm"]
)
def test_a_recipe_of_the_protocol_finds_a_network_for_every_budget(folder: Path, name: str) -> None:
    models = smoke(folder, name)["models"]
    full = 6 * (4 * 24 * 24 + 4 * 24 + 2 * 24 * 1536 + 1536 + 24 + 4 * 24)
    found = {m["budget"]: m["costs"]["encoder_params"] / full for m in models if m["name"].startswith("best@")}
    # One-shot pruning goes to a single size, and its recipe says to which.
    expected = {"50%"} if name == "baselines/magnitude-one-shot" else SHARES.keys()
    assert found.keys() == expected
    assert all(share <= SHARES[budget] for budget, share in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["~stages.final", "full-width-teacher=true"], ["original-data=true"]])
def test_the_published_recipe_gives_the_table_of_twelve(folder: Path, more: list[str]) -> None:
    models = [f"stages.{name}.modifiers.1.model={folder}/lm" for name in ("width", "width-depth")]
    more = [*more, "~stages.export", *(models if "original-data=true" not in more else [])]
    report = smoke(folder, "dynabert/published/rte", *more)
    cells = {model["name"] for model in report["models"] if model["name"][0] == "w" and "-d" in model["name"]}
    assert {"w25-d50", "w75-d75", "w100-d100"} < cells
    assert len(cells - {"width-depth"}) == 12


@pytest.mark.parametrize(("name", "epochs"), [("cola", 93), ("sst2", 63), ("mnli", 33)])
def test_published_epochs_count_the_copies(name: str, epochs: int) -> None:
    stages = {stage.name: stage for stage in plan_of(f"dynabert/published/{name}").stages}
    for stage in ("width", "width-depth"):
        options = stages[stage].options
        assert options["options"].epochs == epochs == 3 * (1 + options["modifiers"][1]["copies"])
        assert options["options"].learning_rate == 2e-5
        assert (options["options"].warmup_ratio, options["options"].weight_decay) == (0, 0)
    weights = [stages[stage].options["modifiers"][0] for stage in ("width", "width-depth")]
    assert [(row["lambda1"], row["lambda2"], row["width"]) for row in weights] == [(1, 0.1, "full"), (1, 1, "same")]


def plan_of(name: str) -> Any:
    return resolve(nf.load_recipe(str(RECIPES / f"{name}.yaml")))


# ---- equal training MACs


@functools.cache
def full_net() -> Any:
    with torch.device("meta"):
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return BertForSequenceClassification(config)


@functools.cache
def training_macs(name: str) -> float:
    """Say what a recipe trains after its teacher, in passes of the whole network over one batch of 32."""
    plan, net, epoch, total = plan_of(name), full_net(), 10_000 / 32, 0.0
    macs, space = count.macs(net, 1, 13), nf.make("space", plan.space, config=net.config)
    whole = macs.of(None)
    for stage in plan.stages:
        if stage.verb != "train" or stage.name == "teacher":
            continue
        options, use = stage.options["options"], stage.options.get("sampler")
        steps, domain = options.max_steps, space.domain.restrict(stage.options.get("within") or {})
        teachers = [use for use in stage.options.get("modifiers") or () if "teacher" in use]
        if trained := stage.options.get("models"):
            extracted = next(s.options.get("archs") for s in plan.stages if s.verb == "extract") or {}
            chosen = [arch for name, arch in extracted.items() if any(fnmatch(name, pattern) for pattern in trained)]
            sizes = [macs.of(space.arch(arch)) / whole for arch in chosen]
            student = sum(sizes or SHARES.values())
            taught = float(len(sizes or SHARES) * len(teachers))
        else:
            sampler = nf.make("sampler", use, domain=space.domain, seed=0)
            sizes = [[macs.of(arch) for arch in sampler.ask(options.archs_per_step, within=domain)] for _ in range(200)]
            student, taught = float(np.mean([sum(row) for row in sizes])) / whole, 1.0
            if teachers[0].get("width") == "same":
                taught = sum(macs.of(arch) for arch in sampler.ask(16) if len(arch["layers"]) == 6) / whole
        cached = min(steps, epoch) if options.teacher_cache == "run" else steps
        total += steps * 3 * student + cached * taught
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "dynabert"])
def test_methods_cost_the_training_macs_of_the_uniform_super_network(name: str) -> None:
    expected = training_macs("baselines/uniform-random")
    if name == "first-layers":  # has no teacher to pay
        expected += 3 * 2 * 10_000 / 32
    cost = training_macs("dynabert/sst2-minilm" if name == "dynabert" else f"baselines/{name}")
    assert cost == pytest.approx(expected, rel=0.05) or name == "magnitude"
    assert (cost == 0) == (name == "magnitude")
