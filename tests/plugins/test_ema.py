from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToySpace, ToyTask, tiny_net
from nasframe.testing.trainers import Crash, Fuse, Memory
from nasframe_basics.ema import EMA
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.loop import Loop
from nasframe_hspg.obprox_sg import OBProxSG
from nasframe_nxmiformer.admm import ADMM
from nasframe_rosita.prune import ScheduledPrune

WEIGHT = "bert.encoder.layer.2.output.dense.weight"  # of a layer that small sub-networks leave out


class Recorder(Modifier):
    """Written before ema: sees the trained weights after each step; may make the gradients of a step infinite."""

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad
        self.weights: list[np.ndarray] = []

    def on_gradients(self, step: Any) -> None:
        if step.index == self.bad:
            step.job.net.get_parameter(WEIGHT).grad.fill_(math.inf)

    def on_update(self, step: Any) -> None:
        if not step.skipped:
            self.weights.append(step.job.net.get_parameter(WEIGHT).detach().double().numpy().copy())


class Measured(ToyTask):
    """The toy, which records the weights that it measures."""

    def __init__(self) -> None:
        super().__init__(train=44)
        self.weights: list[np.ndarray] = []

    def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Any:
        self.weights.append(self.net.get_parameter(WEIGHT).detach().double().numpy().copy())
        return super().evaluate(forward, split, examples)


def job(*modifiers: Modifier, sampled: bool = False, **options: Any) -> TrainJob:
    fields: dict[str, Any] = {"checkpoint": options.pop("checkpoint", None), "modifiers": list(modifiers)}
    if sampled:
        space: Any = ToySpace()
        sampler = registry.make("sampler", "random", inject={"domain": space.domain, "seed": 0})
        fields |= {"space": space, "sampler": sampler}
    settings = {"max_steps": 9, "batch_size": 8, "precision": "fp32", "learning_rate": 5e-3, **options}
    stage = TrainJob(tiny_net(), Measured(), None, TrainOptions(**settings), 0, "t", **fields)
    stage.task.net = stage.net  # type: ignore[attr-defined]
    return stage


def averages(weights: list[np.ndarray], decay: float) -> list[np.ndarray]:
    """The definition, in float64."""
    average, row = weights[0], [weights[0]]
    for t, weight in enumerate(weights[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weight
        row.append(average)
    return row


def final(net: Any) -> np.ndarray:
    result: np.ndarray = net.get_parameter(WEIGHT).detach().double().numpy()
    return result


@pytest.mark.parametrize(("decay", "start"), [(0.999, 0.0), (0.3, 0.0), (0.0, 0.0), (0.3, 0.5)])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "sampled": True}])
def test_the_stage_ends_with_the_average(decay: float, start: float, options: Any) -> None:
    watch = Recorder()
    result = Loop().fit(job(watch, EMA(decay, start), **options))
    expected = averages(watch.weights[int(start * 9) :], decay)[-1]
    np.testing.assert_allclose(final(result.net), expected, atol=1e-6)
    assert not np.allclose(watch.weights[-1], watch.weights[0])


def test_training_itself_is_as_without_it() -> None:
    """Measured or not, gradients are those of the trained weights, which the swaps give back bit by bit."""
    plain, measured, unmeasured = Recorder(), Recorder(), Recorder()
    Loop().fit(job(plain))
    Loop().fit(job(measured, EMA(), eval_every=2))
    Loop().fit(job(unmeasured, EMA()))
    for others in (measured, unmeasured):
        assert all(np.array_equal(a, b) for a, b in zip(plain.weights, others.weights, strict=True))


def test_measurements_see_the_average_and_the_best_one_is_kept() -> None:
    watch = Recorder()
    stage = job(watch, EMA(0.5), eval_every=2, keep="best")
    result = Loop().fit(stage)
    expected = averages(watch.weights, 0.5)
    measured: Any = stage.task
    assert len(measured.weights) == 5
    for number, step in enumerate((2, 4, 6, 8, 9)):
        np.testing.assert_allclose(measured.weights[number], expected[step - 1], atol=1e-6)
    assert any(np.array_equal(final(result.net), weights) for weights in measured.weights)


def test_skipped_steps_do_not_count() -> None:
    watch = Recorder(bad=4)
    result = Loop().fit(job(watch, EMA(0.5)))
    assert len(watch.weights) == 8
    np.testing.assert_allclose(final(result.net), averages(watch.weights, 0.5)[-1], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"keep": "best", "eval_every": 2}])
@pytest.mark.parametrize("at", [1, 5])
def test_a_resume_is_exact(at: int, options: Any) -> None:
    settings = {"checkpoint_every": 0.0, "sampled": True, **options}
    whole = Loop().fit(job(EMA(0.5, 0.2), Fuse(), **settings))
    memory = Memory()
    with pytest.raises(Crash):
        Loop().fit(job(EMA(0.5, 0.2), Fuse(at), checkpoint=memory, **settings))
    resumed = Loop().fit(job(EMA(0.5, 0.2), Fuse(), checkpoint=memory, **settings))
    again = Loop().fit(job(EMA(0.5, 0.2), Fuse(), checkpoint=memory, **settings))  # from the last checkpoint, the end
    for mine, its, last in zip(whole.net.parameters(), resumed.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(mine, its)
        assert torch.equal(mine, last)


@pytest.mark.parametrize("options", [{}, {"eval_every": 3}])
def test_after_fake_quant_the_average_is_rounded(options: Any) -> None:
    stage = job(FakeQuant(bits=8), EMA(0.5), **options)
    stage.task = ToyTask(train=44)
    net: Any = Loop().fit(stage).net
    weight = net.get_parameter(WEIGHT)
    steps = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert float((steps - steps.round()).detach().abs().max()) < 1e-3


def test_orders_and_partners_that_lose_the_average_are_refused() -> None:
    with pytest.raises(UsageError, match="after ema parametrises or replaces weights"):
        Loop().fit(job(EMA(), FakeQuant(bits=8)))

    class Shrink(Modifier):
        def on_update(self, step: Any) -> None:
            with torch.no_grad():
                step.job.net.get_parameter(WEIGHT).mul_(0.9)

    with pytest.raises(UsageError, match="after ema changes weights"):
        Loop().fit(job(EMA(), Shrink(), eval_every=3))
    Loop().fit(job(Shrink(), EMA(), eval_every=3))
    with pytest.raises(UsageError, match="scheduledprune prunes while"):
        EMA().validate(job(EMA(), ScheduledPrune(heads=2)))
    for pruning in (OBProxSG(), ADMM()):
        with pytest.raises(UsageError, match=f"{type(pruning).__name__.lower()} prunes while"):
            EMA().validate(job(pruning, EMA()))
