"""What a study would do, without doing it: its runs, the stages that are shared or cached, costs and time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.plan import own_task
from nasframe.records import canonical_json
from nasframe.running import dry_run as dryrun
from nasframe.running.cache import Cache, default_folder
from nasframe.running.cache_keys import digest, stage_keys
from nasframe.running.start import materials
from nasframe.stages.inputs import RunInputs
from nasframe_studies.file import origin
from nasframe_studies.metric_check import check_metric

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe_studies.file import Study
    from nasframe_studies.settings import StudyRun

RunKey = tuple[str, str, int]
"""Arm, task and seed of a run."""


@dataclass(frozen=True)
class StageSeeds:
    """The seeds of an arm on a task, by how each gets the result of one stage.

    Args:
        kept: its run has the result already, in a study that is resumed.
        run: it runs the stage.
        shared: an earlier run of the study runs it.
        cached: it finds the result in the cache.
    """

    kept: list[int] = field(default_factory=list)
    run: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class StagePreview:
    """One stage of an arm on a task.

    Args:
        arm: the arm's name.
        task: the task's name.
        name: the stage's name.
        verb: ``train``, ``search`` …
        what: what it does, in words.
        seconds: the estimated time of one.
        kept: how many seeds have the result already, in a study that is resumed.
        run: how many seeds run it.
        shared: how many find it shared with an earlier run.
        cached: how many find it in the cache.
        seeds: which seeds these are.
    """

    arm: str
    task: str
    name: str
    verb: str
    what: str
    seconds: float
    kept: int
    run: int
    shared: int
    cached: int
    seeds: StageSeeds


@dataclass(frozen=True)
class ArmPreview:
    """The reachable costs of an arm on a task.

    Args:
        arm: the arm's name.
        task: the task's name.
        costs: as :func:`nasframe.running.dry_run.dry_run` returns them.
        limits: as there.
    """

    arm: str
    task: str
    costs: Mapping[str, Mapping[str, Any]]
    limits: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunPreview:
    """One run of a study that is resumed.

    Args:
        arm: the arm's name.
        task: the task's name.
        seed: the run's seed.
        state: ``finished``, ``unfinished``, or ``new`` if the study gets it now.
    """

    arm: str
    task: str
    seed: int
    state: Literal["finished", "unfinished", "new"]


@dataclass(frozen=True)
class Preview:
    """What a study would do.

    Args:
        stages: every stage of every arm on every task.
        arms: every arm on every task.
        runs: how many runs there are.
        stages_to_run: how many distinct stages must run.
        seconds: their estimated time, in one process.
        resumed: every run of a study that is resumed; empty for a new study.
    """

    stages: Sequence[StagePreview]
    arms: Sequence[ArmPreview]
    runs: int
    stages_to_run: int
    seconds: float
    resumed: Sequence[RunPreview] = ()

    def plain(self) -> dict[str, Any]:
        """Return the preview as JSON-plain data."""
        return asdict(self)


def preview(
    study: Study,
    cache: str | Path | None = None,
    threads: int | None = None,
    done: Mapping[RunKey, Collection[str]] | None = None,
) -> Preview:
    """Return what a study would do.

    Loads the data of every task and seed, because cache keys depend on them, and times a few training steps. Writes
    nothing.

    Args:
        study: the study.
        cache: the folder of stage results; default as for :func:`nasframe_studies.study.ablate`.
        threads: CPU threads of each run; default: as torch finds them.
        done: the stages that each run has behind it, of the runs that exist; ``None`` for a new study.

    Raises:
        UsageError: a task lacks the metric that is compared.
    """
    import torch

    # As the runs will be: the number of threads is part of the cache's keys, and times depend on it.
    if threads is not None:
        torch.set_num_threads(threads)
    check_metric(study)
    probe = _Probe()
    stage_cache = Cache(Path(cache or default_folder()))
    seeds_of = _seeds_by_stage(study, stage_cache, probe, done or {})
    stages: list[StagePreview] = []
    arms: list[ArmPreview] = []
    resumed: list[RunPreview] = []
    for run, plan in study.runs():
        if done is not None:
            resumed.append(_resumed(run, plan, done))
        if run.seed != study.seeds[0]:  # costs and times are those of the first seed
            continue
        outlook = probe.outlook(plan)
        arms.append(ArmPreview(run.arm, run.task, outlook.costs, outlook.limits))
        for row in outlook.stages:
            seeds = seeds_of[run.arm, run.task, row["name"]]
            stage = StagePreview(
                arm=run.arm,
                task=run.task,
                name=row["name"],
                verb=row["verb"],
                what=row["what"],
                seconds=row["seconds"],
                kept=len(seeds.kept),
                run=len(seeds.run),
                shared=len(seeds.shared),
                cached=len(seeds.cached),
                seeds=seeds,
            )
            stages.append(stage)
    return Preview(
        stages=stages,
        arms=arms,
        runs=len(study.seeds) * len(study.plans),
        stages_to_run=sum(stage.run for stage in stages),
        seconds=sum(stage.run * stage.seconds for stage in stages),
        resumed=resumed,
    )


def _resumed(run: StudyRun, plan: Plan, done: Mapping[RunKey, Collection[str]]) -> RunPreview:
    if run.key not in done:
        return RunPreview(run.arm, run.task, run.seed, "new")
    is_finished = all(stage.name in done[run.key] for stage in plan.stages)
    return RunPreview(run.arm, run.task, run.seed, "finished" if is_finished else "unfinished")


def _seeds_by_stage(
    study: Study, cache: Cache, probe: _Probe, done: Mapping[RunKey, Collection[str]]
) -> dict[tuple[str, str, str], StageSeeds]:
    """Return (arm, task, stage) → how each seed gets its result, when runs start in the order of the study."""
    built: set[str] = set()  # keys of the stages of earlier runs
    seeds_of: dict[tuple[str, str, str], StageSeeds] = {}
    for run, plan in study.runs():
        # Recipes may have different one-file plugins of one name, so each plan sees only its own.
        with plan.file_plugins():
            keys = stage_keys(plan, probe.start(plan))
        for stage, parts in zip(plan.stages, keys, strict=True):
            key = digest(parts)
            seeds = seeds_of.setdefault((run.arm, run.task, stage.name), StageSeeds())
            # The run may be of another machine or version, so that its result need not be the one of this key.
            if stage.name in done.get(run.key, ()):
                seeds.kept.append(run.seed)
                continue
            # In this order: a stage that the cache holds is cached for later runs too, not shared with an earlier one.
            if cache.holds(key):
                seeds.cached.append(run.seed)
            elif key in built:
                seeds.shared.append(run.seed)
            else:
                seeds.run.append(run.seed)
            built.add(key)
    return seeds_of


@dataclass(frozen=True)
class _Outlook:
    """What a run would do, and what it can reach; each part as :func:`nasframe.running.dry_run.dry_run` returns it."""

    stages: Sequence[Mapping[str, Any]]
    costs: Mapping[str, Mapping[str, Any]]
    limits: Sequence[Mapping[str, Any]]


class _Probe:
    """Loads data and measures speed, once for all runs that have them in common: both take seconds or more a run."""

    def __init__(self) -> None:
        self.starts: dict[str, list[dict[str, Any]]] = {}
        self.speeds: dict[str, float] = {}

    def start(self, plan: Plan) -> list[dict[str, Any]]:
        """Return digests of what the stages of a run start from."""
        # With the seed, since data and initial weights may depend on it. A plan without a model starts from its space.
        tasks = [own_task(stage) for stage in plan.stages]
        key = canonical_json([*origin(plan), plan.seed, plan.model or plan.space, tasks])
        if key not in self.starts:
            self.starts[key] = materials(RunInputs(plan))
        return self.starts[key]

    def outlook(self, plan: Plan) -> _Outlook:
        """Return what a run would do, and what it can reach."""
        with plan.file_plugins():
            return self._outlook(plan)

    def _outlook(self, plan: Plan) -> _Outlook:
        inputs = RunInputs(plan)
        work = inputs.work
        seconds = 0.0
        share = 1.0
        if work.net is not None:
            # Without the seed: it changes the weights, and speed does not depend on them.
            key = canonical_json(origin(plan))
            if key not in self.speeds:
                self.speeds[key] = dryrun.forward_seconds(inputs)
            seconds = self.speeds[key]
            # Of each plan by itself, since arms may have other spaces over one model.
            share = dryrun.mean_share(inputs)
        return _Outlook(
            stages=dryrun.describe_stages(inputs, seconds, share),
            costs=dryrun.ranges(inputs),
            limits=list(dryrun.limit_rows(inputs)),
        )
