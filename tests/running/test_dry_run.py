"""A dry run tells sizes, reachable costs and time, and leaves nothing behind."""

from pathlib import Path

import pytest

import nasframe as nf
from nasframe.plan import asks_teacher
from nasframe.recipe.resolve import resolve
from nasframe.running.dry_run import dry_run

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"


def test_a_dry_run_describes_every_stage_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = resolve(nf.load_recipe(RECIPE))
    found = dry_run(plan)
    assert [row["name"] for row in found["stages"]] == [stage.name for stage in plan.stages]
    assert found["stages"][0]["what"] == "train, 6 steps of 32"
    assert found["seconds"] == sum(row["seconds"] for row in found["stages"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_reachable_costs_are_those_of_the_ends(tmp_path):
    costs = dry_run(resolve(nf.load_recipe(RECIPE)))["costs"]["encoder_params"]
    space = nf.make("space", "width_depth", layers=[1, 2, 3], heads=[1, 2, 4], ffn=[8, 16, 32, 64])
    counted = nf.make("estimator", "encoder_params")
    from nasframe.testing.toy import tiny_net

    net = tiny_net()
    assert costs["smallest"] == counted.estimate(space, net, space.domain.smallest())
    assert costs["largest"] == costs["full"] == counted.estimate(space, net, None)


def test_a_recipe_without_a_search_has_costs_too():
    stages = "stages=[{train: {max_steps: 1, sampler: random}}]"
    found = dry_run(resolve(nf.load_recipe(RECIPE, [stages, "~budgets"])))
    assert found["costs"].keys() == {"params", "macs"}


def test_a_teacher_of_weight_0_takes_no_time():
    assert asks_teacher({"use": "kd", "teacher": "teacher", "weight": 0.5})
    assert asks_teacher({"use": "dynabert", "teacher": "teacher"})
    assert not asks_teacher({"use": "kd", "teacher": "teacher", "weight": 0})
    assert not asks_teacher("fake_quant")


@pytest.mark.slow
def test_a_bound_beyond_reach_is_told():
    found = dry_run(resolve(nf.load_recipe(RECIPE, ["budgets={encoder_params: [75%, 1%]}"])))
    assert [(row["text"], row["reachable"]) for row in found["limits"]] == [("75%", True), ("1%", False)]
