"""Observers: what they hear of runs that end well, fail, are stopped or come from the cache; and they only watch."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import RecipeError, RunError, UsageError
from nasframe.observers import OBSERVED, Observers, arguments_of, listener_of
from nasframe.recipe.resolve import check_recipe
from nasframe.records import RunInfo, StoredModel, Trial
from nasframe.running import runner
from nasframe.running.cache_keys import chains
from nasframe.running.runner import StageRunner
from nasframe.store import RunStore

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
STAGES = [
    {"train": {"save_as": "teacher", "max_steps": 2}},
    {"search": {"sampler": "random", "trials": 3, "within": {"layers": [3]}}},
    {"extract": {}},
    {"evaluate": {"costs": ["params"], "models": ["best"]}},
]


class Watcher:
    """Remembers everything that it hears."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        if name not in OBSERVED:
            raise AttributeError(name)

        def hear(**arguments):
            self.heard.append((name, arguments))
            self.react(name, arguments)

        return hear

    def react(self, name, arguments):
        """Do nothing."""

    @property
    def names(self):
        return [name for name, _ in self.heard]

    def of(self, name):
        return [arguments for heard, arguments in self.heard if heard == name]


@pytest.fixture
def watch():
    """Return a function that registers an observer under the name ``watcher`` for the time of a test."""
    registry.plugins.cache_clear()

    def register(observer, name="watcher"):
        class Plugin:
            @nf.hookimpl
            def register_observers(self, register):
                register(name, lambda: observer)

        registry.plugin_manager().register(Plugin(), name=f"the plugin of {name}")
        return observer

    yield register
    registry.plugins.cache_clear()


def recipe(observers=("watcher",), stages=STAGES):
    toy = nf.load_recipe(TOY)
    data = {**toy.data, "stages": stages, "budgets": {}, "observers": list(observers)}
    return nf.load_recipe(data, base=toy.base)


def outcome(directory):
    """Return what a run computed: its metrics, trials and models, without times."""
    store = RunStore(directory, shared=True)
    metrics = [(row["stage"], row["step"], row["name"], row["value"]) for row in store.rows("metric")]
    trials = [(trial.arch, trial.score) for trial in store.trials("search")]
    models = [(row["name"], row["metrics"]) for row in store.rows("model")]
    store.close()
    return metrics, trials, models


# ---- what is heard


def test_an_observer_hears_a_whole_run_in_order(watch, tmp_path):
    watcher = watch(Watcher())
    run = nf.run(recipe(), out=tmp_path / "run", report=False)
    for name, arguments in watcher.heard:
        assert list(arguments) == list(arguments_of(name))
        info = arguments["run"]
        assert (info.directory, info.name) == (run.directory, "toy")
        assert info.stages == ("teacher", "search", "extract", "evaluate")
    trials = len(watcher.of("trial_finished"))
    assert trials >= 3
    assert watcher.names == [
        "run_started",
        "stage_started", "metrics_logged", "metrics_logged", "model_stored", "stage_finished",
        "stage_started", *["trial_finished"] * trials, "stage_finished",
        "stage_started", "model_stored", "stage_finished",
        "stage_started", "model_stored", "stage_finished",
        "model_stored",  # the models that no stage has written, at the end of the run
        "run_finished",
    ]  # fmt: skip
    assert watcher.heard[0][1]["recipe"]["name"] == "toy"
    assert watcher.heard[0][1]["resumed"] is False
    assert [(event["stage"], event["verb"], event["resumed"]) for event in watcher.of("stage_started")] == [
        ("teacher", "train", False), ("search", "search", False), ("extract", "extract", False),
        ("evaluate", "evaluate", False),
    ]  # fmt: skip
    assert [event["step"] for event in watcher.of("metrics_logged")] == [1, 2]
    assert {"loss", "learning_rate"} <= watcher.of("metrics_logged")[0]["values"].keys()
    assert all(isinstance(event["trial"], Trial) for event in watcher.of("trial_finished"))
    assert [event["number"] for event in watcher.of("trial_finished")] == list(range(trials))
    teacher, found, measured, written = watcher.of("model_stored")
    assert (teacher["name"], teacher["record"].directory) == ("teacher", run.models["teacher"])
    assert isinstance(found["record"], StoredModel)
    assert found["record"].arch is not None
    assert found["record"].metrics == {}
    assert measured["record"].metrics["dev"].keys() >= {"accuracy"}
    assert measured["record"].costs["params"] > 0
    assert measured["record"].directory is None
    assert written["record"].directory == run.models["best"]
    assert [event["cached"] for event in watcher.of("stage_finished")] == [False] * 4
    assert watcher.of("run_finished")[0]["error"] is None


