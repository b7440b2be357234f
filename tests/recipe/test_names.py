"""Names that users choose are plain names of files, and units measure what they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasframe.errors import RecipeError, UsageError
from nasframe.folders import model_folder
from nasframe.recipe.names import name_fault
from nasframe.recipe.resolve import check_recipe
from nasframe_deploy.request import read_request
from nasframe_studies.file import load_study

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
WRONG = ["", ".", "..", "../up", "/tmp/x", "a/b", "a\\b", "con", "NUL.txt", "com1", "-x", " a", "a\n", "x" * 101, "a."]
NETWORKS = ["pretrained", "random", "search.net"]


def places(*overrides: str) -> list[str]:
    plan, problems = check_recipe(TOY, overrides)
    assert plan is None or not problems
    return [problem.path for problem in problems]


def quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace("\n", "\\n") + '"'


@pytest.mark.parametrize("name", WRONG)
def test_no_run_stage_network_or_architecture_leads_out_of_its_folder(name):
    text = quoted(name)
    assert "name" in places(f"name={text}")
    assert any(path.endswith(".name") for path in places(f"stages.search.name={text}"))
    assert any(path.endswith(".save_as") for path in places(f"stages.teacher.save_as={text}"))
    assert any(path.startswith("stages.extract.archs.") for path in places(f"stages.extract.archs={{{text}: best}}"))
    if name:
        assert any(path.startswith("estimators.") for path in places(f"estimators={{{text}: {{use: params}}}}"))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_every_run_has_are_not_saved_again(name):
    assert any(path.endswith(".save_as") for path in places(f"stages.teacher.save_as={name}"))
    assert places(f"name={name}") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRONG if name])
def test_nor_does_a_study_an_arm_or_a_task(name, tmp_path):
    text = quoted(name)
    for line in (
        f"study: {text}\narms: {{a: {{}}}}", f"arms: {{{text}: {{}}}}", f"arms: {{a: {{}}}}\ntasks: {{{text}: {{}}}}"
    ):  # fmt: skip
        file = tmp_path / "study.yaml"
        file.write_text(f"base: {TOY}\nseeds: [0]\n{line}\n", encoding="utf-8")
        with pytest.raises(RecipeError, match="cannot name files"):
            load_study(file)


@given(st.text(max_size=120))
def test_a_name_without_fault_is_one_part_of_a_path(name):
    for rich in (False, True):
        if not name_fault(name, rich=rich):
            assert Path(name).name == name
            assert name not in (".", "..")
            assert name.isprintable()


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ""])
def test_a_name_that_a_plugin_gives_does_not_either(name):
    with pytest.raises(UsageError, match="cannot name a model's folder"):
        model_folder(Path("run"), name)


# ---- units


@pytest.mark.parametrize(
    ("bound", "place"),
    [
        ("budgets={latency: 12MB}", "budgets.latency"), ("budgets={params: 12ms}", "budgets.params"),
        ("budgets={params: [50%, 1B]}", "budgets.params.1"), ("constraints={size: '<=3s'}", "constraints.size"),
        ("constraints={latency: '>= 1k'}", "constraints.latency"), ("budgets={bits: 4KiB}", "budgets.bits"),
        ("stages.search.budgets={macs: 1us}", "stages.search.budgets.macs"),
        ("budgets={fast: 12MB}", "budgets.fast"), ("budgets={params: [50%, 50%]}", "budgets.params"),
        ('budgets={params: "0.' + "0" * 300 + '1"}', "budgets.params"),
        ('budgets={params: "50%\\n"}', "budgets.params"),
    ],
)  # fmt: skip
def test_a_unit_must_measure_its_cost(bound, place):
    assert places("~stages.tuned", "+estimators.fast={use: latency, length: 12}", bound) == [place]


@pytest.mark.parametrize(
    "bound",
    [
        "budgets={latency: [12ms, 0.2s, 900us, 5, 50%]}", "constraints={size: '<= 300MB'}", "constraints={size: 3M}",
        "budgets={params: ['>= 1k, <= 66M', 1.2G, 40000]}", "budgets={bits: 12M}",
    ],
)  # fmt: skip
def test_units_that_do_are_taken(bound):
    assert places("~stages.tuned", bound) == []


def test_a_deployment_is_asked_in_units_of_its_costs():
    plan, _ = check_recipe(TOY)
    assert plan is not None
    with pytest.raises(UsageError) as caught:
        read_request(plan, ["latency<=12MB", "params<=12ms"], ["size=3s,5MB"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["[sst2]", "{a: 1}"])
def test_a_task_whose_options_do_not_fit_is_not_asked_what_it_measures(name):
    _, problems = check_recipe("baselines/uniform-evolution", [f"task.name={name}"])
    assert "task.name" in [problem.path for problem in problems]


def test_a_reserved_name_is_one_problem():
    assert places("stages.supernet.save_as=random") == ["stages.supernet.save_as"]
