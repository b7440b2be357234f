"""How long methods take on this machine, measured by a rehearsal: every stage is run, on the user's model and data.

A rehearsal also shows that all stages work, before any of them takes long. It has to be short, as its time is taken
from that of the methods:

- model, tokenizer and data are those that were loaded to look at them;
- trainings have a few steps, and the teacher is trained for the first method only, as the methods share it;
- what is measured on examples is measured on a few of them; :class:`SampledTask` knows how many there would be;
- latencies are measured for the first method only;
- nothing is written between the stages; one such write is timed, and counted for all stages;
- once rehearsals have taken a good part of the time, the other methods' costs are worked out from the first one's, by
  how many passes through the network a step of theirs is.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe import registry
from nasframe.declarations import TEACHER
from nasframe.errors import NasframeError, RecipeError, UsageError, listing
from nasframe.interfaces import TrainerTraits, traits_of
from nasframe.plan import asks_teacher
from nasframe.progress import Progress
from nasframe.recipe.loading import load_recipe
from nasframe.recipe.resolve import resolve
from nasframe.recipe.yaml import dump
from nasframe.running.runner import StageRunner
from nasframe.stages.inputs import RunInputs
from nasframe.stages.session import StageSession
from nasframe.stages.verbs import perform
from nasframe.store import RunStore, write_text
from nasframe_compress.compose import BATCH_SIZE, probe_uses, search_default
from nasframe_compress.methods import Method, stage_name
from nasframe_compress.prepare import RECIPE, Prepared
from nasframe_compress.stopwatch import NAME
from nasframe_compress.timing import Evaluations, MethodTime, Training

if TYPE_CHECKING:
    from nasframe.interfaces import Evaluation, Forward, Task, Work
    from nasframe.plan import Plan

STEPS = 5
"""Steps of each training in a rehearsal. The first has no time: it fills caches and allocates memory."""
TRIALS = 2
"""Networks that a search evaluates in a rehearsal."""
EXAMPLES = 40
"""On how many examples a network is measured in a rehearsal."""
FEW_EXAMPLES = 8
"""And on how many before that: the difference is the time of the examples without what every measurement takes."""
LEAST_SLOPE = 0.5
"""An example takes at least this part of the mean of all: on a busy machine the difference may even be negative."""
PASSES = 3
"""Forward passes that a forward and a backward pass are worth."""
MOST_OF_TIME = 0.25
"""The part of the time after which no further method is rehearsed."""


@dataclass(frozen=True)
class Measured:
    """One evaluation in a rehearsal.

    Args:
        stage: during which stage.
        split: of the data.
        seconds: what it took, with ``taken`` examples.
        asked: how many examples there would be.
        taken: how many there were.
        few_seconds: what it took with fewer of them.
        few: how many these were.
    """

    stage: str
    split: str
    seconds: float
    asked: int
    taken: int
    few_seconds: float = 0.0
    few: int = 0

    @property
    def spent(self) -> float:
        """Seconds of both measurements."""
        return self.seconds + self.few_seconds

    @property
    def example_seconds(self) -> float:
        """Seconds of one example more."""
        if self.taken == self.few:
            return self.seconds / max(self.taken, 1)
        slope = (self.seconds - self.few_seconds) / (self.taken - self.few)
        return max(slope, LEAST_SLOPE * self.seconds / self.taken)

    @property
    def whole_seconds(self) -> float:
        """Seconds of all examples that were asked for.

        >>> Measured("evaluate", "dev", seconds=0.5, asked=800, taken=40, few_seconds=0.25, few=8).whole_seconds
        6.4375
        """
        return self.seconds + (self.asked - self.taken) * self.example_seconds


class SampledTask:
    """A task that measures networks on a few examples, and notes how many it was asked for, and how long it took.

    Everything else is the task's own.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.stage = ""
        self.measured: list[Measured] = []

    def __getattr__(self, name: str) -> Any:
        """Return what the task has under this name."""
        if name == "task":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self.task, name)

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on at most ``EXAMPLES`` examples."""
        size = self.task.sizes[split]
        asked = size if examples is None else min(examples, size)
        taken = min(asked, EXAMPLES)
        few = min(taken, FEW_EXAMPLES)
        if not self.measured:  # the first time also imports what computes the metrics
            self.task.evaluate(forward, split, few)
        _, few_seconds = self._timed(forward, split, few)
        result, seconds = self._timed(forward, split, taken)
        self.measured.append(Measured(self.stage, split, seconds, asked, taken, few_seconds, few))
        return result

    def _timed(self, forward: Forward, split: str, examples: int) -> tuple[Evaluation, float]:
        """Measure a network on some examples, and return the seconds that this took."""
        began = time.perf_counter()
        result = self.task.evaluate(forward, split, examples)
        return result, time.perf_counter() - began


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal says.

    Args:
        time: of the method.
        forward: seconds of one example's forward pass through the whole network.
        cost_seconds: of measuring costs, such as latencies.
        work_ratio: how much longer a step takes than its passes through the network let expect.
    """

    time: MethodTime
    forward: float
    cost_seconds: float
    work_ratio: float


