"""How long methods may train, and how much may be measured, within a time.

:mod:`nasframe_compress.rehearsal` measures what each method costs; here is the arithmetic.

Training comes first: evaluations are cut down only if they would take more than :data:`EVALUATION_SHARE` of the time,
or if otherwise not even the shortest trainings would fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nasframe.declarations import TEACHER
from nasframe.errors import UsageError
from nasframe.recipe.loading import load_recipe
from nasframe.recipe.resolve import resolve
from nasframe.report.tables import duration
from nasframe.running import dry_run
from nasframe_compress.compose import FULL, LEAST_STEPS, Effort, Lengths
from nasframe_compress.prepare import METHODS, Prepared, sets_dev_aside

MOST = 10.0
"""Methods train at most this many times as long as their recipes say, however much time there is."""
LEAST = 0.02
"""And at least this part of it."""
SLACK = 0.95
"""The part of the time that is planned for: the rest is for what no rehearsal shows."""
EVALUATION_SHARE = 0.3
"""The part of the planned time that evaluations may take before they are cut down."""
EXPORT_SECONDS = 8.0
"""What writing and verifying one network takes, in a fresh process, on a machine that does nothing else."""
REPORT_SECONDS = 3.0
"""What the report of a run takes there."""
LEAST_SELECT = 100
"""Choices are made on at least as many examples, if there are as many."""
LEAST_DEV = 200
"""And reports are made on as many."""
LEAST_PROBES = 0.1
"""The part of the batches on which importance is measured at least."""


@dataclass(frozen=True)
class Training:
    """What a training stage costs.

    Args:
        stage: its name.
        epochs: as the method's packaged recipe says.
        steps_in_epoch: optimiser steps in one epoch.
        step_seconds: of one step, its teacher's forward pass included.
        cached_seconds: what of it falls away after the first epoch, because the teacher's outputs are kept.
        networks: how many networks are trained, one after the other.
        evaluation_seconds: of measuring a network on all of ``select``, once an epoch.
    """

    stage: str
    epochs: float
    steps_in_epoch: int
    step_seconds: float
    cached_seconds: float
    networks: int = 1
    evaluation_seconds: float = 0.0

    def seconds(self, factor: float, select: float = 1.0) -> float:
        """Return the seconds of a training.

        Args:
            factor: how many times as long as the recipe says it is.
            select: the part of ``select`` that is measured.

        >>> Training("tune", 2.0, 100, 0.5, 0.1).seconds(1.0)
        90.0
        """
        steps = max(LEAST_STEPS, round(self.epochs * factor * self.steps_in_epoch))
        first = min(steps, self.steps_in_epoch)
        stepping = steps * self.step_seconds - (steps - first) * self.cached_seconds
        epochs = math.ceil(steps / self.steps_in_epoch)
        return self.networks * (stepping + epochs * self.evaluation_seconds * select)


@dataclass(frozen=True)
class Evaluations:
    """Seconds of what a run measures besides its trainings, with all examples.

    Args:
        select: of measuring on ``select``.
        dev: of measuring on ``dev``.
        search: of all trials of its search, each on ``select``.
        trials: how many these are.
        probes: of the batches on which importance is measured.
    """

    select: float = 0.0
    dev: float = 0.0
    search: float = 0.0
    trials: int = 0
    probes: float = 0.0

    def seconds(self, effort: Effort) -> float:
        """Return the seconds with a part of the examples and trials.

        >>> Evaluations(select=10, dev=20, search=100, trials=10, probes=8).seconds(Effort(0.5, 0.25, 0.2, 0.125))
        21.0
        """
        trials = effort.trials_of(self.trials) / self.trials if self.trials else 1.0
        return (
            self.select * effort.select
            + self.dev * effort.dev
            + self.search * trials * effort.select
            + self.probes * effort.probes
        )


@dataclass(frozen=True)
class MethodTime:
    """What a method costs on this machine.

    Args:
        method: its name.
        teacher: the training of the teacher, ``None`` if there is one already.
        trainings: all others.
        fixed: seconds of everything in a run that depends on no choice here.
        evaluations: what it measures.
    """

    method: str
    teacher: Training | None
    trainings: Sequence[Training]
    fixed: float
    evaluations: Evaluations = field(default_factory=Evaluations)

    def seconds(self, lengths: Lengths, effort: Effort = FULL) -> float:
        """Return the seconds of a run without the teacher's training."""
        training = sum(training.seconds(lengths.method, effort.select) for training in self.trainings)
        return self.fixed + self.evaluations.seconds(effort) + training


@dataclass(frozen=True)
class Surroundings:
    """What takes time besides the methods' stages.

    Args:
        seeds: how many seeds.
        networks: how many networks are exported.
        start: seconds of starting a run: to load model and data, and to check them.
        once: seconds of starting the process that runs them.
        slowdown: how many times as long everything takes here as on a machine that does nothing else.
    """

    seeds: int
    networks: int
    start: float = 0.0
    once: float = 0.0
    slowdown: float = 1.0

    def seconds(self, runs: int) -> float:
        """Return the seconds for a number of runs."""
        of_run = self.start + self.slowdown * REPORT_SECONDS
        return self.once + runs * of_run + self.networks * self.slowdown * EXPORT_SECONDS


