"""Studies: their table of results, how they are written, what they refuse, how they run."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import RecipeError, UsageError
from nasframe.recipe.loading import packaged_recipes
from nasframe.recipe.yaml import Position, dump, parse
from nasframe.running.cache_keys import digest
from nasframe.store import RunStore
from nasframe.testing.toy import ToyTask
from nasframe_studies import metric_check, study, workers
from nasframe_studies.file import label
from nasframe_studies.preview import preview
from nasframe_studies.settings import StudyRun, write_settings
from run_directory import make_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study of two arms and three seeds, of which one arm lacks the last."""
    home = tmp_path_factory.mktemp("study")
    runs = [
        {"arm": arm, "task": "docs", "seed": seed, "run": f"runs/{arm}/seed-{seed}"} for arm in "ab" for seed in (0, 1)
    ]
    for run in runs:
        make_run(home / run["run"], trials=12)
    runs.append({"arm": "b", "task": "docs", "seed": 2, "run": "runs/b/seed-2"})
    make_run(home / "runs/b/seed-2", trials=4, finished=False)
    facts = {"format_version": 1, "study": "x", "compare": {"metric": None, "split": "dev"}, "runs": runs}
    (home / "study.yaml").write_text(dump(facts))
    return home


@pytest.mark.slow
def test_the_table_of_a_study_has_a_row_for_each_model_of_each_finished_run(results):
    frame = study.collect(results)
    assert list(frame.columns[: len(study.FACTS)]) == list(study.FACTS)
    assert len(frame) == 4 * 8
    assert frame[["arm", "seed"]].drop_duplicates().values.tolist() == [["a", 0], ["a", 1], ["b", 0], ["b", 1]]
    row = frame[(frame["model"] == "best@50%") & (frame["arm"] == "a") & (frame["seed"] == 0)].iloc[0]
    assert (row["role"], row["budget"], row["metric"], row["score"]) == ("winner", "50%", "accuracy", 0.583)
    assert row["encoder_params_relative"] == pytest.approx(row["encoder_params"] / frame["encoder_params"].max())
    assert row["training_macs"] == 420 * 18e9 + 1.6e12
    assert row["training_and_search_macs"] == row["training_macs"] + 3.1e12
    assert (row["evaluations"], row["cached_stages"], row["cached_seconds"]) == (12, "", 0)
    assert [run.seed for run in study.missing(study.settings(results), frame)] == [2]


def test_a_metric_that_no_model_has_leaves_no_rows(results):
    assert study.run_rows(results / "runs/a/seed-0", "mcc") == []
    assert study.run_rows(results / "runs/a/seed-0", split="select") == []
    assert study.run_rows(results / "runs/a/seed-0", "macro_f1")[0]["score"] == pytest.approx(0.614)


def test_a_directory_without_a_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        study.collect(tmp_path)


# ---- as written

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
STUDY = """\
study: toy
base: {toy}
arms:
  evolution: {{}}
  random: {{stages.search.sampler: {{use: random}}}}
  wider: {{stages: {{search: {{sampler: {{population: 5}}, trials: 9}}}}}}
seeds: [0, 1]
compare: {{metric: accuracy, against: random}}
smoke: {{seeds: [3], stages.search.trials: 2}}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, **names: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text.format(toy=TOY, **names))
        return path

    return write


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        study.load_study(path, overrides)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def test_arms_change_the_base_as_a_recipe_changes_what_it_extends(write):
    found = study.load_study(write(STUDY), ["stages.search.examples=4"])
    searches = {arm: plan.stages[3].options for (arm, _), plan in found.plans.items()}
    assert searches["evolution"]["sampler"]["use"] == searches["wider"]["sampler"]["use"] == "evolution"
    assert searches["random"]["sampler"]["use"] == "random"
    assert "population" not in searches["random"]["sampler"]
    assert (searches["wider"]["sampler"]["population"], searches["wider"]["trials"]) == (5, 9)
    assert {options["examples"] for options in searches.values()} == {4}
    assert found.arms["wider"]["changes"] == {"stages.search.sampler": {"population": 5}, "stages.search.trials": 9}
    runs = [(run.arm, run.seed, run.run, plan.seed) for run, plan in found.runs()]
    assert runs[0] == ("evolution", 0, "runs/evolution/seed-0", 0)
    assert runs[-1] == ("wider", 1, "runs/wider/seed-1", 1)
    assert len(runs) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.startswith("studies/")])
def test_smoke_makes_every_training_of_a_packaged_study_small(name):
    """A task's switch (mrpc: true) says how long to train; so does smoke, and smoke is meant."""
    plans = study.load_study(name, smoke=True).plans.values()
    steps = [stage.options["options"].max_steps for plan in plans for stage in plan.stages if stage.verb == "train"]
    assert steps
    assert all(n is not None and n <= 20 for n in steps)