def rehearse_all(prepared: Prepared, seconds: float, clock: Callable[[], float]) -> Iterator[tuple[MethodTime, bool]]:
    """Rehearse the methods, one after the other, as long as there is time for it.

    Args:
        prepared: the request.
        seconds: the time of everything.
        clock: returns how much of it has passed.

    Yields:
        What each method costs, and whether it was rehearsed. All have the first one's teacher.

    Raises:
        NasframeError: a stage fails, as it would have after hours; or a method cannot be timed.
    """
    _refuse_other_tasks(prepared.methods)
    first, *others = prepared.methods
    began = clock()
    shared = _rehearse(prepared, first, None)
    longest = clock() - began
    yield shared.time, True
    for method in others:
        if clock() + longest > MOST_OF_TIME * seconds:
            yield _worked_out(prepared, method, shared), False
            continue
        began = clock()
        time_of = _rehearse(prepared, method, shared).time
        longest = max(longest, clock() - began)
        yield replace(time_of, teacher=shared.time.teacher), True


def _refuse_other_tasks(methods: Sequence[Method]) -> None:
    """Refuse methods that train for other tasks than the user's: their texts and lengths have nothing to do with it.

    Raises:
        UsageError: names them.
    """
    names = []
    for method in methods:
        options = [next(iter(stage.values())) or {} for stage in method.stages]
        if any("task" in of_stage for of_stage in options):
            names.append(method.name)
    if names:
        raise UsageError(
            f"--minutes: {listing(names)} also trains for a task of its own, which cannot be fitted to a time. "
            "Expected other --methods, or no --minutes."
        )


def _rehearse(prepared: Prepared, method: Method, shared: Rehearsed | None) -> Rehearsed:
    """Run a method's stages with a few steps each.

    Args:
        prepared: the request.
        method: the method.
        shared: what the first rehearsal said; ``None`` if this is it.
    """
    recipe = prepared.recipe(method)
    with _scratch(prepared) as folder:
        path = folder / prepared.setup.folder.relative_to(prepared.folder) / RECIPE
        path.parent.mkdir(exist_ok=True)
        stages = shortened(recipe["stages"], method.smoke, is_first=shared is None)
        write_text(path, dump({**recipe, "stages": stages}))
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # what it says has been said, or will be by the run
                observed = _run_stages(prepared, resolve(load_recipe(path)), folder / "run")
        except NasframeError as error:
            # A new error, since the notes of this one say how to go on with the rehearsal.
            has_problems = isinstance(error, RecipeError)  # one of these is made of a list, and not of a text
            kind = UsageError if has_problems else type(error)
            raise kind(f"{method.name}: {error}") from None
    return _costs(prepared, method, recipe, observed, shared)


@contextmanager
def _scratch(prepared: Prepared) -> Iterator[Path]:
    """Make a folder that is gone after the block."""
    # Beside the folder, so that relative paths are the same.
    folder = prepared.folder.with_name(f".{prepared.folder.name}.rehearsal")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- a short recipe


def shortened(stages: Sequence[Mapping[str, Any]], smoke: Mapping[str, Any], is_first: bool) -> list[dict[str, Any]]:
    """Return stages that do the same in a few steps.

    Args:
        stages: the method's.
        smoke: dotted path → value, with which they work in a few steps.
        is_first: whether what methods share is measured: the training of the teacher, which else has one step, and
            latencies.
    """
    short = []
    for stage in stages:
        verb, written = next(iter(copy.deepcopy(dict(stage)).items()))
        options = written or {}
        name = stage_name(stage)
        _apply(smoke, name, options)
        if verb == "train":
            options.pop("epochs", None)
            options["max_steps"] = max(STEPS, options.get("max_steps", 0))
            if name == TEACHER and not is_first:
                options["max_steps"] = 1
                options.pop("keep", None)
            if takes_modifiers(options):
                options["modifiers"] = [*(options.get("modifiers") or []), {"use": "stopwatch"}]
        elif verb == "search":
            options.pop("examples", None)  # the task takes a few by itself, and knows how many it should have
            options |= {"trials": TRIALS, "finalists": 1}
        elif verb == "evaluate" and not is_first:
            options["costs"] = []
        for probe in probe_uses({verb: options}):
            probe.use["batches"] = 1
        short.append({verb: options})
    return short