def test_hooks_of_plugins_hear_every_run_and_name_only_what_they_need(tmp_path):
    heard = []

    class Plugin:
        @nf.hookimpl
        def run_started(self, directory, recipe):  # as plugins for earlier versions have it
            heard.append(("run_started", directory, recipe["name"]))

        @nf.hookimpl
        def trial_finished(self, directory, stage, number, trial):
            heard.append(("trial_finished", directory, stage, number))

        @nf.hookimpl
        def run_finished(self, run, error):
            heard.append(("run_finished", run.directory, error))

    registry.plugins.cache_clear()
    registry.plugin_manager().register(Plugin())
    try:
        where = nf.run(recipe([]), out=tmp_path / "run", report=False).directory
    finally:
        registry.plugins.cache_clear()
    assert heard[0] == ("run_started", where, "toy")
    assert heard[1:-1] == [("trial_finished", where, "search", number) for number in range(len(heard) - 2)]
    assert heard[-1] == ("run_finished", where, None)


def test_stages_from_the_cache_are_heard_with_their_models(watch, tmp_path):
    watcher = watch(Watcher())
    first = nf.run(recipe(), out=tmp_path / "first", cache=tmp_path / "cache", report=False)
    events = len(watcher.heard)
    second = nf.run(recipe(), out=tmp_path / "second", cache=tmp_path / "cache", report=False)
    assert outcome(first.directory) == outcome(second.directory)
    again = Watcher()
    again.heard = watcher.heard[events:]
    assert [event["cached"] for event in again.of("stage_finished")] == [True] * 4
    assert [event["seconds"] for event in again.of("stage_finished")] == [0.0] * 4
    assert not again.of("metrics_logged")
    assert not again.of("trial_finished")
    models = [event["name"] for event in watcher.of("model_stored")]
    assert models == ["teacher", "best", "best", "best"] * 2
    assert again.of("model_stored")[0]["record"].directory == second.directory / "models" / "teacher"


@pytest.mark.parametrize("error", [RunError("the plug was pulled"), KeyboardInterrupt()])
def test_the_error_that_ends_a_run_is_heard_and_stays_what_it_is(watch, tmp_path, monkeypatch, error):
    def stop(stages, work):
        raise error

    watcher = watch(Watcher())
    with monkeypatch.context() as patch:
        patch.setattr(StageRunner, "_keep_models", stop)
        with pytest.raises(type(error)) as caught:
            nf.run(recipe(), out=tmp_path / "run", report=False)
    assert caught.value is error
    assert watcher.names[-1] == "run_finished"
    assert watcher.heard[-1][1]["error"] is error
    count = len(watcher.heard)
    runner.resume(tmp_path / "run", report=False)
    assert watcher.names[count:] == ["run_started", "model_stored", "run_finished"]
    assert watcher.of("run_started")[-1]["resumed"] is True
    assert watcher.of("run_finished")[-1]["error"] is None