def test_smoke_and_overrides_of_the_study_itself(write):
    found = study.load_study(write(STUDY), smoke=True)
    assert found.seeds == [3]
    assert {plan.stages[3].options["trials"] for plan in found.plans.values()} == {2}
    assert study.load_study(write(STUDY), ["seeds=[7]"], smoke=True).seeds == [7]
    found = study.load_study(write(STUDY), ["seeds=[7]", "compare.against=wider"])
    assert (found.seeds, found.compare.against) == ([7], "wider")


def test_axes_make_arms_of_their_product(write):
    axes = "stages.search.sampler.use: [random, evolution], stages.search.trials: [4, 8]"
    text = "base: {toy}\naxes: {{" + axes + "}}\nseeds: [0]\n"
    found = study.load_study(write(text))
    assert list(found.arms) == ["random,trials=4", "random,trials=8", "evolution,trials=4", "evolution,trials=8"]
    assert found.plans["evolution,trials=8", ""].stages[3].options["trials"] == 8
    assert (found.name, found.compare.against) == ("study", "random,trials=4")


def test_tasks_multiply_arms_and_an_arm_may_differ_on_one(write):
    text = (
        "base: {toy}\narms:\n  a: {{}}\n"
        "  b: {{stages.teacher.max_steps: 2, tasks: {{small: {{stages.teacher.max_steps: 3}}}}}}\n"
        "tasks: {{small: {{task.train: 32}}, large: {{task.train: 64}}}}\nseeds: [0]\n"
    )
    found = study.load_study(write(text))
    steps = {place: plan.stages[0].options["options"].max_steps for place, plan in found.plans.items()}
    assert steps == {("a", "small"): 6, ("a", "large"): 6, ("b", "small"): 3, ("b", "large"): 2}
    assert found.plans["a", "small"].task["train"] == 32
    assert next(run.run for run, _ in found.runs()) == "runs/a/small/seed-0"
    assert [run.task for run, _ in found.runs()][:2] == ["small", "large"]


def test_budgets_of_the_comparison_are_those_of_the_recipes(write):
    text = STUDY.replace("against: random", 'against: random, budgets: {{encoder_params: ["75%"]}}')
    found = study.load_study(write(text))
    assert {str(plan.budgets) for plan in found.plans.values()} == {"{'encoder_params': ['75%']}"}


@pytest.mark.slow
def test_an_arm_may_have_a_base_of_its_own(write):
    text = "arms:\n  a: {{base: {toy}}}\n  b: {{base: quickstart, smoke: true}}\nseeds: [0]\n"
    found = study.load_study(write(text))
    assert found.plans["b", ""].model["use"] == "minilm-l6"
    assert found.plans["b", ""].stages[0].options["options"].max_steps == 3


def test_every_problem_of_a_study_is_told_at_once_with_its_place(write):
    path = write(
        "base: {toy}\n"
        "arms:\n"
        "  evolution: {{stages.serach.trials: 4}}\n"
        "  random: {{stages.search.samplr: random, space: {{haeds: [1]}}}}\n"
        "seed: [0, 1]\n"
        "seeds: [0, 1, 1]\n"
        "compare: {{metrc: accuracy, against: randm, split: test}}\n"
    )
    found = problems(path, "task.trian=4")
    assert [text.split("  ")[0] for text in found] == [
        "3:15", "4:12", "4:50", "5:1", "6:1", "7:11", "7:28", "7:44", "override 'task.trian=4'",
    ]  # fmt: skip
    for text, word in zip(
        found, ["search", "sampler", "heads", "seeds", "", "metric", "random", "dev", "train"], strict=True
    ):
        assert word in text.partition("Expected")[2] + text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arms: {{a: {{}}}}\nseeds: [0]\n", "missing. Expected 'base: RECIPE'"),
        ("base: nowhere.yaml\narms: {{a: {{}}}}\nseeds: [0]\n", "1:1  base  no such recipe 'nowhere.yaml'"),
        ("base: {toy}\nseeds: [0]\n", "either 'arms:' or 'axes:'"),
        ("base: {toy}\narms: {{a: {{}}}}\naxes: {{seed: [1]}}\nseeds: [0]\n", "either 'arms:' or 'axes:'"),
        ("base: {toy}\narms: {{a: {{}}}}\n", "seeds  None does not fit"),
        ("base: {toy}\narms: {{a: {{}}}}\nseeds: [0.5]\n", "[0.5] does not fit"),
        ("base: {toy}\narms: {{a/b: {{}}}}\nseeds: [0]\n", "'a/b' cannot name files"),
        ("base: {toy}\narms: {{a: 3}}\nseeds: [0]\n", "arms.a  3 does not fit"),
        ("base: {toy}\narms: [a]\nseeds: [0]\n", "['a'] does not fit"),
        ("base: {toy}\naxes: {{stages.search.trials: 4}}\nseeds: [0]\n", "4 does not fit. Expected a list"),
        ("base: {toy}\narms: {{a: {{tasks: {{x: {{}}}}}}}}\nseeds: [0]\n", "no task 'x'"),
        ("- a\n", "no study"),
        ("a: [\n", "not YAML"),
    ],
)
def test_what_a_study_may_not_say(write, text, expected):
    assert any(expected in problem for problem in problems(write(text)))