def takes_modifiers(options: Mapping[str, Any]) -> bool:
    """Tell whether the trainer of a stage has a place for modifiers.

    >>> takes_modifiers({}), takes_modifiers({"trainer": {"use": "blockwise"}})
    (True, False)
    """
    use = options.get("trainer")
    if use is None:
        return True
    name, _ = registry.use_of(use)
    return bool(traits_of(TrainerTraits, registry.find("trainer", name).load()).takes_modifiers)


def _apply(smoke: Mapping[str, Any], name: str, options: dict[str, Any]) -> None:
    """Apply those overrides that are meant for a stage, or for the stage that it repeats, as ``sparse-2`` does."""
    for path, value in smoke.items():
        _, stage, *keys = path.split(".")
        repeated, _, number = name.rpartition("-")
        is_repeat = repeated == stage and number.isdecimal()
        if name != stage and not is_repeat:
            continue
        if keys == ["batch_size"]:  # steps as large as the whole training has are timed
            continue
        target: Any = options
        for key in keys[:-1]:
            target = target[int(key)] if isinstance(target, list) else target[key]
        target[keys[-1]] = value


# ---- running it


@dataclass(frozen=True)
class Observed:
    """What a rehearsal showed.

    Args:
        wall: its seconds.
        write_seconds: of writing what a stage leaves.
        stages: how many were run.
        evaluate_seconds: of the stages that evaluate.
        laps: stage → the times of its steps, of each network that it trained.
        measured: its evaluations.
    """

    wall: float
    write_seconds: float
    stages: int
    evaluate_seconds: float
    laps: Mapping[str, Sequence[Sequence[float]]]
    measured: Sequence[Measured]

    def laps_of(self, stage: str) -> list[Sequence[float]]:
        """Return the times of a stage's steps, of each network that has any."""
        return [times for times in self.laps.get(stage, []) if times]

    def measured_in(self, stage: str) -> list[Measured]:
        """Return the evaluations of a stage."""
        return [entry for entry in self.measured if entry.stage == stage]

    @property
    def first_forward(self) -> float:
        """Seconds of one example's forward pass through the whole network, which is measured first."""
        return self.measured[0].example_seconds if self.measured else 0.0


def _run_stages(prepared: Prepared, plan: Plan, directory: Path) -> Observed:
    """Run the stages of a short recipe on what was loaded already."""
    looked = prepared.look.inputs
    task = SampledTask(looked.task)
    inputs = RunInputs(plan, tokenizer=looked.tokenizer)
    inputs.__dict__["task"] = task  # in place of reading the data again
    began = time.monotonic()
    write_seconds = evaluate_seconds = 0.0
    store = RunStore(directory, create=True, recipe=dump(plan.recipe), facts={"base": str(plan.base.absolute())})
    try:
        runner = StageRunner(inputs, store, Progress(False))
        work: Work = inputs.work
        for position, stage in enumerate(plan.stages):
            task.stage = stage.name
            store.start_stage(stage.name, position, stage.verb)
            part = StageSession(runner.session, stage)
            stage_began = time.monotonic()
            work = perform(work, part)
            if stage.verb == "evaluate":
                evaluate_seconds += time.monotonic() - stage_began
            store.end_stage(stage.name, "done", 0.0, part.result)
            if position == 0:
                writing_began = time.monotonic()
                runner.snapshots.save(stage.name, work)
                write_seconds = time.monotonic() - writing_began
        laps = _laps(store)
    finally:
        store.close()
    wall = time.monotonic() - began - write_seconds
    return Observed(wall, write_seconds, len(plan.stages), evaluate_seconds, laps, task.measured)


def _laps(store: RunStore) -> dict[str, list[list[float]]]:
    """Return stage → the times of its steps, of each network that it trained."""
    by_network: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in store.rows("metric"):
        network, _, name = row["name"].rpartition(" ")  # as stages name the metrics of single networks
        if name == NAME:
            by_network.setdefault((row["stage"], network), []).append((row["step"], row["value"]))
    laps: dict[str, list[list[float]]] = {}
    for (stage, _), times in by_network.items():
        laps.setdefault(stage, []).append([seconds for _, seconds in sorted(times)])
    return _ledger_laps(store) | laps


