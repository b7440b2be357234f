"""A whole run: one shared distribution through two training stages and a search, and the same run after a stop."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import nasframe as nf
from nasframe.running.runner import resume
from nasframe_yoco_bert.sng import SNG

TOY = Path(__file__).parents[2] / "data" / "toy.yaml"
STAGES = [
    {"train": {"name": "wide", "sampler": "shared", "within": {"layers": [3]}, "max_steps": 4}},
    {"train": {"name": "all", "save_as": "supernet", "sampler": "shared", "max_steps": 4, "checkpoint_every": 0}},
    {"search": {"sampler": "shared", "trials": 12, "examples": 8, "finalists": 2}},
    {"extract": {}},
    {"evaluate": {"costs": ["encoder_params"]}},
]


def recipe(tmp_path):
    toy = nf.load_recipe(TOY).data
    data = {**toy, "sampler": {"use": "sng", "join": "layer", "lam": 2, "warm_up": 1}, "stages": STAGES}
    return nf.load_recipe({**data, "plugins": [str(TOY.parent.parent / "toy_plugin.py")]}, base=tmp_path)


class Seen(NamedTuple):
    """The shared sampler after its last step of a stage."""

    stage: str
    training: bool
    updates: int
    theta: list[np.ndarray]
    match: str


@pytest.fixture
def watched(monkeypatch):
    """Note the shared sampler at the end of each stage."""
    seen: list[Seen] = []
    start, tell = SNG.start, SNG.tell
    stage = ""

    def noted_start(self, name, total, origin="search"):
        nonlocal stage
        stage = name
        start(self, name, total, origin)

    def noted_tell(self, trials):
        tell(self, trials)
        now = Seen(stage, self.training, self.updates, self.theta, self.match)
        if seen and seen[-1].stage == stage:
            seen.pop()
        seen.append(now)

    monkeypatch.setattr(SNG, "start", noted_start)
    monkeypatch.setattr(SNG, "tell", noted_tell)
    return seen


def test_one_distribution_learns_in_all_stages(tmp_path, watched):
    run = nf.run(recipe(tmp_path), out=tmp_path / "run")
    wide, trained, searched = watched
    assert wide.match == "band"  # the costs that the budgets name are known in training
    assert (wide.training, trained.training, searched.training) == (True, True, False)
    assert wide.updates == 4
    assert trained.updates == 8
    assert searched.updates > 8
    np.testing.assert_array_equal(wide.theta[0], np.full(3, 1 / 3))  # depth was fixed in the first stage
    assert all(np.isclose(row.sum(), 1) for row in (*trained.theta, *searched.theta))
    assert any((old != new).any() for old, new in zip(wide.theta, trained.theta, strict=True))
    assert set(run.trials["state"]) <= {"done", "repeat"}  # nothing infeasible is proposed


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, watched, monkeypatch):
    nf.run(recipe(tmp_path), out=tmp_path / "whole")
    whole = watched[-1].theta
    tell, calls = SNG.tell, []

    def stopped(self, trials):
        calls.append(0)
        if len(calls) == 7:
            raise KeyboardInterrupt
        tell(self, trials)

    monkeypatch.setattr(SNG, "tell", stopped)
    with pytest.raises(KeyboardInterrupt):
        nf.run(recipe(tmp_path), out=tmp_path / "cut")
    resume(tmp_path / "cut")
    resumed = watched[-1].theta
    assert watched[-1].stage == "search"
    for old, new in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(old, new)