def test_arms_that_would_run_the_same_are_refused(write):
    """Unset options keep their values, so that naming the plugin again changes nothing."""
    path = write(STUDY.replace("sampler: {{use: random}}", "sampler: {{use: evolution}}"))
    [found] = problems(path)
    assert found.startswith("5:3  arms.random  the same recipe as arm 'evolution'. Expected arms that differ")
    assert study.load_study(path, smoke=True).plans  # there the lengths that tell arms apart may be equal


def test_an_axis_names_its_arms_by_their_values(write):
    axes = "stages.search.sampler: [{{use: random}}, evolution], space.heads: [[1, 4], [4]]"
    text = "base: {toy}\naxes: {{" + axes + "}}\nseeds: [0]\n"
    assert list(study.load_study(write(text)).arms) == [
        "sampler=random,heads=1+4", "sampler=random,heads=4",
        "sampler=evolution,heads=1+4", "sampler=evolution,heads=4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("-1", "-1"), ("1", "1"), ("<5", "lt5"), ("'>= 40M, <= 66M'", "gte40M-lte66M"), ("best@50%", "best@50%"),
        ("'../x'", "..-x"), ("'- x -'", "x"), ("[-1, 4]", "-1+4"), ("[1, 2, 3, 4, 5]", "7"), ("{a: 1}", "7"),
    ],
)  # fmt: skip
def test_the_name_of_a_value_keeps_what_tells_it_apart(value, name):
    node, _ = parse(value, Position("x"))
    assert label("stages.search.option", node, 7) == f"option={name}"


def test_a_mistyped_study_or_base_is_told_with_the_packaged_ones(write):
    with pytest.raises(RecipeError, match=r"studies/sampler .*Did you mean 'studies/samplers'\?"):
        study.load_study("studies/sampler")
    (text,) = problems(write("base: recipes/quikstart.yaml\narms: {{a: {{}}}}\nseeds: [0]\n"))
    assert text.endswith("Did you mean 'quickstart'?")


NAMED = """\
base: {toy}
{arms}
tasks: {{sst2: {{}}, mrpc: {{task.train: 32}}}}
seeds: [0]
"""
ARMS = "arms: {random: {stages.search.sampler: random}, sng-0.5: {}}"
AXES = "axes: {stages.search.trials: [2, 4], stages.search.sampler: [random]}"


@pytest.mark.parametrize(
    ("arms", "override", "expected"),
    [
        (ARMS, "arms.randm.stages.search.trials=5", "arms.randm  no arm 'randm'. Arms: random, sng-0.5. Did you mean"),
        (ARMS, "arms.randm={}", "Did you mean 'random'? To add it write '+arms.randm={}'."),
        (ARMS, "tasks.mrcp.task.train=16", "tasks.mrcp  no task 'mrcp'. Tasks: mrpc, sst2. Did you mean 'mrpc'?"),
        (AXES, "axes.stages.search.trails=[5]", "no axis 'stages.search.trails'. Axes: stages.search.sampler, stages."),
        (ARMS, "~arms.randm", "there is no 'randm' to take away. Did you mean 'random'?"),
        (ARMS, "+arms.random={}", "'random' exists already. To change it, leave out the '+'."),
    ],
)
def test_an_override_of_what_is_not_there_adds_nothing_unasked(write, arms, override, expected):
    (text,) = problems(write(NAMED, arms=arms), override)
    assert text.startswith(f"override {override!r}")
    assert expected in text


