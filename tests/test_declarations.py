"""What verbs declare of their stages is what a run then saves, finds and measures, and every part says the same."""

import functools
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe.declarations import DECLARATIONS, Winner, measured_models, outcomes, winners
from nasframe.recipe.resolve import check_recipe
from nasframe.report.read import gather
from nasframe.running.dry_run import describe_stages
from nasframe.running.feasibility import targets
from nasframe.search.budgets import known_budgets, named_budgets, parse_limits
from nasframe.stages.inputs import RunInputs
from nasframe.stages.verbs import VERBS
from nasframe_studies.checks import comparison_problems

TOY = Path(__file__).parent / "data" / "toy.yaml"
EXAMPLE = {"encoder_params": ["50%"], "macs": []}
"""Budgets of two costs, of which one has none: the winner is ``best@50%``."""


def toy(stages, **changes):
    data = yaml.safe_load(TOY.read_text(encoding="utf-8"))
    data["plugins"] = [str(TOY.parent.parent / "toy_plugin.py")]
    return {**data, **changes, "stages": stages}


def test_every_verb_has_a_declaration():
    assert {verb: entry.declaration for verb, entry in VERBS.items()} == DECLARATIONS


# ---- declared and done

BUDGETS = (
    None,
    {},
    {"encoder_params": ["75%"]},
    {"encoder_params": ["80%", "60%"], "macs": []},
    {"encoder_params": "80%", "params": ["99%"]},
)
SIZES = {"layers": [0, 2], "heads": 2, "ffn": 32}
HSPG = {"use": "hspg", "target": "50%"}
once = {"max_steps": 1, "batch_size": 8, "checkpoint_every": 0}

trains = st.builds(
    lambda saved, modifiers: ("train", {**once, **saved, "modifiers": modifiers}),
    st.sampled_from([{"save_as": "net{}"}, {"name": "tuning{}"}]),
    st.sampled_from([[], [], [HSPG]]),
)
tuned = st.just(("train", {**once, "name": "all{}", "models": ["*"]}))
transforms = st.sampled_from([("transform", {"use": "rewire", "save_as": "wired{}"}), ("transform", {"use": "rewire"})])
searches = st.builds(
    lambda budgets: ("search", {"name": "search{}", "save_as": "best{}", "trials": 3, "budgets": budgets}),
    st.sampled_from(BUDGETS),
)
extracts = st.sampled_from(
    [("extract", {}), ("extract", {"archs": ["best0*", "net*"]}), ("extract", {"archs": {"written{}": SIZES}})]
)
evaluations = st.builds(
    lambda split, models: ("evaluate", {"split": split, "models": models, "costs": ["params"]}),
    st.sampled_from(["dev", "select"]),
    st.sampled_from([None, ["net*"], ["best*", "written*"]]),
)
kinds = st.one_of(trains, tuned, transforms, searches, extracts, evaluations)


def numbered(value, number):
    """Return a stage whose names are its own: every ``{}`` in them is its number."""
    if isinstance(value, dict):
        return {numbered(key, number): numbered(item, number) for key, item in value.items()}
    return value.format(number) if isinstance(value, str) else value


def named(stages):
    """Return drawn stages as a recipe writes them, each with a name of its own."""
    written = []
    for number, (verb, options) in enumerate(stages):
        own = options if {"name", "save_as"} & options.keys() else {"name": f"{verb}{{}}", **options}
        given = {key: value for key, value in own.items() if value is not None}
        written.append({verb: numbered(given, number)})
    return written


@contextmanager
def recorded_stages():
    """Record, of each stage that runs inside the block, which networks and architectures it added."""
    added = {}

    def recording(function):
        @functools.wraps(function)
        def recorded(work, run, **options):
            after = function(work, run, **options)
            added[run.name] = (set(after.models) - set(work.models), set(after.archs) - set(work.archs))
            return after

        return recorded

    with pytest.MonkeyPatch.context() as patch:
        for verb, entry in list(VERBS.items()):
            patch.setitem(VERBS, verb, replace(entry, function=recording(entry.function)))
        yield added


