"""Trackers of experiments hear the numbers of a run; TensorBoard's files hold what the run's database holds."""

import json
import math
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.observers import listener_of
from nasframe.running import runner
from nasframe.store import RunStore
from nasframe.testing.kit import run_checks
from nasframe.testing.observers import ObserverContract, new_run, tell, unusual_run, whole_run
from nasframe_tracking import trackers
from nasframe_tracking.tracked import Tracked, plain_options

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
STAGES = [
    {"train": {"save_as": "teacher", "max_steps": 2}},
    {"search": {"sampler": "random", "trials": 3, "within": {"layers": [3]}}},
    {"extract": {}},
    {"evaluate": {"costs": ["params"], "models": ["best"]}},
]


class Kept:
    """A tracker that keeps what it is given, with the interface of Accelerate's."""

    def __init__(self):
        self.calls = []

    def start(self):
        self.calls.append(("start",))

    def store_init_configuration(self, values):
        assert all(isinstance(value, bool | int | float | str) for value in values.values())
        self.calls.append(("configuration", values))

    def log(self, values, step=None):
        self.calls.append(("log", values, step))

    def finish(self):
        self.calls.append(("finish",))


class TestAnyTracker(ObserverContract):
    def make(self):
        return Tracked(lambda run: Kept())


def heard(events_of, **changes):
    """Return what a tracker is given of some events."""
    kept = Kept()
    with new_run() as run:
        events = [(hook, {**facts, **changes.get(hook, {})}) for hook, facts in events_of(run)]
        tell(listener_of(Tracked(lambda run: kept), "tracked"), run, events)
    return kept.calls


def test_a_tracker_gets_the_recipe_and_every_number_once():
    start, configuration, *logs, finish = heard(whole_run)
    assert (start, finish) == (("start",), ("finish",))
    assert configuration[1]["stages.0.train.max_steps"] == 4
    assert "task.name" not in configuration[1]  # null
    assert logs == [
        ("log", {"teacher/loss": 0.7, "teacher/learning_rate": 1e-3}, 2),
        ("log", {"teacher/loss": 0.6, "teacher/select accuracy": 0.5}, 4),
        ("log", {"search/trial/accuracy": 0.5, "search/trial/params": 1000.0, "search/trial/score": 0.5}, 0),
        ("log", {"search/trial/accuracy": 0.5, "search/trial/params": 1000.0, "search/trial/score": 0.5}, 1),
        ("log", {"models/best@50%/dev/accuracy": 0.75}, 1),
        ("log", {"models/best@50%/params": 1000.0}, 1),
    ]


def test_what_is_no_number_is_left_out():
    logs = [call for call in heard(lambda run: unusual_run()) if call[0] == "log"]
    assert math.isnan(logs[0][1]["teacher/loss"])
    assert ("log", {"search/trial/params": 1000.0}, 0) in logs
    assert not [call for call in logs if None in call[1].values()]


def test_a_run_that_goes_on_gives_its_recipe_once():
    calls = heard(whole_run, run_started={"resumed": True})
    assert [call[0] for call in calls].count("configuration") == 0


def test_a_run_that_fails_says_why():
    calls = heard(whole_run, run_finished={"error": ValueError("too small")})
    assert calls[-2:] == [("log", {"error": "ValueError: too small"}, None), ("finish",)]


def test_options_are_plain():
    assert dict(plain_options({"a": [True, {"b": 1.5}], "c": Path("x"), "d": [], "e": None})) == {
        "a.0": True, "a.1.b": 1.5, "c": "x",
    }  # fmt: skip


def test_without_the_package_it_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"'tensorboard' is not installed. Expected: pip install 'nasframe\[tracking\]'"
    ):
        registry.make("observer", "tensorboard")


# ---- TensorBoard itself


def scalars_of(folder):
    """Return tag → step → value, of all files below a folder."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    files = EventMultiplexer().AddRunsFromDirectory(str(folder))
    files.Reload()
    scalars = {}
    for part, tags in files.Runs().items():
        for tag in tags["scalars"]:
            of_tag = scalars.setdefault(tag, {})
            for event in files.Scalars(part, tag):
                of_tag[event.step] = event.value
    return scalars


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard")


def test_its_observer_keeps_the_contract(tensorboard):
    contract = type("Made", (ObserverContract,), {"use": "tensorboard"})
    assert [outcome for outcome in run_checks(contract) if not outcome.passed] == []


def test_its_files_hold_what_the_database_holds(tensorboard, tmp_path):
    words = ["budgets={}", f"stages={json.dumps(STAGES)}", "observers=[tensorboard]"]
    run = nf.run(nf.load_recipe(TOY, words), out=tmp_path / "run", report=False)
    runner.resume(tmp_path / "run", report=False)  # of a finished run: it adds nothing
    store = RunStore(run.directory, shared=True)
    metrics, trials, best = store.rows("metric"), store.trials("search"), store.model("best")
    store.close()
    scalars = scalars_of(run.directory / "tensorboard")
    for row in metrics:
        assert scalars[f"{row['stage']}/{row['name']}"][row["step"]] == pytest.approx(row["value"], rel=1e-6)
    for number, trial in enumerate(trials):
        assert scalars["search/trial/score"][number] == pytest.approx(trial.score, rel=1e-6)
    position = len(STAGES) - 1
    assert scalars["models/best/dev/accuracy"][position] == pytest.approx(best["metrics"]["dev"]["accuracy"], rel=1e-6)
    assert scalars["models/best/params"][position] == best["costs"]["params"]
    assert {path.name for path in run.directory.iterdir()} >= {"tensorboard", "run.db"}