def test_overrides_reach_arms_tasks_and_axes_and_add_them_with_a_plus(write):
    path = write(NAMED, arms=ARMS)
    overrides = [
        "arms.random.stages.search.trials=5",
        "arms.sng-0.5.stages.search.trials=6",
        "tasks.mrpc.task.train=16",
    ]
    found = study.load_study(path, [*overrides, "+arms.wide.space.heads=[4]", "arms.wide.stages.search.trials=7"])
    trials = {arm: plan.stages[3].options["trials"] for (arm, _), plan in found.plans.items()}
    assert trials == {"random": 5, "sng-0.5": 6, "wide": 7}
    assert found.plans["wide", "mrpc"].task["train"] == 16
    path = write(NAMED, arms=AXES)
    assert list(study.load_study(path, ["axes.stages.search.trials=[3]"]).arms) == ["trials=3,sampler=random"]
    assert list(
        study.load_study(path, ["+axes.space.depth=[1]", "~axes.space.depth", "~axes.stages.search.trials"]).arms
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("split: select", "8:11  compare.split  no stage evaluates 'select' in evolution, random, wider."),
        ("split: select", "in 'evaluate: {split: select}'. Evaluated splits: dev."),
        ('models: ["best@*", "tunde"]', "8:30  compare.models.1  no model 'tunde' on 'dev'. Models: best@40%, best"),
        ('models: ["supernt"]', "Did you mean 'supernet'?"),
        (
            "family: pages",
            "8:11  compare.family  'pages' does not fit. Expected one of page, task. Did you mean 'page'?",
        ),
    ],
)
def test_what_no_run_will_measure_is_not_compared(write, changes, expected):
    (text,) = problems(write(STUDY.replace("metric: accuracy, against: random", changes)))
    assert expected in text


GROUPED = """
base: {toy}
arms: {{a: {{}}, b: {{stages.search.trials: 3}}}}
tasks: {{x-1: {{}}, x-2: {{}}, y-1: {{}}}}
seeds: [0]
compare: {{groups: {groups}}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("[a]", "compare.groups  ['a'] does not fit. Expected name: [patterns of tasks]."),
        ("{all: x-*}", "compare.groups.all  'x-*' does not fit. Expected a list of patterns of tasks."),
        ("{all: [xx-1]}", "compare.groups.all  no task 'xx-1'. Tasks: x-1, x-2, y-1. Did you mean 'x-1'?"),
        (
            '{x: ["x-*"], one: ["*-1"]}',
            "compare.groups.one  task 'x-1' is in 'x' already. Expected each task in one group.",
        ),
    ],
)
def test_groups_are_of_tasks_that_are_there_once_each(write, groups, expected):
    (found,) = problems(write(GROUPED, groups=groups))
    assert expected in found
    assert study.load_study(write(GROUPED, groups='{x: ["x-*"], y: [y-1]}')).compare.groups["y"] == ["y-1"]


def test_models_that_a_single_arm_measures_are_known(write):
    text = STUDY.replace(
        "evolution: {{}}", "evolution: {{stages.extract.archs: {{sparse: best@40%}}, stages.tuned.from: sparse}}"
    )
    path = write(text.replace("metric: accuracy", 'models: ["sparse", "best@4*", "teacher"]'))
    assert study.load_study(path).compare.models[0] == "sparse"


def test_a_metric_that_no_task_has_is_told_before_any_work(write, tmp_path):
    path = write(STUDY.replace("metric: accuracy", "metric: acuracy"))
    text = r"compare.metric: task 'toy' has no metric 'acuracy' on 'dev'. Metrics: accuracy. Did you mean 'accuracy'\?"
    with pytest.raises(UsageError, match=text):
        study.begin(study.load_study(path), tmp_path / "out", tmp_path / "cache")
    with pytest.raises(UsageError, match=text):
        preview(study.load_study(path), tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_the_usual_metric_of_a_task_is_known_without_its_data(monkeypatch):
    """A study begins in a second: reading data and importing transformers would take most of its start."""
    from nasframe.stages import inputs

    def loaded(*arguments):
        raise AssertionError("data are read")

    monkeypatch.setattr(inputs, "RunInputs", loaded)
    plan = nf.resolve(nf.load_recipe("quickstart"))
    assert metric_check._metrics(plan, "accuracy", "dev") == ["accuracy"]
    with pytest.raises(AssertionError, match="data are read"):
        metric_check._metrics(plan, "macro_f1", "dev")


def test_arms_whose_primary_metrics_differ_are_refused_before_any_work(write, tmp_path, monkeypatch):
    class Varying:
        """The first metric of the toy task depends on how much it trains on."""

        def __get__(self, task, _):
            return "accuracy" if task is None or task.sizes["train"] < 40 else "f1"

    path = write(STUDY.replace("metric: accuracy, ", "").replace("evolution: {{}}", "evolution: {{task.train: 32}}"))
    monkeypatch.setattr(ToyTask, "primary", Varying())
    text = (
        r"compare.metric: toy: the arms are scored by different metrics: accuracy \(evolution\), f1 \(random, wider\)"
    )
    with pytest.raises(UsageError, match=text):
        study.begin(study.load_study(path), tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "out").exists()


# ---- as it runs

SMALL = """\
study: small
base: {toy}
arms:
  evolution: {{}}
  random: {{stages.search.sampler: {{use: random}}}}
  {third}
