"""Recipes of slimming: what a run leaves behind, what switches switch, equal training MACs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nasframe as nf
from nasframe.errors import RecipeError
from nasframe.store import RunStore

TOY = str(Path(__file__).parents[2] / "data" / "toy.yaml")
STAGES = """stages=[
  {train: {save_as: teacher, max_steps: 3}},
  {train: {name: joint, max_steps: 5, checkpoint_every: 0, modifiers:
    [{use: slimming, target: "50%"}, {use: kd}, {use: fake_quant, activations: 8}, null]}},
  {extract: {archs: {best@50%: joint}}},
  {train: {name: tune, models: ["best@*"], max_steps: 2, checkpoint_every: 0, modifiers: [kd, fake_quant]}},
  {evaluate: {costs: [encoder_params, params]}}]"""


def run(out: Path, *overrides: str) -> dict[str, Any]:
    directory = nf.run(
        nf.load_recipe(TOY, ["~budgets", STAGES, *overrides]), out=out, progress=False, report=False
    ).directory
    store = RunStore(directory, shared=True)
    names = [name for (name,) in store.db.execute("SELECT name FROM model")]
    found = {name: store.model(name) for name in names}
    store.close()
    return found


@pytest.mark.slow
def test_a_run_ends_with_a_model_within_the_budget(tmp_path: Path) -> None:
    models = run(tmp_path / "all")
    small, teacher = models["best@50%"], models["teacher"]
    assert 0.4 < small["costs"]["encoder_params"] / teacher["costs"]["encoder_params"] <= 0.5
    layers = [(layer["heads"], layer["ffn"]) for layer in small["blueprint"]["layers"]]
    assert layers == [(small["arch"][f"heads.{i}"], small["arch"][f"ffn.{i}"]) for i in range(3)]
    assert {entry["bits"] for entry in small["blueprint"]["quantised"].values()} == {8}
    assert small["budget"] == "50%"


@pytest.mark.slow
def test_null_in_the_place_of_a_modifier_switches_it_off(tmp_path: Path) -> None:
    off = ["stages.joint.modifiers.1=null", "stages.joint.modifiers.2=null"]
    off += ["stages.tune.modifiers.0=null", "stages.tune.modifiers.1=null"]
    models = run(tmp_path / "prune", *off, "stages.joint.modifiers.3={use: adversary}")
    assert "quantised" not in models["best@50%"]["blueprint"]
    store = RunStore(tmp_path / "prune", shared=True)
    roles = dict(store.db.execute("SELECT role, steps FROM ledger WHERE stage IN ('joint', 'tune')"))
    store.close()
    assert roles["teacher"] == 5  # asked by the adversary alone, and by nobody while fine-tuning


@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc"])
def test_equal_training_macs(task: str) -> None:
    """What 750 single-path steps cost, or 350: in passes of the whole network, three a step and one of the teacher."""

    def steps(*switches: str) -> tuple[int, int]:
        stages = {}
        for stage in nf.load_recipe(f"slimming/{task}-minilm", [f"{s}=true" for s in switches]).data["stages"]:
            options = stage.get("train", {})
            stages[options.get("name")] = options.get("max_steps")
        return stages["joint"], stages["tune"]

    single, epoch = {"sst2": (750, 313), "cola": (750, 240), "mrpc": (350, 103)}[task]  # an epoch has all its logits
    expected = single * 3 * 0.473 + epoch
    for share, switches in ((0.475, []), (0.237, ["quarter"]), (1.0, ["no-prune"])):
        joint, tune = steps(*switches)
        assert 3 * (joint + share * tune) + min(joint, epoch) + min(tune, epoch) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("target", ["100%", "0%", "much"])
def test_a_target_that_cannot_be_is_refused_before_any_work(target: str) -> None:
    with pytest.raises(RecipeError, match=r"joint.modifiers.0.*target"):
        nf.resolve(nf.load_recipe("slimming/sst2-minilm", [f"stages.joint.modifiers.0.target={target}"]))


@pytest.mark.slow
def test_the_export_loads_in_a_fresh_process_and_agrees(tmp_path: Path) -> None:
    run(tmp_path / "exported", "+stages.5={export: {models: ['best@*']}}")
    assert (tmp_path / "exported/models/best-50/export_report.json").is_file()
