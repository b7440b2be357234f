"""Budgets that nobody can meet are told before any work, and only where that is certain."""

import itertools
from pathlib import Path

import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import UnsatisfiableError
from nasframe.recipe.resolve import resolve
from nasframe.running.feasibility import check_budgets, searches, targets
from nasframe.stages.inputs import RunInputs

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
SEARCH = "stages=[{search: {}}]"
TRAIN = "{train: {max_steps: 1, save_as: trained}}"


def inputs_of(*overrides: str) -> RunInputs:
    return RunInputs(resolve(nf.load_recipe(RECIPE, list(overrides))))


def test_an_impossible_budget_is_told_before_anything_is_written(tmp_path, capsys):
    budgets = "budgets={encoder_params: [75%, 1%], macs: ['<= 10']}"
    out = tmp_path / "run"
    assert main(["run", str(RECIPE), SEARCH, budgets, "--out", str(out), "--no-progress"]) == 3
    error = capsys.readouterr().err
    assert "stages.search: best@encoder_params=1%" in error
    assert "stages.search: best@macs=<= 10" in error
    assert "nearest reachable is encoder_params = " in error
    assert not out.exists()
    assert main(["run", str(RECIPE), SEARCH, budgets, "--dry-run"]) == 3


@pytest.mark.slow
def test_check_says_so_where_sizes_are_at_hand_without_weights(capsys):
    recipe = "baselines/uniform-random"
    assert main(["check", recipe, "budgets={encoder_params: [50%, 1%]}"]) == 2
    error = capsys.readouterr().err
    assert "budgets  best@1%: no architecture has encoder_params" in error
    assert "best@50%" not in error
    assert main(["check", recipe, "budgets={}", "stages.search.constraints={macs: '<= 10'}"]) == 2
    assert "stages.search.constraints  best: no architecture has macs" in capsys.readouterr().err
    assert main(["check", recipe, "stages.transform={use: svd, rank: 8}", "budgets={encoder_params: 1%}"]) == 0


def test_the_nearest_value_is_the_smallest_of_all():
    inputs = inputs_of(SEARCH, "budgets={encoder_params: 1%}")
    with pytest.raises(UnsatisfiableError) as caught:
        check_budgets(inputs)
    target = next(targets(inputs))
    smallest = min(target.costs(arch)["encoder_params"] for arch in itertools.islice(target.region.enumerate(), 10**4))
    assert f"encoder_params = {smallest:,.10g}" in str(caught.value)


def test_a_stage_is_checked_with_its_own_bounds_and_its_part_of_the_domain():
    check_budgets(inputs_of(SEARCH, "budgets={encoder_params: 40%}"))
    for change in ("+stages.search.within={layers: [3], heads: [4]}", "+stages.search.constraints={params: 10}"):
        with pytest.raises(UnsatisfiableError):
            check_budgets(inputs_of(SEARCH, "budgets={encoder_params: 40%}", change))


@pytest.mark.parametrize(
    ("stages", "known"),
    [
        (f"[{TRAIN}, {{transform: {{use: rewire}}}}, {{search: {{}}}}]", ["search"]),
        (f"[{TRAIN}, {{transform: {{use: svd, rank: 4}}}}, {{search: {{}}}}]", []),
        (f"[{TRAIN}, {{transform: {{use: svd, rank: 4}}}}, {{search: {{from: trained}}}}]", ["search"]),
        ("[{search: {name: a}}, {transform: {use: svd, rank: 4, save_as: low}}, {train: {max_steps: 1}}, "
         "{search: {name: b, save_as: b}}, {search: {name: c, save_as: c, from: pretrained}}, "
         "{search: {name: d, save_as: d, from: low}}]", ["a", "c"]),
    ],
)  # fmt: skip
def test_a_search_after_a_transform_that_reshapes_is_left_to_itself(stages, known):
    plan = resolve(nf.load_recipe(RECIPE, [f"stages={stages}"]))
    assert [stage.name for stage in searches(plan)] == known


def test_measured_costs_are_left_to_the_search():
    inputs = inputs_of(SEARCH, "budgets={latency: [0.000001ms]}", "+constraints={params: 100%}")
    check_budgets(inputs)
    assert [target.full.keys() for target in targets(inputs)] == [{"params"}]