seeds: [0, 1]
compare: {{metric: accuracy}}
"""
QUICK = [
    "task.train=32", "stages.teacher.max_steps=2", "stages.supernet.max_steps=1", "stages.search.trials=4",
    "~stages.tuned", "~stages.transform",
]  # fmt: skip


def small(write, third: str = "") -> study.Study:
    return study.load_study(write(SMALL, third=third), QUICK)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study as ``nasframe ablate`` runs it, and what was said meanwhile."""
    home, said = tmp_path_factory.mktemp("ran"), []
    (home / "study.yaml").write_text(SMALL.format(toy=TOY, third=""))
    loaded = study.load_study(home / "study.yaml", QUICK)
    study.ablate(loaded, out=home / "out", cache=home / "cache", say=said.append)
    return home, said


def stable(directory: Path) -> str:
    """The table that does not depend on how a study went."""
    frame = study.collect(directory)
    return frame[[name for name in frame if not study.volatile(name)]].to_csv()


def test_a_study_runs_each_distinct_stage_once_and_writes_its_pages(ran):
    home, said = ran
    assert len(said) == 5
    assert said[-1].startswith("stages.search.sampler: its first 16 proposals are random")
    assert "2 of 5 stages from the cache" in said[1]
    frame = study.collect(home / "out")
    assert set(frame["cached_stages"]) == {"", "teacher supernet"}
    assert (frame[frame["cached_stages"] != ""]["cached_seconds"] > 0).all()
    for name in ("study.csv", "study.html", "study.json", "study.yaml"):
        assert (home / "out" / name).is_file()
    assert not list((home / "out").rglob("report.html"))
    builds = [key for run in (home / "out" / "runs").glob("*/*") for key in built(run)]
    assert len(builds) == len(set(builds)) == 2 * (2 + 2 * 3)


def built(run: Path) -> list[str]:
    """The keys of the stages that a run did itself."""
    store = RunStore(run, shared=True)
    rows = store.db.execute("SELECT name, result FROM stage").fetchall()
    found = [digest(store.get(f"key {name}")) for name, result in rows if '"cached"' not in result]
    store.close()
    return found


@pytest.mark.slow
def test_a_run_of_a_study_is_the_run_that_its_recipe_makes(ran, tmp_path):
    home, _ = ran
    arm = home / "out" / "runs" / "random" / "seed-1"
    run = nf.run(nf.load_recipe(arm / "recipe.yaml", base=TOY.parent), out=tmp_path / "run", report=False)
    mine, its = study.run_rows(run.directory), study.run_rows(arm)
    names = [name for name in mine[0] if not study.volatile(name)]
    assert [[row[name] for name in names] for row in mine] == [[row[name] for name in names] for row in its]


def test_arms_of_a_seed_share_their_random_numbers(ran):
    """The super-network, its training and what a uniform sampler draws are the arms' in common, whatever is cached."""
    home, _ = ran
    stores = [RunStore(home / "out" / "runs" / arm / "seed-0", shared=True) for arm in ("evolution", "random")]
    losses = [s.db.execute("SELECT stage, step, name, value FROM metric ORDER BY 1, 2, 3").fetchall() for s in stores]
    assert losses[0] == losses[1] != []
    for store in stores:
        store.close()