def _ledger_laps(store: RunStore) -> dict[str, list[list[float]]]:
    """Return stage → the mean time of its steps, each written once, as its ledger has it: of one network.

    That is all that is known of a trainer without modifiers, which cannot have a stopwatch.
    """
    seconds: dict[str, float] = {}
    steps: dict[str, int] = {}
    for row in store.rows("ledger"):
        if row["role"] in ("student", "teacher"):
            seconds[row["stage"]] = seconds.get(row["stage"], 0.0) + row["run_seconds"]
        if row["role"] == "student":
            steps[row["stage"]] = row["steps"]
    laps = {}
    for stage, count in steps.items():
        if count:
            laps[stage] = [[seconds[stage] / count] * max(count - 1, 1)]
    return laps


# ---- what it means for the whole


def _costs(
    prepared: Prepared, method: Method, recipe: Mapping[str, Any], observed: Observed, shared: Rehearsed | None
) -> Rehearsed:
    """Return what a method costs, given its rehearsal."""
    examples = prepared.look.inputs.task.sizes["train"]
    written = prepared.lengths[method.name]
    forward = observed.first_forward if shared is None else shared.forward
    teacher = None
    teacher_stage = next((stage for stage in recipe["stages"] if _is_training(stage, of_teacher=True)), None)
    if teacher_stage is not None and shared is None:
        teacher = _measured_training(teacher_stage, observed, examples, forward, written.teacher)
        # Its steps are longer than evaluations, and nothing but passes: a better measure of these.
        forward = teacher.step_seconds / (PASSES * _batch_size(teacher_stage))
    stages = [stage for stage in recipe["stages"] if _is_training(stage, of_teacher=False)]
    trainings = [_measured_training(stage, observed, examples, forward, written.method) for stage in stages]
    probe_seconds = _probe_passes(recipe, examples) * forward
    evaluations = _measured_evaluations(recipe, observed, probe_seconds)

    # Whatever a rehearsal takes besides its steps, a run takes, too: rewiring, extracting, measuring latencies.
    evaluating = sum(entry.spent for entry in observed.measured)
    stepping = sum(_rehearsed_seconds(training, observed) for training in [teacher, *trainings] if training is not None)
    others = max(0.0, observed.wall - evaluating - stepping)
    if shared is not None:
        others += shared.cost_seconds
    fixed = others + observed.stages * observed.write_seconds
    return Rehearsed(
        time=MethodTime(method.name, teacher, trainings, fixed, evaluations),
        forward=forward,
        cost_seconds=_cost_seconds(recipe, observed),
        work_ratio=_work_ratio(stages, trainings, prepared.mean_share(method), forward),
    )


def _is_training(stage: Mapping[str, Any], of_teacher: bool) -> bool:
    """Tell whether a stage trains the teacher, or trains something else."""
    return "train" in stage and (stage_name(stage) == TEACHER) == of_teacher


def _batch_size(stage: Mapping[str, Any]) -> int:
    """Return the batch size of a training stage."""
    return int(stage["train"].get("batch_size", BATCH_SIZE))


def _trials(stage: Mapping[str, Any]) -> int:
    """Return how many networks a search stage evaluates."""
    return int((stage["search"] or {}).get("trials", search_default("trials")))


def _measured_training(
    stage: Mapping[str, Any], observed: Observed, examples: int, forward: float, factor: float
) -> Training:
    """Return what a training stage costs that was rehearsed; see :func:`_training`."""
    name = stage_name(stage)
    return _training(stage, observed.laps_of(name), examples, forward, factor, observed.measured_in(name))


def _rehearsed_seconds(training: Training, observed: Observed) -> float:
    """Return the seconds of a training's steps in a rehearsal; the first one of each network has no lap."""
    steps = len(observed.laps_of(training.stage)[0]) + 1
    return steps * training.networks * training.step_seconds


def _measured_evaluations(recipe: Mapping[str, Any], observed: Observed, probe_seconds: float) -> Evaluations:
    """Return what a method measures besides its trainings, given its rehearsal."""
    select = dev = search = 0.0
    trials = 0
    for stage in recipe["stages"]:
        entries = observed.measured_in(stage_name(stage))
        if "search" in stage:
            trials = _trials(stage)
            search = trials * float(np.mean([entry.whole_seconds for entry in entries] or [0.0]))
        elif "train" not in stage:
            select += sum(entry.whole_seconds for entry in entries if entry.split == "select")
            dev += sum(entry.whole_seconds for entry in entries if entry.split == "dev")
    return Evaluations(select, dev, search, trials, probe_seconds)


def _cost_seconds(recipe: Mapping[str, Any], observed: Observed) -> float:
    """Return the seconds of measuring costs: what stages that evaluate took besides the examples."""
    measuring = 0.0
    for stage in recipe["stages"]:
        if "evaluate" in stage:
            measuring += sum(entry.spent for entry in observed.measured_in(stage_name(stage)))
    return max(0.0, observed.evaluate_seconds - measuring)


