"""A run from recipe to report, and the same run after it was stopped anywhere."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.running import environment, runner, snapshots
from nasframe.store import RunStore

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
TABLES = {
    "trial": "stage, number, arch, state, score, objectives, metrics, costs, violation, examples",
    "metric": "stage, step, name, value",
    "ledger": "stage, role, steps, examples, tokens, forward_macs, backward_macs, evaluations",
    "model": "name, stage, arch, blueprint, budget, path, metrics, costs",
    "stage": "name, position, verb, state, result",
}


def facts(directory: Path) -> dict:
    """All of a run that must not depend on when it was stopped."""
    store = RunStore(directory, shared=True)
    found = {
        table: sorted(map(str, store.db.execute(f"SELECT {names} FROM {table}"))) for table, names in TABLES.items()
    }
    store.close()
    for path in sorted(directory.glob("models/*/*")):
        if path.suffix in (".safetensors", ".csv"):
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return nf.run(nf.load_recipe(RECIPE), out=tmp_path_factory.mktemp("toy") / "run")


def test_a_run_leaves_what_the_documents_promise(finished):
    names = {path.name for path in finished.directory.iterdir()}
    assert {
        "recipe.yaml",
        "env.json",
        "run.db",
        "trials.csv",
        "report.md",
        "report.html",
        "report.json",
        "models",
    } <= names
    assert "checkpoints" not in names
    assert {"teacher", "supernet", "tuned"} <= finished.models.keys()
    assert not list(finished.directory.rglob("*.tmp"))
    environment = json.loads((finished.directory / "env.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["data"]["sizes"]["train"] == 64


def test_trials_and_front_are_data_frames(finished):
    done = finished.trials[finished.trials["state"] == "done"]
    assert len(done) >= 12
    assert {"score", "cost.params", "cost.encoder_params"} <= set(done.columns)
    assert 0 < len(finished.front) <= len(done)


def test_winners_keep_their_budgets(finished):
    store = RunStore(finished.directory, shared=True)
    full = store.model("teacher")["costs"]["encoder_params"]
    for name, share in (("best@75%", 0.75), ("best@40%", 0.4)):
        row = store.model(name)
        assert row["costs"]["encoder_params"] <= share * full
        assert 0 <= row["metrics"]["dev"]["accuracy"] <= 1


def test_the_ledger_counts_what_was_run(finished):
    store = RunStore(finished.directory, shared=True)
    rows = {(r.stage, r.role): r for r in store.frame("ledger").itertuples()}
    teacher = rows["teacher", "student"]
    assert (teacher.steps, teacher.examples) == (6, 6 * 32)
    assert teacher.backward_macs == 2 * teacher.forward_macs > 0
    assert rows["supernet", "teacher"].forward_macs > 0
    assert rows["search", "evaluation"].evaluations >= 12


def test_the_resolved_recipe_runs_to_the_same_end(finished, tmp_path):
    recipe = nf.load_recipe(finished.directory / "recipe.yaml", base=RECIPE.parent)
    assert facts(nf.run(recipe, out=tmp_path / "again").directory) == facts(finished.directory)


def test_a_plan_runs_as_its_recipe_does(tmp_path):
    recipe = nf.load_recipe(RECIPE, ["stages=[{train: {save_as: teacher, max_steps: 1}}]", "~budgets"])
    runs = [
        nf.run(what, out=tmp_path / name, report=False) for name, what in (("a", recipe), ("b", nf.resolve(recipe)))
    ]
    assert facts(runs[0].directory) == facts(runs[1].directory)


class Stop(BaseException):
    """A kill that a test can catch."""


def stopping(original, counter, moment):
    """Wrap a function so that the call whose turn is ``moment`` never happens."""

    def call(*args, **kwargs):
        if next(counter) == moment:
            raise Stop
        return original(*args, **kwargs)

    return call


MOMENTS = [9, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (3, 16, 24, 31, 40, 48))]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path, monkeypatch, moment):
    counter = iter(range(10**6))
    for owner, name in (
        (RunStore, "add_trial"), (RunStore, "end_stage"), (RunStore, "put_model"),
        (RunStore, "add_ledger"), (snapshots, "save_state"), (nf.store.Checkpoint, "save"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, stopping(getattr(owner, name), counter, moment))
    with pytest.raises(Stop):
        nf.run(nf.load_recipe(RECIPE), out=tmp_path / "run")
    monkeypatch.undo()
    assert facts(runner.resume(tmp_path / "run").directory) == facts(finished.directory)


def start(directory: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nasframe", "run", str(RECIPE), "--out", str(directory), "--no-progress"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    began = time.monotonic()
    with start(tmp_path / "whole") as process:
        assert process.wait() == 0, process.stderr.read()
    whole = time.monotonic() - began
    expected, rng = facts(tmp_path / "whole"), np.random.default_rng(0)
    for number in range(20):
        directory = tmp_path / f"run-{number}"
        with start(directory) as process:
            time.sleep(rng.uniform(0.4, 0.95) * whole)
            process.send_signal(signal.SIGKILL)
        if (directory / "run.db").exists() and (directory / "recipe.yaml").exists():
            command = [sys.executable, "-m", "nasframe", "run", "--resume", str(directory), "--no-progress"]
            done = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert done.returncode == 0, done.stderr
            assert facts(directory) == expected


def test_a_run_directory_is_never_overwritten(finished):
    before = facts(finished.directory)
    with pytest.raises(UsageError, match="never overwritten"):
        nf.run(nf.load_recipe(RECIPE), out=finished.directory)
    assert facts(finished.directory) == before


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(finished):
    before = facts(finished.directory)
    runner.resume(finished.directory)
    assert facts(finished.directory) == before


def test_other_data_than_the_run_began_with_is_refused(finished, tmp_path):
    store = RunStore(finished.directory)
    kept = store.get("data")
    store.put("data", {**kept, "fingerprint": "other"})
    store.close()
    with pytest.raises(UsageError, match="not what the run began with"):
        runner.resume(finished.directory)
    store = RunStore(finished.directory)
    store.put("data", kept)
    store.close()


@pytest.mark.parametrize("moment", range(4))
def test_a_run_that_was_stopped_before_it_began_can_begin_again(tmp_path, monkeypatch, moment):
    """Stopped before its lock, its database, its recipe, or before the database got its name."""
    out, counter = tmp_path / "run", iter(range(10**6))
    owners = ((RunStore, "_acquire"), (sqlite3, "connect"), (nf.store, "write_text"), (os, "replace"))
    for owner, name in owners:
        monkeypatch.setattr(owner, name, stopping(getattr(owner, name), counter, moment))
    with pytest.raises(Stop):
        RunStore(out, create=True, recipe="nasframe: 1", facts={"base": "."})
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no run here"):
        runner.resume(out)
    begun = RunStore(out, create=True, recipe="nasframe: 1", facts={"base": "."})
    assert (begun.get("base"), (out / "recipe.yaml").read_text()) == (".", "nasframe: 1")
    assert {path.name for path in out.iterdir()} == {".lock", "recipe.yaml", "run.db"}
    begun.close()


def test_a_users_own_files_are_never_taken_for_a_runs(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        RunStore(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


# ---- what ended a run


def failure_of(directory):
    store = RunStore(directory, shared=True)
    try:
        return store.get("failure")
    finally:
        store.close()


@pytest.mark.parametrize(
    ("error", "interrupted", "text"),
    [
        (ValueError("bad\nluck"), False, "ValueError: bad\nluck"),
        (UsageError("no such thing"), False, "no such thing"),
        (KeyboardInterrupt(), True, "KeyboardInterrupt"),
    ],
)
def test_what_ended_a_run_is_kept_and_forgotten_when_it_goes_on(tmp_path, monkeypatch, error, interrupted, text):
    def broken(*args, **kwargs):
        raise error

    recipe = nf.load_recipe(RECIPE, ["stages=[{train: {save_as: teacher, max_steps: 1}}]", "~budgets"])
    with monkeypatch.context() as patch:
        patch.setattr(runner, "perform", broken)
        with pytest.raises(type(error)):
            nf.run(recipe, out=tmp_path / "run")
    failure = failure_of(tmp_path / "run")
    code = getattr(error, "exit_code", 1)
    assert failure == {"stage": "teacher", "text": text, "interrupted": interrupted, "exit_code": code}
    report = runner.Run(tmp_path / "run").report()
    assert report["failure"] == failure
    assert text.partition("\n")[0] in (tmp_path / "run" / "report.md").read_text()
    runner.resume(tmp_path / "run", report=False)
    assert failure_of(tmp_path / "run") is None


def test_a_budget_out_of_reach_is_kept_as_what_ended_a_run_of_a_study(tmp_path):
    from nasframe.errors import UnsatisfiableError
    from nasframe.recipe.resolve import resolve
    from nasframe.recipe.yaml import dump

    plan = resolve(nf.load_recipe(RECIPE, ["budgets={encoder_params: ['1%']}", "stages=[{search: {trials: 2}}]"]))
    RunStore(tmp_path / "run", create=True, recipe=dump(plan.recipe), facts={"base": str(plan.base)}).close()
    with pytest.raises(UnsatisfiableError):
        runner.resume(tmp_path / "run", report=False)
    failure = failure_of(tmp_path / "run")
    assert (failure["stage"], failure["exit_code"]) == (None, 3)
    assert "no architecture has" in failure["text"]
    RunStore(tmp_path / "run").close()  # the run is free


def test_a_run_that_goes_on_elsewhere_keeps_both_environments(tmp_path, monkeypatch):
    recipe = nf.load_recipe(RECIPE, ["stages=[{train: {save_as: teacher, max_steps: 1}}]", "~budgets"])
    run = nf.run(recipe, out=tmp_path / "run", report=False)
    monkeypatch.setattr(environment, "processor", lambda: "another")
    runner.resume(run.directory, report=False)
    runner.resume(run.directory, report=False)
    first, second = run.report()["environments"]
    assert second == first | {"processor": "another"}
    assert isinstance(first["bf16"], bool)