@pytest.mark.slow
def test_streams_are_common_without_a_cache_too(tmp_path):
    """Two arms that differ before and after the stage: data order, initial weights, dropout noise, architectures."""
    changes = {"a": [], "b": ["stages.search.sampler=random", "stages.search.trials=3", "budgets.encoder_params=60%"]}
    found = {}
    for arm, more in changes.items():
        recipe = nf.load_recipe(TOY, [*QUICK, "stages.supernet.sampler=random", "stages.supernet.max_steps=3", *more])
        run = nf.run(recipe, out=tmp_path / arm, report=False)
        store = RunStore(run.directory, shared=True)
        rows = store.db.execute("SELECT * FROM metric WHERE stage IN ('teacher', 'supernet')").fetchall()
        archs = store.db.execute("SELECT arch_id FROM trial WHERE stage = 'supernet' ORDER BY number").fetchall()
        store.close()
        weights = [(run.models[name] / "model.safetensors").read_bytes() for name in ("teacher", "supernet")]
        found[arm] = (rows, archs, weights)
    assert found["a"] == found["b"]


@pytest.mark.slow
def test_a_failing_arm_leaves_the_others_and_is_told(write, tmp_path):
    said: list[str] = []
    third = 'broken: {stages.search.constraints: {encoder_params: "< 1"}, stages.search.sampler: random}'
    loaded = small(write, third)
    home = study.begin(loaded, tmp_path / "out", tmp_path / "cache")
    failures = study.go_on(home, say=said.append)
    assert [(failure.run.arm, failure.run.seed) for failure in failures] == [("broken", 0), ("broken", 1)]
    assert "encoder_params" in failures[0].error
    assert sum("FAILED" in text for text in said) == 2
    assert f"--resume {home}" in said[-1]
    frame = study.collect(home)
    assert set(frame["arm"]) == {"evolution", "random"}
    assert [run.arm for run in study.missing(study.settings(home), frame)] == ["broken", "broken"]


@pytest.mark.slow
def test_a_run_whose_directory_is_gone_begins_anew(ran, tmp_path):
    home = tmp_path / "out"
    shutil.copytree(ran[0] / "out", home)
    before, recipe = stable(home), (home / "runs/random/seed-1/recipe.yaml").read_text()
    shutil.rmtree(home / "runs" / "random" / "seed-1")
    assert study.go_on(home) == []
    assert stable(home) == before
    assert (home / "runs/random/seed-1/recipe.yaml").read_text() == recipe


@pytest.mark.slow
def test_a_run_that_cannot_begin_anew_leaves_the_others(ran, tmp_path):
    home, said = tmp_path / "out", []
    shutil.copytree(ran[0] / "out", home)
    for gone in ("runs/random/seed-1", "runs/evolution/seed-0"):
        shutil.rmtree(home / gone)
    (home / "recipes" / "random.yaml").unlink()
    (failure,) = study.go_on(home, say=said.append)
    assert (failure.run.arm, failure.run.seed) == ("random", 1)
    assert "no recipe to make it from" in failure.error
    assert said[0].startswith("random seed 1: FAILED, the others go on")
    assert len(study.collect(home)["run"].unique()) == 3
    assert "| random | toy | 1 | its run directory is gone" in (home / "study.md").read_text()


