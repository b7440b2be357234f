"""Wrong recipes by chance, and the ones that are known to be hard: no crash, no waiting, and the right place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import fuzz
from nasframe.recipe.resolve import check_recipe
from nasframe.recipe.yaml import LARGEST

TOY = fuzz.TOY


@pytest.mark.slow
def test_mutated_recipes_are_refused_at_their_line():
    outcomes = fuzz.run(30, 20, seed=5, sources=(str(TOY),))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    refused = [outcome for outcome in outcomes if outcome.code == 2]
    assert len(refused) > 20
    assert sum(outcome.placed for outcome in refused) >= 0.9 * len(refused)


@pytest.mark.slow
def test_a_thousand_mutated_recipes_are_refused_at_their_line():
    assert fuzz.main(["--recipes", "1000", "--overrides", "500", "--seed", "1"]) == 0


@pytest.mark.parametrize("text", fuzz.WHOLE, ids=lambda text: text[:20])
def test_a_file_that_is_no_recipe_is_refused_at_once(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    began = time.process_time()
    plan, problems = check_recipe("recipe.yaml")
    assert plan is None
    assert problems[0].place.startswith(("recipe.yaml", "/dev/zero"))
    assert time.process_time() - began < 5


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    file = tmp_path / "big.yaml"
    with file.open("wb") as big:
        os.truncate(big.fileno(), 5_000_000)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    (problem,) = check_recipe(file)[1]
    assert (problem.place, f"{LARGEST:,}" in problem.text) == (str(file), True)


def test_files_that_extend_each_other_without_end_are_refused(tmp_path):
    (tmp_path / "f0.yaml").write_text("seed: 1\n")
    for number in range(1, 30):
        lines = f"extends: [{', '.join([f'f{number - 1}.yaml'] * 3)}]\n"
        (tmp_path / f"f{number}.yaml").write_text(lines)
    assert any("files extend each other" in problem.text for problem in check_recipe(tmp_path / "f29.yaml")[1])


@pytest.mark.slow
@pytest.mark.parametrize("times", [10**6, 10**30, 501])
def test_a_repeat_without_end_is_refused(times, tmp_path):
    inner = "[{train: {max_steps: 1}}, {search: {}}]"
    file = tmp_path / "r.yaml"
    file.write_text(f"extends: {TOY}\nstages:\n  - repeat: {{times: {times}, stages: {inner}}}\n", encoding="utf-8")
    problems = check_recipe(file)[1]
    assert (problems[0].place, problems[0].path) == (f"{file}:3:5", "stages.repeat")
    nested = "{repeat: {times: 500, stages: [{repeat: {times: 500, stages: [{search: {}}]}}]}}"
    file.write_text(f"extends: {TOY}\nstages: [{nested}]\n", encoding="utf-8")
    assert check_recipe(file)[1][0].path == "stages.repeat"


@pytest.mark.parametrize(
    "override",
    ["x" * 5000, "a=" + "y" * 5000, ".".join("a" * 3000) + "=1", "budgets=5", "stages=5", "model=~nobody/x", "task=[]",
     "stages.teacher.from=5", "stages.teacher.modifiers=5", "stages.supernet.save_as=[a]", "stages.search.budgets=5",
     "stages.evaluate.costs=[[a]]", "stages.extract.archs=5", "budgets={params: -5}", "constraints={params: 0}",
     "switches.smoke=3", "set.seed=3", "extends=quickstart", "plugins=[/dev/zero]"],
)  # fmt: skip
def test_an_override_of_any_kind_is_a_problem_with_its_place(override):
    places = [problem.place for problem in check_recipe(TOY, [override])[1]]
    assert fuzz.shortened(f"override {override!r}") in places


def test_a_problem_inside_a_list_has_the_item_s_place(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(f"extends: {TOY}\nspace:\n  layers:\n    - [0, 1]\n    - [0, x]\n", encoding="utf-8")
    (problem,) = check_recipe(file)[1]
    assert (problem.place, problem.path) == (f"{file}:5:11", "space.layers.1.1")
    (problem,) = check_recipe(TOY, ["space.heads.1=x"])[1]
    assert problem.place == "override 'space.heads.1=x'"