def _work_ratio(
    stages: Sequence[Mapping[str, Any]], trainings: Sequence[Training], share: float, forward: float
) -> float:
    """Return how much longer steps take than their passes through the network let expect; 1 if there are none."""
    expected = measured = 0.0
    for stage, training in zip(stages, trainings, strict=True):
        expected += step_passes(stage["train"], share) * forward
        measured += training.step_seconds / _batch_size(stage)
    return measured / expected if expected else 1.0


def _probe_passes(recipe: Mapping[str, Any], examples: int) -> float:
    """Return how many forward passes of one example the importance in a recipe is worth."""
    passes = 0.0
    for stage in recipe["stages"]:
        for probe in probe_uses(stage):
            in_epoch = math.ceil(examples / probe.batch_size)
            passes += PASSES * min(probe.batches, in_epoch) * probe.batch_size
    return passes


def step_passes(options: Mapping[str, Any], share: float) -> float:
    """Return how many forward passes through the whole network an example costs in a step of a training.

    Args:
        options: of the stage.
        share: the part of the network that its sub-networks, or its models, have on average.

    >>> step_passes({"sampler": "shared", "archs_per_step": 2, "modifiers": [{"use": "kd", "teacher": "teacher"}]}, 0.5)
    4.0
    """
    size = 1.0
    if options.get("sampler") is not None:
        size = share * options.get("archs_per_step", 1)
    elif options.get("models") is not None:
        size = share
    teachers = sum(asks_teacher(modifier) for modifier in options.get("modifiers") or ())
    return PASSES * size + teachers


def _worked_out(prepared: Prepared, method: Method, shared: Rehearsed) -> MethodTime:
    """Return what a method costs that was not rehearsed, by the passes of its steps, and the first method's costs."""
    recipe = prepared.recipe(method)
    sizes = prepared.look.inputs.task.sizes
    share = prepared.mean_share(method)
    written = prepared.lengths[method.name]
    trainings = []
    trials = 0
    for stage in recipe["stages"]:
        if "search" in stage:
            trials = _trials(stage)
        if not _is_training(stage, of_teacher=False):
            continue
        options = stage["train"]
        seconds = shared.work_ratio * step_passes(options, share) * _batch_size(stage) * shared.forward
        networks = len(prepared.targets[method.name]) if options.get("models") is not None else 1
        trainings.append(_training(stage, [[seconds]] * networks, sizes["train"], shared.forward, written.method, []))
    search_seconds = trials * sizes["select"] * share * shared.forward
    probe_seconds = _probe_passes(recipe, sizes["train"]) * shared.forward
    of_first = shared.time.evaluations
    evaluations = Evaluations(of_first.select, of_first.dev, search_seconds, trials, probe_seconds)
    return MethodTime(method.name, shared.time.teacher, trainings, shared.time.fixed, evaluations)


def _training(
    stage: Mapping[str, Any],
    laps: Sequence[Sequence[float]],
    examples: int,
    forward: float,
    factor: float,
    evaluations: Sequence[Measured],
) -> Training:
    """Return what a training stage costs.

    Args:
        stage: as the whole recipe writes it.
        laps: the times of its steps in the rehearsal, of each network that it trains.
        examples: of an epoch.
        forward: seconds of a forward pass of one example through the whole network.
        factor: how many times as long as the method's packaged recipe says the stage is written.
        evaluations: of the stage in the rehearsal.
    """
    options = stage["train"]
    batch = _batch_size(stage)
    steps_in_epoch = math.ceil(examples / batch)
    epochs = options["epochs"] / factor if "epochs" in options else options["max_steps"] / steps_in_epoch
    # The mean and not the median: steps of large and small sub-networks take turns.
    step_seconds = float(np.mean([np.mean(times) for times in laps]))
    teachers = sum(asks_teacher(modifier) for modifier in options.get("modifiers") or ())
    cached = teachers * batch * forward if options.get("teacher_cache") == "run" else 0.0
    evaluated = 0.0
    if options.get("keep") == "best" and evaluations:  # measured once an epoch
        evaluated = float(np.mean([entry.whole_seconds for entry in evaluations]))
    return Training(
        stage=stage_name(stage),
        epochs=float(epochs),
        steps_in_epoch=steps_in_epoch,
        step_seconds=step_seconds,
        cached_seconds=min(cached, 0.9 * step_seconds),
        networks=len(laps),
        evaluation_seconds=evaluated,
    )
