"""How long methods take on this machine, measured by a rehearsal, and how long they may train within a time.

A rehearsal runs the stages of a method's recipe with a few steps each, on the user's model and data. It also shows that
all stages work, before any of them takes long.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.declarations import TEACHER
from nasframe.errors import NasframeError, UsageError
from nasframe.plan import asks_teacher
from nasframe.recipe.loading import load_recipe
from nasframe.recipe.resolve import resolve
from nasframe.recipe.yaml import dump
from nasframe.report.tables import duration
from nasframe.running import dry_run, runner
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore, write_text
from nasframe_compress.compose import BATCH_SIZE, LEAST_STEPS, Lengths
from nasframe_compress.methods import Method, stage_name
from nasframe_compress.prepare import METHODS, RECIPE, Prepared
from nasframe_compress.stopwatch import NAME

STEPS = 12
"""Steps of each training in a rehearsal."""
WARM_UP = 3
"""Steps whose time does not count: they fill caches."""
MOST = 10.0
"""Methods train at most this many times as long as their recipes say, however much time there is."""
LEAST = 0.02
"""And at least this part of it."""
SLACK = 0.95
"""The part of the time that is planned for: the rest is for what no rehearsal shows."""
EXPORT_SECONDS = 12.0
"""What writing and verifying one network takes, in a fresh process."""


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
    """

    stage: str
    epochs: float
    steps_in_epoch: int
    step_seconds: float
    cached_seconds: float
    networks: int = 1

    def seconds(self, factor: float) -> float:
        """Return the seconds of a training that is ``factor`` times as long as the recipe says.

        >>> Training("tune", 2.0, 100, 0.5, 0.1).seconds(1.0)
        90.0
        """
        steps = max(LEAST_STEPS, round(self.epochs * factor * self.steps_in_epoch))
        first = min(steps, self.steps_in_epoch)
        return self.networks * (steps * self.step_seconds - (steps - first) * self.cached_seconds)


@dataclass(frozen=True)
class MethodTime:
    """What a method costs on this machine.

    Args:
        method: its name.
        teacher: the training of the teacher, ``None`` if there is one already.
        trainings: all others.
        fixed: seconds of everything else in a run: loading, searches, evaluations.
    """

    method: str
    teacher: Training | None
    trainings: Sequence[Training]
    fixed: float

    def seconds(self, lengths: Lengths) -> float:
        """Return the seconds of a run without the teacher's training."""
        return self.fixed + sum(training.seconds(lengths.method) for training in self.trainings)


