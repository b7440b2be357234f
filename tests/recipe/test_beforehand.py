"""Settings that cannot work are refused by every command that reads a recipe, with the modifier's place."""

from __future__ import annotations

from typing import Any

import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.nn.blueprint import blueprint
from nasframe.recipe.beforehand import planned_job, skeleton
from nasframe.recipe.plan import same_shape
from nasframe.recipe.resolution import check_recipe


@pytest.mark.parametrize(
    ("recipe", "change", "place", "words"),
    [
        (
            "nxmiformer/sst2-minilm", "stages.uniform-84.modifiers.2.pattern=2:5", "uniform-84.modifiers.2",
            "pattern 2:5 on 384 inputs: 5 does not divide 384. Expected",
        ),
        ("nxmiformer/sst2-minilm", "stages.uniform-84.keep=best", "uniform-84.modifiers.2", "has keep: best"),
        ("hspg/sst2-minilm", "stages.sparse.keep=best", "sparse.modifiers.0", "has keep: best and may end"),
        ("hspg/sst2-minilm", "stages.sparse.early_stop=2", "sparse.modifiers.0", "has early_stop and may end"),
        ("hspg/sst2-minilm", "+stages.sparse.arch={}", "sparse.modifiers.0", "Expected no 'sampler' and no 'arch'"),
        (
            "hspg/sst2-minilm", "stages.sparse.modifiers.0={use: hesso, units: [heads], target: {ffn: 50%}}",
            "sparse.modifiers.0", "there are no groups 'ffn'. Expected heads",
        ),
        (
            "hspg/sst2-minilm", "stages.sparse.modifiers=[fake_quant, {use: hspg, target: 50%}]",
            "sparse.modifiers.1", "which a parametrised layer does not allow",
        ),
        ("hspg/sst2-minilm", "+stages.sparse.modifiers.2={use: admm}", "sparse.modifiers.0", "n:m comes after"),
        ("hspg/obprox-minilm", "stages.sparse.keep=best", "sparse.modifiers.0", "has keep: best"),
        (
            "slimming/sst2-minilm", "stages.joint.modifiers.0={use: slimming, target: 30%, units: [heads]}",
            "joint.modifiers.0", "30% of encoder_params is out of reach: what has no gate is 66.7%. Expected more",
        ),
        (
            "hspg/sst2-minilm", "+stages.sparse.modifiers.2={use: hesso, target: 50%}",
            "sparse.modifiers.2", "hspg and hesso both answer with an architecture. Expected one such modifier",
        ),
        ("hspg/stacked", "stages.transform={use: svd, rank: 385}", "transform", "rank: 385 for an embedding of (30522"),
        ("hspg/stacked", "stages.transform={use: svd, linears: 1537}", "transform", "rank 1537. Expected 1 to 384"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_work(recipe: str, change: str, place: str, words: str) -> None:
    plan, problems = check_recipe(recipe, [change])
    assert plan is None
    assert [problem.path for problem in problems] == [f"stages.{place}"]
    assert words in str(problems[0])


def test_the_command_says_so_with_the_line(capsys: Any) -> None:
    assert main(["check", "hspg/sst2-minilm", "stages.sparse.keep=best"]) == 2
    assert "_minilm.yaml:17:11  stages.sparse.modifiers.0  hspg: stage 'sparse'" in capsys.readouterr().err


def test_sizes_are_the_models_own_or_not_known() -> None:
    plan = nf.resolve(nf.load_recipe("hspg/stacked"))
    known = [stage.name for stage in same_shape(plan)]
    assert known == ["teacher", "transform", "sparse", "extract", "tune"]
    net = skeleton(plan)
    assert net is not None
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
    assert blueprint(net)["layers"] == [{"heads": 12, "ffn": 1536}] * 6
    tuned = next(stage for stage in plan.stages if stage.name == "tune")
    assert planned_job(plan, tuned, [], None).total == 240


def test_a_model_that_is_not_at_hand_is_not_fetched() -> None:
    plan, problems = check_recipe("hspg/sst2", ["model={use: hf, path: nobody/nothing}"])
    assert (problems, plan and skeleton(plan)) == ([], None)
    assert check_recipe("hspg/sst2", ["stages.sparse.keep=best"])[0] is None  # what needs no sizes is still told