@pytest.mark.slow
def test_notices_of_runs_are_printed_once_when_a_study_ends(ran, tmp_path, capsys):
    home = tmp_path / "out"
    shutil.copytree(ran[0] / "out", home)
    for run in study.settings(home).runs:
        texts = ["The head is new.", *(["Texts are cut."] if run.arm == "random" else [])]
        store = RunStore(home / run.run)
        store.put("notices", [{"place": "model", "text": text} for text in texts])
        store.close()
    assert main(["ablate", "--resume", str(home)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("model: The head is new. (all arms)") == 1
    assert shown.err.count("model: Texts are cut. (random)") == 1
    assert "The head is new" not in shown.out
    assert "model: Texts are cut. (random)" in (home / "study.html").read_text()
    assert main(["compare", str(home)]) == 0
    assert "Texts are cut. (random)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_dies_leaves_its_reason_in_the_run(ran, tmp_path):
    home = tmp_path / "out"
    shutil.copytree(ran[0] / "out", home)
    place = home / "runs/random/seed-1"
    store = RunStore(place)
    store.put("finished", False)
    store.start_stage("search", 2, "search")
    store.close()
    study.keep_failure(place, "its process was killed (SIGKILL), perhaps for want of memory")
    study.keep_failure(place, "a later reason does not replace it")
    study.report(home, print)
    assert "failed in search: its process was killed (SIGKILL)" in (home / "study.md").read_text()


@pytest.mark.slow
def test_a_killed_process_costs_its_run_alone(write, tmp_path):
    plugin = tmp_path / "deadly.py"
    plugin.write_text(DEADLY)
    plugins = [str(TOY.parent.parent / "toy_plugin.py"), str(plugin)]
    loaded = small(write, f"deadly: {{plugins: {plugins}, stages.search.sampler: {{use: deadly}}}}")
    home = study.begin(loaded, tmp_path / "out", tmp_path / "cache", jobs=2)
    failures = study.go_on(home)
    assert [(failure.run.arm, failure.run.seed) for failure in failures] == [("deadly", 0), ("deadly", 1)]
    assert "SIGKILL" in failures[0].error
    assert "failed in search: its process was killed (SIGKILL)" in (home / "study.md").read_text()
    assert set(study.collect(home)["arm"]) == {"evolution", "random"}
    plugin.write_text(DEADLY.replace("os.kill", "print"))
    assert study.go_on(home) == []
    assert set(study.collect(home)["arm"]) == {"evolution", "random", "deadly"}


DEADLY = """
import functools, os, signal
from nasframe import hookimpl

def deadly(domain, seed=0):
    from nasframe.registry import make
    sampler = make("sampler", "random", domain=domain, seed=seed)
    ask = sampler.ask

    @functools.wraps(ask)
    def deadly_ask(*args, **options):  # not when the sampler is made, which a run does before its first stage, too
        os.kill(os.getpid(), signal.SIGKILL)
        return ask(*args, **options)

    sampler.ask = deadly_ask
    return sampler

@hookimpl
def register_samplers(register):
    register("deadly", deadly)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (
            {"metric": "acuracy"},
            "No metric 'acuracy'. Metrics: accuracy. Did you mean 'accuracy'? To compare something",
        ),
        ({"models": ["bets@75%"]}, "No model 'bets@75%'. Models: best@40%, best@75%, "),
        ({"split": "train"}, "nothing to compare on 'train'."),
    ],
)
def test_a_study_with_nothing_to_compare_says_what_there_is(ran, tmp_path, capsys, wanted, expected):
    home = tmp_path / "out"
    shutil.copytree(ran[0] / "out", home)
    for page in home.glob("study.[hj]*"):
        page.unlink()
    facts = study.settings(home)
    write_settings(home, replace(facts, compare=replace(facts.compare, **wanted)))
    assert main(["ablate", "--resume", str(home)]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_goes_on_with_its_threads_and_as_it_began(ran, tmp_path):
    home, source, said = tmp_path / "out", ran[0] / "study.yaml", []
    shutil.copytree(ran[0] / "out", home)
    facts = study.settings(home)
    assert facts.threads == torch.get_num_threads()
    study.go_on(home, say=said.append)
    assert said == []
    write_settings(home, replace(facts, source=str(tmp_path / "study.yaml")))
    (tmp_path / "study.yaml").write_text(source.read_text() + "# more\n")
    study.go_on(home, say=said.append)
    assert said == [f"{tmp_path / 'study.yaml'}: changed since; the study goes on as it began."]


def test_a_study_is_never_overwritten(ran, write):
    home, _ = ran
    with pytest.raises(UsageError, match=r"never overwritten.*--resume"):
        study.begin(small(write), home / "out")


def test_two_processes_never_work_on_one_study(ran):
    home, _ = ran
    with FileLock(home / "out" / ".lock"), pytest.raises(UsageError, match="another process"):
        study.go_on(home / "out")


@pytest.mark.slow
def test_going_on_with_a_finished_study_writes_the_same_table(ran):
    home, _ = ran
    before = (home / "out" / "study.csv").read_bytes()
    assert study.go_on(home / "out") == []
    assert (home / "out" / "study.csv").read_bytes() == before


@pytest.mark.slow
def test_a_second_study_comes_whole_from_the_cache(ran, tmp_path):
    home, _ = ran
    said: list[str] = []
    loaded = study.load_study(home / "study.yaml", QUICK)
    study.ablate(loaded, out=tmp_path / "again", cache=home / "cache", say=said.append)
    assert all("5 of 5 stages from the cache" in text for text in said)
    assert stable(tmp_path / "again") == stable(home / "out")


def test_models_of_a_study_are_kept_once(ran):
    """Built here or taken from the cache, a model is the cache's own file, and read-only."""
    home, _ = ran
    files = [path.stat() for path in home.glob("out/runs/**/models/**/*.safetensors")]
    kept = {path.stat().st_ino for path in (home / "cache" / "blobs").rglob("*")}
    assert files
    assert {file.st_ino for file in files} <= kept
    assert {file.st_mode & 0o222 for file in files} == {0}


@pytest.mark.slow
def test_the_preview_knows_what_is_cached_and_shared(ran, tmp_path):
    home, _ = ran
    loaded = study.load_study(home / "study.yaml", QUICK)
    fresh = preview(loaded, tmp_path / "empty")
    counts = {(row.arm, row.name): (row.run, row.shared, row.cached) for row in fresh.stages}
    assert counts["evolution", "teacher"] == (2, 0, 0)
    assert counts["random", "teacher"] == (0, 2, 0)
    assert counts["random", "search"] == (2, 0, 0)
    assert fresh.stages_to_run == 2 * (2 + 2 * 3)
    assert fresh.seconds > 0
    assert fresh.arms[0].costs["encoder_params"]["smallest"] > 0
    nf.run(nf.load_recipe(TOY, QUICK), out=tmp_path / "run", cache=tmp_path / "cache", report=False)
    plain = preview(loaded, tmp_path / "cache").plain()
    rows = {(row["arm"], row["name"]): row for row in plain["stages"]}
    assert [rows["evolution", "teacher"][how] for how in ("run", "shared", "cached")] == [1, 0, 1]
    assert [rows["random", "teacher"][how] for how in ("run", "shared", "cached")] == [0, 1, 1]
    assert rows["random", "teacher"]["seeds"] == {"kept": [], "run": [], "shared": [1], "cached": [0]}
    assert [rows["evolution", "evaluate"][how] for how in ("run", "shared", "cached")] == [1, 0, 1]
    assert [rows["random", "search"][how] for how in ("run", "shared", "cached")] == [2, 0, 0]


def start(directory: Path, cache: Path, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nasframe", "ablate", str(path), "--out", str(directory), "--cache", str(cache)]
    return subprocess.Popen([*command, *QUICK], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_twenty_kills_of_a_study_change_nothing(ran, tmp_path):
    """Kill a study at random moments, going on each time, until twenty kills were made; the table stays the same."""
    home, _ = ran
    expected, rng, kills, number = stable(home / "out"), np.random.default_rng(0), 0, 0
    began = time.monotonic()
    process = start(tmp_path / "whole", tmp_path / "cache", home / "study.yaml")
    _, said = process.communicate()
    assert process.returncode == 0, said
    whole = time.monotonic() - began
    while kills < 20:
        number += 1
        place, cache = tmp_path / f"study-{number}", tmp_path / f"cache-{number}"
        process = start(place, cache, home / "study.yaml")
        for _ in range(4):
            time.sleep(rng.uniform(0.2, 0.9) * whole)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            kills += 1
            again = [sys.executable, "-m", "nasframe", "ablate", "--resume", str(place)]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            there = place.exists()
            process = subprocess.Popen(again, **pipes) if there else start(place, cache, home / "study.yaml")
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert stable(place) == expected


def test_what_nasframe_warns_of_in_a_worker_reaches_the_study(capsys):
    said: list[dict[str, str]] = []
    show = workers._warning_sender(said.append)
    show(UserWarning("corrupt in the cache"), UserWarning, str(Path(nf.__file__).parent / "running" / "cache.py"), 1)
    for neighbour in ("/lib/library.py", str(Path(workers.__file__).parents[1] / "library.py")):
        show(UserWarning("of a library"), UserWarning, neighbour, 1)
    assert said == [{"warning": "corrupt in the cache"}]
    log = capsys.readouterr().err
    assert "corrupt in the cache" in log
    assert "of a library" in log
    schedule, heard = workers.Schedule([StudyRun("a", "task", 0, "r", stages={"teacher": "t"})]), []
    listen = workers._listener(schedule, schedule.waiting[0], lambda run, text: heard.append((run.run, text)))
    for news in ({"stage": "teacher"}, *said):
        listen(news)
    assert (schedule.done, heard) == ({"t"}, [("r", "corrupt in the cache")])