@dataclass(frozen=True)
class Sizes:
    """How many examples there are, and whether those to report on may be cut down.

    Args:
        train: to train on.
        select: for choices.
        dev: to report on.
        cuts_dev: whether fewer of the data may be set aside for ``dev``.
    """

    train: int
    select: int
    dev: int
    cuts_dev: bool = True

    def effort(self, share: float) -> Effort:
        """Return the effort that measures a share of everything, but never less than what makes sense."""
        select = max(share, LEAST_SELECT / self.select) if self.select else 1.0
        dev = max(share, LEAST_DEV / self.dev) if self.dev and self.cuts_dev else 1.0
        return Effort(select=min(1.0, select), dev=min(1.0, dev), trials=share, probes=max(share, LEAST_PROBES))


@dataclass(frozen=True)
class Fit:
    """What fits into a time.

    Args:
        lengths: method → how long it trains.
        effort: how much is measured.
        seconds: what everything is expected to take from now on.
    """

    lengths: Mapping[str, Lengths]
    effort: Effort
    seconds: float


def total_seconds(
    times: Sequence[MethodTime], lengths: Mapping[str, Lengths], around: Surroundings, effort: Effort = FULL
) -> float:
    """Return the seconds of all runs and exports.

    Args:
        times: of each method.
        lengths: method → how long it trains.
        around: what takes time besides.
        effort: how much is measured.
    """
    of_runs = sum(time_of.seconds(lengths[time_of.method], effort) for time_of in times)
    teacher = next((time_of.teacher for time_of in times if time_of.teacher is not None), None)
    if teacher is not None:  # trained once a seed: the methods share it
        of_runs += teacher.seconds(lengths[times[0].method].teacher, effort.select)
    return around.seeds * of_runs + around.seconds(around.seeds * len(times))


def fit(
    times: Sequence[MethodTime],
    lengths: Mapping[str, Lengths],
    seconds: float,
    around: Surroundings,
    sizes: Sizes,
    spent: float = 0.0,
) -> Fit:
    """Return how long each method trains, and how much is measured, so that everything takes a given time.

    All methods are made longer or shorter by the same factor, and so keep their shares of the multiply-adds. A teacher
    is made shorter, but never longer than its recipe says.

    Args:
        times: of each method.
        lengths: method → how long it would train otherwise.
        seconds: the time for everything.
        around: what takes time besides.
        sizes: of the data.
        spent: the part of the time that has passed.

    Raises:
        UsageError: the time is too short for the least that makes sense; names how much is needed.
    """
    wanted = (seconds - spent) * SLACK

    def scaled(factor: float) -> dict[str, Lengths]:
        return {
            name: Lengths(teacher=min(1.0, factor) * length.teacher, method=factor * length.method)
            for name, length in lengths.items()
        }

    def needed(factor: float, effort: Effort) -> float:
        return total_seconds(times, scaled(factor), around, effort)

    def evaluating(share: float) -> float:
        return around.seeds * sum(time_of.evaluations.seconds(sizes.effort(share)) for time_of in times)

    share = 1.0
    if evaluating(1.0) > EVALUATION_SHARE * wanted:
        share = _largest(0.0, 1.0, lambda value: evaluating(value) <= EVALUATION_SHARE * wanted)
    if needed(LEAST, sizes.effort(share)) > wanted:
        # Not even the shortest trainings fit beside these evaluations.
        share = _largest(0.0, share, lambda value: needed(LEAST, sizes.effort(value)) <= wanted)
    effort = sizes.effort(share)
    least = needed(LEAST, effort)
    if least > wanted:
        minutes = math.ceil((spent + least / SLACK) / 60)
        raise UsageError(
            f"--minutes {seconds / 60:g}: too short. The start and the rehearsals took {duration(spent)}, and the "
            f"shortest trainings that make sense take {duration(least)}. Expected --minutes {minutes} or more, fewer "
            "methods, or fewer seeds."
        )
    factor = MOST
    if needed(MOST, effort) > wanted:
        factor = _largest(LEAST, MOST, lambda value: needed(value, effort) <= wanted)
    return Fit(scaled(factor), effort, needed(factor, effort))


def _largest(low: float, high: float, fits: Callable[[float], bool]) -> float:
    """Return the largest value that fits, by bisection: larger ones take longer; ``low`` if none does."""
    for _ in range(50):
        middle = (low + high) / 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def sizes_of(prepared: Prepared) -> Sizes:
    """Return how many examples a request has, and which of its splits nasframe draws, so that they may be smaller."""
    sizes = prepared.look.inputs.task.sizes
    return Sizes(
        train=sizes["train"],
        select=sizes["select"],
        dev=sizes["dev"],
        cuts_dev=sets_dev_aside(prepared.setup.task),
    )


def estimated_seconds(prepared: Prepared, path: Path) -> float:
    """Estimate the seconds of everything from a few training steps that are timed here, without a rehearsal.

    Args:
        prepared: the request.
        path: the recipe or the study that was written.
    """
    inputs = prepared.look.inputs
    forward = dry_run.forward_seconds(inputs)
    seconds = len(prepared.request.budgets) * EXPORT_SECONDS
    trains_teacher = True
    for method in prepared.methods:
        plan = resolve(load_recipe(path.parent / METHODS / f"{method.name}.yaml" if prepared.is_study else path))
        for row in dry_run.describe_stages(inputs, forward, prepared.mean_share(method), plan):
            if row["name"] != TEACHER or trains_teacher:  # the methods share it
                seconds += len(prepared.request.seeds) * row["seconds"]
        trains_teacher = False
    return seconds
