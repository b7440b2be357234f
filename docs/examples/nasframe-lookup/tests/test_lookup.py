"""The plugins keep the contracts of their kinds, compute what they say, and are found where they are installed."""

import pytest
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.testing import EvaluatorContract, ObserverContract
from nasframe.types import RunInfo, Trial
from nasframe_lookup.estimator import Lookup
from nasframe_lookup.example import LookupContract
from nasframe_lookup.observer import Leaderboard
from nasframe_lookup.score import Snip


class TestLookup(LookupContract):
    use = "lookup"


class TestSnip(EvaluatorContract):
    def make(self, seed):
        return Snip(seed=seed)


class TestLeaderboard(ObserverContract):
    def make(self):
        return Leaderboard()


def test_a_cost_is_the_sum_of_its_choices(tmp_path):
    path = tmp_path / "millis.csv"
    path.write_text('knob,value,cost\nbase,,0.5\nheads.0,4,0.25\nlayers,"[0, 1]",2\n')
    lookup = Lookup(path)
    assert lookup.estimate(None, None, {"layers": [0, 1], "heads.0": 4}) == 2.75
    assert lookup.estimate(None, None) is None
    with pytest.raises(UsageError, match=r"no cost of heads.0 = 2. Expected a row"):
        lookup.estimate(None, None, {"heads.0": 2})


def test_the_best_trials_come_first(tmp_path):
    board, run = Leaderboard(top=2), RunInfo(tmp_path, {}, "led")
    board.stage_started()
    for number, score in enumerate([0.5, None, 0.75, 0.25]):
        board.trial_finished(run, "search", number, Trial(arch={}, score=score))
    assert (tmp_path / "best-search.txt").read_text() == "0.7500  trial 2\n0.5000  trial 0\n"


def test_they_are_registered():
    for kind, name in (("estimator", "lookup"), ("evaluator", "snip"), ("observer", "leaderboard")):
        assert registry.find(kind, name).package == "nasframe-lookup"