def compare_with_a_run(recipe):
    plan = nf.resolve(recipe)
    with recorded_stages() as done, tempfile.TemporaryDirectory() as folder:
        run = nf.run(recipe, out=Path(folder) / "run", report=False)
        models = gather(run.directory)["models"]
    for outcome in outcomes(plan.recipe):
        saved, found = done[outcome.stage.name]
        assert set(outcome.saves) == saved
        assert set(outcome.finds) == found
    measured = {}
    for model in models:
        for split in model["metrics"]:
            measured.setdefault(split, set()).add(model["name"])
    assert measured_models(plan.recipe) == measured


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.lists(kinds, min_size=1, max_size=5).map(named))
def test_random_stages_leave_what_they_declare(stages):
    recipe = toy(stages)
    plan, _ = check_recipe(recipe)
    assume(plan is not None)
    compare_with_a_run(nf.load_recipe(recipe))


def test_the_toy_recipe_leaves_what_it_declares():
    compare_with_a_run(nf.load_recipe(TOY))


# ---- one name everywhere


def test_winners_are_named_after_their_budgets():
    assert winners("best", {}) == [Winner("best")]
    assert [winner.name for winner in winners("best", {"macs": ["75%", "50%"]})] == ["best@75%", "best@50%"]
    both = winners("b", {"macs": "75%", "params": ["1M"]})
    assert [winner.name for winner in both] == ["b@macs=75%", "b@params=1M"]
    assert winners("best", EXAMPLE) == [Winner("best@50%", {"encoder_params": "50%"})]


def test_a_cost_without_budgets_changes_no_name_anywhere(tmp_path):
    recipe = toy([{"search": {"trials": 2}}, {"extract": {}}, {"evaluate": {"costs": ["params"]}}], budgets=EXAMPLE)
    plan = nf.resolve(nf.load_recipe(recipe))
    search, extract, evaluation = outcomes(plan.recipe)
    assert search.finds == extract.saves == ("best@50%",)
    assert evaluation.measures == {"dev": ("best@50%",)}
    full = {"encoder_params": 100.0, "macs": 100.0}
    bounds, shares = parse_limits({}, EXAMPLE, full)
    assert [budget.name for budget in named_budgets("best", bounds, shares)] == ["best@50%"]
    assert [budget.name for budget in known_budgets("best", {}, EXAMPLE, full)] == ["best@50%"]
    with plan.file_plugins():
        (target,) = targets(RunInputs(plan))
    assert [budget.name for budget in target.budgets] == ["best@50%"]
    (wrong,) = comparison_problems({("arm", ""): plan}, "dev", ["best@encoder_params=*"])
    assert "Models: best@50%." in wrong[1]
    assert list(comparison_problems({("arm", ""): plan}, "dev", ["best@50%"])) == []
    run = nf.run(nf.load_recipe(recipe), out=tmp_path / "run", report=False)
    report = gather(run.directory)
    assert [model["name"] for model in report["models"]] == ["best@50%"]
    assert report["searches"][0]["winners"] == ["best@50%"]


def test_a_cost_that_is_not_known_yet_counts_in_the_names():
    budgets = {"encoder_params": "50%", "latency": ["12ms", "8ms"]}
    found = known_budgets("best", {"params": "<= 90"}, budgets, {"encoder_params": 10.0, "params": 100.0})
    assert [budget.name for budget in found] == [winner.name for winner in winners("best", budgets)]
    assert [sorted(budget.bounds) for budget in found] == [["encoder_params", "params"], ["params"], ["params"]]


def test_a_search_without_budgets_has_one_winner_though_the_recipe_has_some():
    plan = nf.resolve(nf.load_recipe(toy([{"search": {"trials": 2, "budgets": {}}}, {"extract": {}}])))
    assert [outcome.finds + outcome.saves for outcome in outcomes(plan.recipe)] == [("best",), ("best",)]


def test_a_dry_run_counts_the_models_that_are_measured():
    def seconds(models):
        sizes = {f"written{number}": SIZES for number in range(models)}
        plan = nf.resolve(nf.load_recipe(toy([{"extract": {"archs": sizes}}, {"evaluate": {}}])))
        with plan.file_plugins():
            inputs = RunInputs(plan)
            work = inputs.work
            _, evaluation = describe_stages(inputs, seconds_per_example=1.0, share=1.0)
        return evaluation["seconds"], work.task.sizes["dev"]

    one, examples = seconds(1)
    three, _ = seconds(3)
    assert three - one == 2 * examples