MOMENTS = [6, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (1, 2, 3, 5, 8, 9, 10, 12, 15))]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_goes_on_and_each_trial_is_heard_once(watch, tmp_path, moment):
    class Interrupting(Watcher):
        def react(self, name, arguments):
            if len(self.heard) == moment:
                raise KeyboardInterrupt

    watcher = watch(Interrupting())
    with pytest.raises(KeyboardInterrupt):
        nf.run(recipe(), out=tmp_path / "run", report=False)
    # The end is heard as well, unless it was what was interrupted.
    assert watcher.names[moment:] == ["run_finished"]
    assert isinstance(watcher.heard[-1][1]["error"], KeyboardInterrupt)
    resumed = runner.resume(tmp_path / "run", report=False)
    whole = nf.run(recipe([]), out=tmp_path / "whole", report=False)
    assert outcome(resumed.directory) == outcome(whole.directory)
    numbers = [event["number"] for event in watcher.of("trial_finished")]
    assert numbers == list(range(len(numbers)))
    assert [event["resumed"] for event in watcher.of("run_started")] == [False, True]
    begun = [event["stage"] for event in watcher.of("stage_started")]
    twice = {stage for stage in begun if begun.count(stage) > 1}
    assert len(twice) <= 1
    for event in watcher.of("stage_started"):
        is_second = begun.index(event["stage"]) != [id(e) for e in watcher.of("stage_started")].index(id(event))
        assert event["resumed"] == is_second


# ---- that they only watch


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(0), GeneratorExit()])
@pytest.mark.parametrize("hook", ["metrics_logged", *(pytest.param(h, marks=pytest.mark.slow) for h in OBSERVED)])
def test_one_that_raises_is_told_of_once_and_switched_off(watch, tmp_path, capsys, hook, error):
    class Raising(Watcher):
        def react(self, name, arguments):
            if name == hook:
                raise error

    watcher, other = watch(Raising()), watch(Watcher(), "other")
    run = nf.run(recipe(["watcher", "other"]), out=tmp_path / "run", report=False)
    assert watcher.names.count(hook) == 1
    assert watcher.names[-1] == hook  # nothing is heard after it
    assert other.names[-1] == "run_finished"
    (notice,) = [notice for notice in run.report()["notices"] if "watcher" in notice["place"]]
    assert hook in notice["text"]
    assert type(error).__name__ in notice["text"]
    assert "hears nothing more" in notice["text"]
    assert capsys.readouterr().err.count("observer 'watcher'") == 1


