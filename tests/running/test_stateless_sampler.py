"""A sampler of two methods, shared by a training and two searches, in runs that were stopped and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nasframe as nf
from nasframe.running.runner import resume
from nasframe.stages.session import StageSession
from nasframe.store import RunStore
from nasframe_basics import fitting

PLUGIN = str(Path(__file__).parents[1] / "own_network_plugin.py")
BARE = '''
import numpy as np
from nasframe import hookimpl

class Bare:
    """What it proposes depends on all that it has heard: losses of training steps, and scores of searches."""

    def __init__(self, domain, seed=0):
        self.domain, self.rng, self.heard = domain, np.random.default_rng(seed), []

    def ask(self, n=1, within=None):
        domain = within or self.domain
        best = max(self.heard, key=lambda trial: trial.score, default=None)
        if best is None or int(1e4 * sum(trial.score for trial in self.heard)) % 2:
            return [domain.sample(self.rng) for _ in range(n)]
        return [domain.mutate(best.arch, self.rng) for _ in range(n)]

    def tell(self, trials):
        self.heard += [trial for trial in trials if trial.score is not None]

@hookimpl
def register_samplers(register):
    register("bare", Bare)
'''
TRAIN = {"name": "supernet", "save_as": "supernet", "sampler": "shared", "max_steps": 6, "batch_size": 8}
STAGES: list[dict[str, Any]] = [
    {"train": {**TRAIN, "checkpoint_every": 0}},
    {"search": {"name": "first", "sampler": "shared", "trials": 3, "save_as": "first"}},
    {"search": {"name": "second", "sampler": "shared", "trials": 5, "budgets": {"params": ["80%", "60%"]}}},
    {"extract": {"archs": ["best@*"]}},
    {"evaluate": {"costs": ["params"]}},
]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("plugin") / "bare.py"
    path.write_text(BARE, encoding="utf-8")
    return {
        "nasframe": 1,
        "name": "stateless",
        "seed": 0,
        "plugins": [PLUGIN, str(path)],
        "model": "own_model",
        "task": "stripes",
        "space": "ops",
        "sampler": "bare",
        "stages": STAGES,
    }


@pytest.fixture(scope="module")
def recipe(content: dict[str, Any]) -> Any:
    return nf.load_recipe(content)


def trials_of(directory: Path) -> list[tuple[Any, ...]]:
    store = RunStore(directory, shared=True)
    rows = store.rows("trial")
    store.close()
    return [(row["stage"], row["number"], row["arch"], row["score"], row["state"]) for row in rows]


@pytest.fixture(scope="module")
def whole(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    run = nf.run(recipe, out=tmp_path_factory.mktemp("whole") / "run")
    trials = trials_of(run.directory)
    assert {stage for stage, *_ in trials} == {"first", "second"}
    return trials


@pytest.mark.parametrize("stopped_at", ["step", "supernet", "first", "second", "evaluate"])
def test_it_goes_on_wherever_it_was_stopped(
    stopped_at: str, recipe: Any, whole: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = StageSession.add_ledger
    update = fitting._Fit.update

    def stop(self: StageSession, entries: Any) -> None:
        if self.name == stopped_at:
            raise KeyboardInterrupt
        add(self, entries)

    if stopped_at == "step":

        def stop_in_training(self: Any, *arguments: Any) -> None:
            if self.at.step == 3:
                raise KeyboardInterrupt
            update(self, *arguments)

        monkeypatch.setattr(fitting._Fit, "update", stop_in_training)
    else:
        monkeypatch.setattr(StageSession, "add_ledger", stop)
    with pytest.raises(KeyboardInterrupt):
        nf.run(recipe, out=tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert trials_of(tmp_path / "run") == whole


def test_a_confined_training_goes_on_after_a_second_stop(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of the domain that it asks for after a resume counts as the one that it asked for before."""
    train = {**STAGES[0]["train"], "within": {"op.0": ["narrow", "wide"]}}
    confined = nf.load_recipe({**content, "stages": [{"train": train}, STAGES[1]]})
    expected = trials_of(nf.run(confined, out=tmp_path / "whole").directory)
    update = fitting._Fit.update

    def stop_at(step: int) -> None:
        def stop(self: Any, *arguments: Any) -> None:
            if self.at.step == step:
                raise KeyboardInterrupt
            update(self, *arguments)

        monkeypatch.setattr(fitting._Fit, "update", stop)

    stop_at(3)
    with pytest.raises(KeyboardInterrupt):
        nf.run(confined, out=tmp_path / "run")
    stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert trials_of(tmp_path / "run") == expected
