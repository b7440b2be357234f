"""A whole run: one shared distribution through two training stages and a search, and the same run after a stop."""

from pathlib import Path

import numpy as np
import pytest

import nasframe as nf
from nasframe.running import runner
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


@pytest.fixture
def watched(monkeypatch):
    """Note what each stage's sampler knew and was, before the stage."""
    seen, perform = [], runner.perform

    def noted(work, stage):
        result = perform(work, stage)
        sampler = stage.session.sampler
        if sampler is not None:
            seen.append((stage.name, sampler.training, sampler.updates, sampler.theta, sampler.match))
        return result

    monkeypatch.setattr(runner, "perform", noted)
    return seen


def test_one_distribution_learns_in_all_stages(tmp_path, watched):
    run = nf.run(recipe(tmp_path), out=tmp_path / "run")
    (_, wide, first, theta, match), (_, trains, second, later, _), (_, searches, last, end, _) = watched[:3]
    assert match == "band"  # the costs that the budgets name are known in training
    assert (wide, trains, searches) == (True, True, False)
    assert first == 4
    assert second == 8
    assert last > 8
    np.testing.assert_array_equal(theta[0], np.full(3, 1 / 3))  # depth was fixed in the first stage
    assert all(np.isclose(row.sum(), 1) for row in (*later, *end))
    assert any((old != new).any() for old, new in zip(theta, later, strict=True))
    assert set(run.trials["state"]) <= {"done", "repeat"}  # nothing infeasible is proposed


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, watched, monkeypatch):
    nf.run(recipe(tmp_path), out=tmp_path / "whole")
    whole = watched[2][3]
    tell, calls = SNG.tell, []

    def stopped(self, trials):
        calls.append(0)
        if len(calls) == 7:
            raise KeyboardInterrupt
        tell(self, trials)

    monkeypatch.setattr(SNG, "tell", stopped)
    with pytest.raises(KeyboardInterrupt):
        nf.run(recipe(tmp_path), out=tmp_path / "cut")
    runner.resume(tmp_path / "cut")
    resumed = next(row for row in reversed(watched) if row[0] == "search")[3]
    for old, new in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(old, new)