class Meddler(Watcher):
    """Does what an observer should not."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def react(self, name, arguments):
        self.file.read_text()
        random.seed(len(self.heard))
        np.random.seed(len(self.heard))
        torch.manual_seed(len(self.heard))
        torch.rand(3)
        arguments["run"].recipe.clear()
        if name == "metrics_logged":
            arguments["values"].clear()
        if name == "trial_finished":
            arguments["trial"].arch.clear()
            arguments["trial"].costs.clear()
        if name == "model_stored":
            arguments["record"].metrics.clear()


def test_whatever_an_observer_does_the_run_is_the_same(watch, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    watch(Meddler(note))
    other = watch(Watcher(), "other")
    watched = nf.run(recipe(["watcher", "other"]), out=tmp_path / "watched", cache=tmp_path / "cache", report=False)
    alone = nf.run(recipe([]), out=tmp_path / "alone", report=False)
    assert outcome(watched.directory) == outcome(alone.directory)
    assert all(event["run"].recipe["name"] == "toy" for event in other.of("stage_started"))
    assert all(event["values"] for event in other.of("metrics_logged"))
    assert all(event["trial"].arch for event in other.of("trial_finished"))
    # Nor does what it read become an input of a stage, which would keep other runs from using the cache.
    store = RunStore(watched.directory, shared=True)
    opened = {name: store.get(f"opened {name}") for name in ("teacher", "search", "extract", "evaluate")}
    store.close()
    assert all("note.txt" not in json.dumps(names) for names in opened.values())


def test_what_an_observer_did_is_not_kept_with_a_stage_for_other_runs(watch, tmp_path):
    class Raising(Watcher):
        def react(self, name, arguments):
            if name == "trial_finished":
                raise ValueError("boom")

    watch(Raising())
    first = nf.run(recipe(), out=tmp_path / "first", cache=tmp_path / "cache", report=False)
    assert [notice for notice in first.report()["notices"] if "watcher" in notice["place"]]
    later = nf.run(recipe([]), out=tmp_path / "later", cache=tmp_path / "cache", report=False)
    assert outcome(first.directory) == outcome(later.directory)
    assert not [notice for notice in later.report()["notices"] if "watcher" in notice["place"]]


def test_observers_change_no_key_of_the_cache(watch):
    watch(Watcher())
    assert chains(nf.resolve(recipe())) == chains(nf.resolve(recipe([])))


# ---- choosing them


def test_recipes_and_overrides_choose_observers(tmp_path):
    plan = nf.resolve(nf.load_recipe(TOY, ["observers=[events, null]"]))
    assert plan.observers == [{"use": "events", "metrics": True}]
    assert plan.recipe["observers"] == plan.observers
    assert "observers" not in nf.resolve(nf.load_recipe(TOY)).recipe


@pytest.mark.parametrize(
    ("written", "place", "text"),
    [
        ("[event]", "observers.0", "unknown observer 'event'. There are: events"),
        ("[events, {use: events, metric: true}]", "observers.1.metric", "Did you mean 'metrics'?"),
        ("[{use: events, metrics: some}]", "observers.0.metrics", "does not fit"),
        ("events", "observers", "does not fit"),
        ("[3]", "observers.0", "3 names no plugin"),
    ],
)
def test_a_wrong_choice_is_refused_before_the_run(written, place, text):
    plan, problems = check_recipe(TOY, [f"observers={written}"])
    assert plan is None
    (problem,) = problems
    assert problem.path == place
    assert text in problem.text


def test_an_observer_that_cannot_work_is_refused_before_the_run(watch, tmp_path):
    class Misspelled:
        def metrics_logged(self, run, steps):
            """Expect an argument that nobody gives."""

    watch(Misspelled())
    with pytest.raises(RecipeError, match=r"metrics_logged has an argument 'steps'.*Did you mean 'step'") as caught:
        nf.run(recipe(), out=tmp_path / "run")
    assert [problem.path for problem in caught.value.problems] == ["observers.0"]
    assert not (tmp_path / "run").exists()


def test_nothing_is_copied_for_one_who_does_not_hear():
    class Stages:
        def stage_finished(self, stage):
            """Hears of stages alone."""

    class Uncopied:
        def __deepcopy__(self, memo):
            raise AssertionError("it was copied")

    observers = Observers(RunInfo(Path("run"), {}, "run"), lambda place, text: None)
    observers.add([listener_of(Stages(), "stages")])
    observers.trial_finished("search", 0, Uncopied())


def test_a_method_gets_the_arguments_that_it_names_with_defaults_or_without():
    heard = []

    class Mixed:
        def run_finished(self, error=None, mood="calm"):
            heard.append((error, mood))

        def stage_finished(self, stage, *, seconds):
            heard.append((stage, seconds))

        def run_started(self, **everything):
            heard.append(sorted(everything))

    listener = listener_of(Mixed(), "mixed")
    listener.hear("run_finished", {"run": None, "error": "why"})
    listener.hear("stage_finished", {"stage": "s", "seconds": 1.0, "cached": False})
    listener.hear("run_started", {"run": None, "resumed": True})
    listener.hear("metrics_logged", {"step": 1})  # which it does not hear
    assert heard == [("why", "calm"), ("s", 1.0), ["resumed", "run"]]
    with pytest.raises(UsageError, match="deaf: it hears nothing"):
        listener_of(object(), "deaf")

    class Positional:
        def run_finished(self, error, /):
            """Expect a position, which no call gives."""

    with pytest.raises(UsageError, match=r"run_finished has an argument 'error'.*by name"):
        listener_of(Positional(), "positional")


# ---- the shipped ones


def events_of(directory):
    lines = (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_events_are_lines_of_json(tmp_path, capsys):
    overrides = ["budgets={}", f"stages={json.dumps(STAGES)}", "observers=[{use: events, metrics: false}]"]
    assert main(["run", str(TOY), *overrides, "--out", str(tmp_path / "run"), "--no-progress"]) == 0
    events = events_of(tmp_path / "run")
    assert events[0]["stages"] == ["teacher", "search", "extract", "evaluate"]
    assert [event["event"] for event in events if event["event"].startswith("run")] == ["run_started", "run_finished"]
    assert not [event for event in events if event["event"] == "metrics_logged"]
    trials = [event["trial"] for event in events if event["event"] == "trial_finished"]
    store = RunStore(tmp_path / "run", shared=True)
    assert [trial["score"] for trial in trials] == [trial.score for trial in store.trials("search")]
    store.close()
    directories = [event["record"]["directory"] for event in events if event["event"] == "model_stored"]
    assert directories == ["models/teacher", None, None, "models/best"]
    assert events[-1]["error"] is None


def test_half_a_line_that_a_kill_left_is_ended(tmp_path):
    run = RunInfo(tmp_path, {}, "cut")
    (tmp_path / "events.jsonl").write_text('{"event": "run_st')
    listener = listener_of(registry.make("observer", "events"), "events")
    listener.hear("run_started", {"run": run, "resumed": True})
    first, second = (tmp_path / "events.jsonl").read_text().splitlines()
    assert first == '{"event": "run_st'
    assert json.loads(second)["resumed"] is True


@pytest.mark.slow
def test_a_run_that_is_killed_is_heard_to_go_on(tmp_path):
    stages = [{"train": {"save_as": "teacher", "max_steps": 400, "checkpoint_every": 50}}, *STAGES[1:]]
    words = ["budgets={}", f"stages={json.dumps(stages)}", "observers=[events]"]
    command = [sys.executable, "-m", "nasframe", "run", str(TOY), *words, "--out", str(tmp_path / "run")]
    file = tmp_path / "run" / "events.jsonl"
    with subprocess.Popen([*command, "--no-progress"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not file.exists() or '"step": 60' not in file.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    resume = [sys.executable, "-m", "nasframe", "run", "--resume", str(tmp_path / "run"), "--no-progress"]
    subprocess.run(resume, check=True, stdout=subprocess.DEVNULL)
    text = file.read_text(encoding="utf-8")
    events = []
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # the half of a line that the kill left
            continue
    started = [event["resumed"] for event in events if event["event"] == "run_started"]
    assert started == [False, True]
    of_teacher = [event for event in events if event.get("stage") == "teacher"]
    assert [event["resumed"] for event in of_teacher if event["event"] == "stage_started"] == [False, True]
    values = {}
    for event in of_teacher:
        if event["event"] == "metrics_logged":  # a step that is repeated has the values that it had
            assert values.setdefault(event["step"], event["values"]) == event["values"]
    assert max(values) == 400
    assert events[-1]["event"] == "run_finished"
    assert [event["event"] for event in events].count("run_finished") == 1


@pytest.mark.slow
def test_the_runs_of_a_study_in_several_processes_are_heard_each_by_itself(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(
        f"study: watched\nbase: {TOY}\narms:\n  random: {{}}\n  evolution: {{stages.search.sampler: evolution}}\n"
        "seeds: [0, 1]\n"
    )
    words = ["budgets={}", f"stages={json.dumps(STAGES)}", "observers=[events]"]
    arguments = ["ablate", str(study), *words, "--jobs", "2", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    directories = sorted(path.parent for path in (tmp_path / "out").rglob("events.jsonl"))
    assert len(directories) == 4
    trained = 0
    for directory in directories:
        events = events_of(directory)
        names = [event["event"] for event in events]
        assert (names[0], names[-1]) == ("run_started", "run_finished")
        assert events[0]["resumed"] is False
        assert events[-1]["error"] is None
        finished = {event["stage"]: event["cached"] for event in events if event["event"] == "stage_finished"}
        assert list(finished) == ["teacher", "search", "extract", "evaluate"]
        heard_training = any(event["event"] == "metrics_logged" for event in events)
        assert heard_training != finished["teacher"]  # one run of a seed trains; the other takes it from the cache
        trained += heard_training
    assert trained == 2
