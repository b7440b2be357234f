"""Following a score, keeping states and feeding batches: what trainers share besides the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nasframe.interfaces import TrainJob
from nasframe.records import TrainOptions
from nasframe.search.domain import Choices
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.training.batches import Feed
from nasframe.training.checkpoints import Checkpoints
from nasframe.training.selection import Selection, measured_archs


def job(**options: Any) -> TrainJob:
    return TrainJob(tiny_net(), ToyTask(), None, TrainOptions(**options), seed=0, stage="t")


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, []),
        ({"eval_every": 3}, [3, 6, 7]),
        ({"keep": "best"}, [5, 7]),
        ({"early_stop": 2}, [5, 7]),
        ({"keep": "best", "eval_every": 4}, [4, 7]),
    ],
)
def test_measures_where_it_is_needed_and_at_the_end(options: Any, due: list[int]) -> None:
    selection = Selection(job(**options), epoch=5)
    assert [step for step in range(1, 8) if selection.due(step, last=step == 7)] == due


def test_stops_after_so_many_without_a_gain_and_puts_the_best_back() -> None:
    stage = job(keep="best", early_stop=2)
    selection, weight = Selection(stage, 5), stage.net.classifier.weight
    stops = []
    for number, score in enumerate([0.5, 0.4, 0.6, 0.6, 0.6]):
        with torch.no_grad():
            weight.fill_(number)
        stops.append(selection.add(score))
    assert stops == [False, False, False, False, True]  # an equal score is no gain
    other = Selection(stage, 5)
    other.load_state_dict(selection.state_dict())
    other.finish()
    assert torch.all(weight == 2)
    assert (other.best, other.stale) == (0.6, 2)


def test_a_sampler_is_measured_at_both_ends_of_what_the_stage_uses() -> None:
    class Space:
        domain = Choices({"k": [1, 2, 3]})

    stage = job()
    assert measured_archs(stage) == [None]
    stage.space, stage.arch = Space(), {"k": 2}  # type: ignore[assignment]
    assert measured_archs(stage) == [{"k": 2}]
    stage.sampler, stage.arch = object(), None  # type: ignore[assignment]
    assert measured_archs(stage) == [{"k": 1}, {"k": 3}]
    stage.within = Space.domain.restrict({"k": [1, 2]})
    assert measured_archs(stage) == [{"k": 1}, {"k": 2}]


def test_checkpoints_never_take_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], []

    class Slow:
        def load(self) -> Any:
            return saved[-1] if saved else None

        def save(self, state: Any) -> None:
            saved.append(state)
            now[0] += 3.0

    monkeypatch.setattr("nasframe.training.checkpoints.time.monotonic", lambda: now[0])
    stage = job(checkpoint_every=10.0)
    stage.checkpoint = Slow()
    feed = Feed(stage)
    checkpoints = Checkpoints(stage, {"feed": feed})
    times = []
    while now[0] < 200:
        now[0] += 1.0
        next(feed)
        before = len(saved)
        checkpoints.save_if_due()
        if len(saved) > before:
            times.append(now[0])
    assert times == [13.0, 76.0, 139.0, 202.0]  # ten seconds, then twenty times three
    again = Feed(stage)
    Checkpoints(stage, {"feed": again}, writes=False).load()
    assert again.state_dict() == saved[-1]["feed"]
    Checkpoints(stage, {}, writes=False).save()
    assert len(saved) == 4


@pytest.mark.parametrize("position", [0, 1, 7, 8, 9, 20])
def test_a_feed_goes_on_anywhere(position: int) -> None:
    def ids(feed: Feed, count: int) -> list[list[int]]:
        return [next(feed).ids.tolist() for _ in range(count)]

    stage = job(batch_size=8)
    whole = ids(Feed(stage), 25)
    broken, resumed = Feed(stage), Feed(stage)
    ids(broken, position)
    resumed.load_state_dict(broken.state_dict())
    assert ids(resumed, 25 - position) == whole[position:]
    assert sorted(i for batch in whole[:8] for i in batch) == list(range(64))
    assert whole[:8] != whole[8:16]


def test_scores_of_another_architecture_are_not_compared() -> None:
    """A modifier may lower the stage's architecture: what was best before is another network."""
    stage = job(keep="best", early_stop=2)
    stage.arch = {"layers": [0, 1, 2]}
    selection = Selection(stage, 5)
    assert [selection.add(score) for score in (0.9, 0.8)] == [False, False]
    stage.arch = {"layers": [0, 1]}
    again = Selection(stage, 5)
    again.load_state_dict(selection.state_dict())
    assert [again.add(score) for score in (0.5, 0.6, 0.4, 0.4)] == [False, False, False, True]
    assert again.best == 0.6