def rehearse(prepared: Prepared, method: Method) -> MethodTime:
    """Run a method's stages with a few steps each, and return what they cost.

    Args:
        prepared: the request.
        method: the method.

    Raises:
        NasframeError: a stage fails, as it would have after hours.
    """
    # Beside the folder, so that relative paths are the same.
    folder = prepared.folder.with_name(f".{prepared.folder.name}.rehearsal")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        recipe = prepared.recipe(method)
        path = folder / prepared.setup.folder.relative_to(prepared.folder) / RECIPE
        path.parent.mkdir(exist_ok=True)
        write_text(path, dump({**recipe, "stages": _shortened(recipe["stages"], method.smoke)}))
        began = time.monotonic()
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # what it says has been said, or will be by the run
                runner.run(load_recipe(path), out=folder / "run", progress=False, report=False)
        except NasframeError as error:
            # A new error, since the notes of this one say how to go on with the rehearsal.
            raise type(error)(f"{method.name}: {error}") from None
        wall = time.monotonic() - began
        return _measured(prepared, method, recipe, path, folder / "run", wall)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shortened(stages: Sequence[Mapping[str, Any]], smoke: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return stages that do the same in a few steps.

    Evaluations are left out: how long they take follows from the time of a forward pass.

    Args:
        stages: the method's.
        smoke: dotted path → value, with which they work in a few steps.
    """
    shortened = []
    for stage in stages:
        verb, written = next(iter(copy.deepcopy(dict(stage)).items()))
        options = written or {}
        if verb == "evaluate":
            continue
        _apply(smoke, stage_name(stage), options)
        if verb == "train":
            options.pop("epochs", None)
            options["max_steps"] = max(STEPS, options.get("max_steps", 0))
            options["modifiers"] = [*(options.get("modifiers") or []), {"use": "stopwatch"}]
        elif verb == "search":
            options |= {"trials": 2, "examples": 8, "finalists": 1}
        shortened.append({verb: options})
    return shortened


def _apply(smoke: Mapping[str, Any], name: str, options: dict[str, Any]) -> None:
    """Apply those overrides that are meant for a stage, or for the stage that it repeats, as ``sparse-2`` does."""
    for path, value in smoke.items():
        _, stage, *keys = path.split(".")
        repeated, _, number = name.rpartition("-")
        is_repeat = repeated == stage and number.isdecimal()
        if name != stage and not is_repeat:
            continue
        target: Any = options
        for key in keys[:-1]:
            target = target[int(key)] if isinstance(target, list) else target[key]
        target[keys[-1]] = value


def _measured(
    prepared: Prepared, method: Method, recipe: Mapping[str, Any], path: Path, run: Path, wall: float
) -> MethodTime:
    """Return what a rehearsal shows.

    Args:
        prepared: the request.
        method: the method.
        recipe: its whole recipe.
        path: the recipe of the rehearsal.
        run: the directory of the rehearsal.
        wall: the rehearsal's seconds.
    """
    plan = resolve(load_recipe(path))
    inputs = RunInputs(plan)
    forward = dry_run.forward_seconds(inputs)
    share = dry_run.mean_share(inputs)
    laps = _laps(run)
    rehearsed = 0.0
    teacher = None
    trainings = []
    sizes = inputs.task.sizes
    fixed = 0.0
    for stage in recipe["stages"]:
        verb, options = next(iter(stage.items()))
        name = stage_name(stage)
        if verb == "train":
            written = prepared.lengths[method.name]
            factor = written.teacher if name == TEACHER else written.method
            training = _training(stage, laps[name], sizes["train"], forward, factor)
            rehearsed += STEPS * training.networks * training.step_seconds
            if options.get("keep") == "best":  # measured once an epoch
                fixed += training.epochs * sizes["select"] * forward
            if name == TEACHER:
                teacher = training
            else:
                trainings.append(training)
        elif verb == "evaluate":
            networks = 1 + len(prepared.targets[method.name])
            fixed += networks * sizes[options.get("split", "dev")] * forward
        elif verb == "search":
            fixed += options.get("trials", 100) * sizes["select"] * forward * share
    # Whatever a rehearsal takes besides its steps, a run takes, too: loading, rewiring, extracting.
    fixed += max(0.0, wall - rehearsed)
    return MethodTime(method.name, teacher, trainings, fixed)


def _laps(directory: Path) -> dict[str, list[list[float]]]:
    """Return stage → the times of its steps, of each network that it trained."""
    store = RunStore(directory, shared=True)
    rows = store.rows("metric")
    store.close()
    by_network: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        network, _, name = row["name"].rpartition(" ")  # as stages name the metrics of single networks
        if name == NAME:
            by_network.setdefault((row["stage"], network), []).append((row["step"], row["value"]))
    laps: dict[str, list[list[float]]] = {}
    for (stage, _), times in by_network.items():
        laps.setdefault(stage, []).append([seconds for _, seconds in sorted(times)])
    return laps


def _training(
    stage: Mapping[str, Any], laps: Sequence[Sequence[float]], examples: int, forward: float, factor: float
) -> Training:
    """Return what a training stage costs, given the times of its steps in a rehearsal.

    Args:
        stage: as the whole recipe writes it.
        laps: the times of its steps, of each network that it trains.
        examples: of an epoch.
        forward: seconds of a forward pass of one example through the whole network.
        factor: how many times as long as the method's packaged recipe says the stage is written.
    """
    options = next(iter(stage.values()))
    batch = options.get("batch_size", BATCH_SIZE)
    # The mean and not the median: steps of large and small sub-networks take turns.
    step_seconds = float(np.mean([np.mean(times[WARM_UP - 1 :]) for times in laps]))
    teachers = sum(asks_teacher(modifier) for modifier in options.get("modifiers") or ())
    cached = teachers * batch * forward if options.get("teacher_cache") == "run" else 0.0
    return Training(
        stage=stage_name(stage),
        epochs=float(options["epochs"]) / factor,
        steps_in_epoch=math.ceil(examples / batch),
        step_seconds=step_seconds,
        cached_seconds=min(cached, 0.9 * step_seconds),
        networks=len(laps),
    )


def total_seconds(times: Sequence[MethodTime], lengths: Mapping[str, Lengths], seeds: int, networks: int) -> float:
    """Return the seconds of all runs and exports.

    Args:
        times: of each method.
        lengths: method → how long it trains.
        seeds: how many seeds.
        networks: how many networks are exported.
    """
    of_runs = sum(time_of.seconds(lengths[time_of.method]) for time_of in times)
    teacher = next((time_of.teacher for time_of in times if time_of.teacher is not None), None)
    if teacher is not None:  # trained once a seed: the methods share it
        of_runs += teacher.seconds(lengths[times[0].method].teacher)
    return seeds * of_runs + networks * EXPORT_SECONDS


def fit_lengths(
    times: Sequence[MethodTime],
    lengths: Mapping[str, Lengths],
    seconds: float,
    seeds: int,
    networks: int,
    spent: float = 0.0,
) -> dict[str, Lengths]:
    """Return how long each method trains so that everything takes a given time.

    All methods are made longer or shorter by the same factor, and so keep their shares of the multiply-adds. A teacher
    is made shorter, but never longer than its recipe says.

    Args:
        times: of each method.
        lengths: method → how long it would train otherwise.
        seconds: the time for everything.
        seeds: how many seeds.
        networks: how many networks are exported.
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

    def needed(factor: float) -> float:
        return total_seconds(times, scaled(factor), seeds, networks)

    least = needed(LEAST)
    if least > wanted:
        minutes = math.ceil((spent + least / SLACK) / 60)
        raise UsageError(
            f"--minutes {seconds / 60:g}: too short. The start and the rehearsals took {duration(spent)}, and the "
            f"shortest trainings that make sense take {duration(least)}. Expected --minutes {minutes} or more, fewer "
            "methods, or fewer seeds."
        )
    low, high = LEAST, MOST
    if needed(high) <= wanted:
        return scaled(high)
    for _ in range(50):  # the time grows with the factor
        middle = (low + high) / 2
        if needed(middle) <= wanted:
            low = middle
        else:
            high = middle
    return scaled(low)


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
        shares = [target.share.percent / 100 for target in prepared.targets[method.name] if target.share is not None]
        share = float(np.mean(shares)) if shares else 1.0
        for row in dry_run.describe_stages(inputs, forward, share, plan):
            if row["name"] != TEACHER or trains_teacher:  # the methods share it
                seconds += len(prepared.request.seeds) * row["seconds"]
        trains_teacher = False
    return seconds
