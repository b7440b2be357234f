"""Compares samplers on a table of architectures: the same seeds, the same search loop, the same evaluations to spend.

One play is one sampler at one seed; :class:`nasframe_bench.records.Play` is its record. All figures are made from these
records, so a play that is kept need not be played again.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nasframe import registry
from nasframe.errors import NasframeError, RunError, UsageError, listing, suggestion
from nasframe.interfaces import start_sampler
from nasframe.plugin_errors import naming_plugins
from nasframe.progress import Progress
from nasframe.records import Arch, Trial, arch_id, canonical_json
from nasframe.search import constraints
from nasframe.search.constraints import parse_bounds
from nasframe.search.costs import cost_function, cost_rows, tables
from nasframe.search.guarded import GuardedSampler
from nasframe.search.loop import search
from nasframe.search.restrict import joined
from nasframe.seeds import stream_seed
from nasframe.store import write_text
from nasframe_bench.contest import Contest
from nasframe_bench.records import Play, RawPlay, play_json, read_play

SamplerUse = Mapping[str, Any]
"""A sampler with its options, as a recipe writes it: ``{"use": "evolution", "population": 20}``."""


class Arena:
    """A table made ready for plays: its domain, exact costs, bounds, and the true objectives if they are known.

    Args:
        contest: what is played.

    Attributes:
        points: ``(architectures, objectives)`` of all feasible rows; ``None`` if a model answers for missing rows.
        reference: the reference point of the hypervolume, one number an objective.

    Raises:
        UsageError: the table, an objective, a bound or a reference cannot be used.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.space = registry.make("space", contest.space)
        self.estimators = self.space.estimators
        self._check_names()
        self.bounds = {}
        for name, text in contest.bounds.items():
            full = self.estimators[name].estimate(None, None)  # the costliest row, which percentages refer to
            self.bounds[name] = parse_bounds(text, full)

        # An objective may be a metric or a cost; only costs have estimators.
        objectives = {name.removeprefix("-") for name in contest.objectives}
        used_names = {*contest.bounds, *objectives}
        self.cost_names = sorted(used_names & self.estimators.keys())
        used = {name: self.estimators[name] for name in self.cost_names}
        self.costs = cost_function(used, self.space, None)  # type: ignore[arg-type]

        self.points: np.ndarray | None = None
        if self.space.archs is not None:
            self.points = self._points(self.space.archs)
        self.reference = self._reference()

    def _check_names(self) -> None:
        """Make sure that the table has all costs and metrics that the contest names."""
        contest = self.contest
        for name in contest.bounds:
            if name not in self.estimators:
                raise UsageError(f"no cost {name!r} to bound. There are: {listing(self.estimators)}.")
        known = [*self.space.table.metrics, *self.estimators]
        for objective in (*contest.objectives, *contest.reference):
            name = objective.removeprefix("-")
            if name not in known:
                raise UsageError(f"no objective {name!r}. There are: {listing(known)}.{suggestion(name, known)}")

    def _points(self, archs: Sequence[Arch]) -> np.ndarray:
        """Return the objectives of the feasible architectures, ``(architectures, objectives)``."""
        rows = []
        for arch in archs:
            costs = self.costs(arch)
            if constraints.violation(costs, self.bounds) == 0:
                rows.append(self.objectives(self.evaluate(arch), costs))
        if not rows:
            raise UsageError("no architecture of the table meets the bounds.")
        return np.array(rows)

    def _reference(self) -> list[float]:
        """Return the contest's worst values, and the table's own for objectives without one."""
        points = self.points
        if points is None:  # a model answers for missing rows; the worst of the table's own rows still counts
            points = self._points([row["arch"] for row in self.space.table.rows])
        reference = points.min(0).tolist()
        for position, objective in enumerate(self.contest.objectives):
            worst = self.contest.reference.get(objective.removeprefix("-"))
            if worst is not None:
                reference[position] = -worst if objective.startswith("-") else worst
        return reference

    def evaluate(self, arch: Arch, examples: int | None = None) -> Mapping[str, float]:
        """Return an architecture's metrics in the table."""
        metrics: Mapping[str, float] = self.space.view(None, arch)()
        return metrics

    def objectives(self, metrics: Mapping[str, float], costs: Mapping[str, float]) -> list[float]:
        """Return the objectives of an architecture, all to be maximised."""
        measured = {**costs, **metrics}
        objectives = []
        for objective in self.contest.objectives:
            value = measured[objective.removeprefix("-")]
            objectives.append(-value if objective.startswith("-") else value)
        return objectives

    def sampler(self, use: SamplerUse, seed: int) -> Any:
        """Make a sampler as a search stage would."""
        inject = {
            "domain": self.space.domain,
            "seed": stream_seed(seed, "sampler", "bench"),
            "costs": cost_rows(self.estimators, self.cost_names, self.space, None),  # type: ignore[arg-type]
            "tables": tables(self.estimators, self.space, None),  # type: ignore[arg-type]
        }
        make = functools.partial(registry.make, "sampler", use, inject)
        return GuardedSampler(make, joined(self.space.domain, use))

    def refusal(self, use: SamplerUse) -> str | None:
        """Return why a sampler cannot search this table; ``None`` if it proposes an architecture.

        Some samplers refuse a domain only when they are first asked: if it is too large to list, for example.
        """
        try:
            sampler = self.sampler(use, 0)
            start_sampler(sampler, "bench", self.contest.budget, "search")
            sampler.ask(1)
        except NasframeError as error:
            return str(error)
        return None


def arena_of(contest: Contest) -> Arena:
    """Return the arena of a contest, made once in each process."""
    return _arena(canonical_json(asdict(contest)))  # a contest holds mappings, which a cache cannot look up


@functools.lru_cache(maxsize=2)
def _arena(text: str) -> Arena:
    content = json.loads(text)
    for field in fields(Contest):
        if isinstance(content[field.name], list):  # JSON knows no tuples
            content[field.name] = tuple(content[field.name])
    contest = Contest(**content)
    with registry.file_plugins(contest.plugins):
        return Arena(contest)


# ---- one play


@naming_plugins()
def play(contest: Contest, use: SamplerUse, seed: int) -> Play:
    """Let one sampler search the table at one seed.

    Args:
        contest: what it plays.
        use: the sampler with its options.
        seed: the run's seed, from which the sampler's is made.
    """
    arena = arena_of(contest)
    with registry.file_plugins(contest.plugins):
        return _play(arena, use, seed)


def _play(arena: Arena, use: SamplerUse, seed: int) -> Play:
    timed: Any = _TimedSampler(arena.sampler(use, seed))
    trials: list[Trial] = []
    ended = ""
    try:
        search(
            timed,
            joined(arena.space.domain, use),
            arena.evaluate,
            arena.costs,
            objectives=arena.contest.objectives,
            bounds=arena.bounds,
            trials=arena.contest.budget,
            on_trial=lambda number, trial, seconds: trials.append(trial),
            stage="bench",
        )
    except RunError as error:  # nothing was evaluated, or too little to name a winner
        ended = str(error)

    points = []
    for trial in trials:
        if trial.state == "done":
            objectives: Any = trial.objectives or (trial.score,)  # with one objective, a trial has a score only
            points.append(list(objectives))
    raw = None
    if arena.contest.raw:
        raw = _play_raw(arena, use, seed)
    return Play(
        points=points,
        proposals=timed.states.total(),
        ended=ended,
        asks=timed.asks,
        repeat=timed.states["repeat"],
        screened=timed.states["screened"],
        failed=timed.states["failed"],
        ask_seconds=timed.ask_seconds,
        tell_seconds=timed.tell_seconds,
        raw=raw,
    )


def _play_raw(arena: Arena, use: SamplerUse, seed: int) -> RawPlay:
    """Evaluate all proposals of a sampler, repeated and infeasible ones too."""
    budget = arena.contest.budget
    sampler = arena.sampler(use, seed)
    seen: set[str] = set()
    proposals = repeats = infeasible = 0
    start_sampler(sampler, "bench", budget, "search")
    while proposals < budget:
        batch = sampler.ask(1)
        if not batch:  # the sampler has nothing more to propose
            break
        for proposal in batch:
            arch = arena.space.domain.canonical(proposal)
            trial = _raw_trial(arena, arch)
            key = arch_id(arch)
            if key in seen:
                repeats += 1
            if trial.violation > 0:
                infeasible += 1
            seen.add(key)
            proposals += 1
            sampler.tell([trial])
    return RawPlay(proposals=proposals, repeat=repeats, infeasible=infeasible)


def _raw_trial(arena: Arena, arch: Arch) -> Trial:
    costs = arena.costs(arch)
    metrics = arena.evaluate(arch)
    excess = constraints.violation(costs, arena.bounds)
    if not metrics:  # the table does not have it
        return Trial(arch, math.nan, (), metrics, costs, excess, "failed")
    objectives = arena.objectives(metrics, costs)
    # As in the search loop: a trial lists its objectives only if there are several.
    several = tuple(objectives) if len(objectives) > 1 else ()
    return Trial(arch, objectives[0], several, metrics, costs, excess, "done")


class _TimedSampler:
    """Passes calls on to a sampler, adds up their time, and counts the states of its trials."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.states: Counter[str] = Counter()
        self.asks = 0
        self.ask_seconds = 0.0
        self.tell_seconds = 0.0

    def start(self, stage: str, total: int) -> None:
        self.sampler.start(stage, total, "search")

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        began = time.perf_counter()
        archs: list[Arch] = self.sampler.ask(n, within=within)
        self.ask_seconds += time.perf_counter() - began
        self.asks += 1
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        began = time.perf_counter()
        self.sampler.tell(trials)
        self.tell_seconds += time.perf_counter() - began
        self.states.update(trial.state for trial in trials)


# ---- all plays


@dataclass(frozen=True)
class _Task:
    """A play to be found or played; ``file`` is where its record is kept, if records are kept."""

    label: str
    seed: int
    use: SamplerUse
    file: Path | None

    def kept(self) -> Play | None:
        """Return the record of an earlier call."""
        if self.file is None or not self.file.is_file():
            return None
        return read_play(json.loads(self.file.read_text()))

    def keep(self, play: Play) -> None:
        """Write a record for later calls."""
        if self.file is not None:
            write_text(self.file, json.dumps(play_json(play)))


def play_all(
    contest: Contest,
    uses: Mapping[str, SamplerUse],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Play]]:
    """Let every sampler play at every seed.

    Args:
        contest: what they play.
        uses: label → sampler with its options.
        seeds: the same for all, so that differences are paired.
        jobs: processes.
        folder: where plays are kept, and found by a later call; if a sampler's source changes, it plays again.
        progress: shows how far it is.

    Returns:
        Label → its plays, in the order of the seeds.

    Raises:
        UsageError: some samplers cannot be made or refuse the table; names all of them, before any play.
    """
    tasks = []
    with registry.file_plugins(contest.plugins):
        _check_samplers(arena_of(contest), uses)
        digests = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            digests = {label: _digest(contest, use) for label, use in uses.items()}
        # All samplers of a seed before the next seed: a call that is stopped leaves complete pairs.
        for seed in seeds:
            for label, use in uses.items():
                file = None
                if folder is not None:
                    file = folder / f"{use['use']}-{digests[label]}-{seed}.json"
                tasks.append(_Task(label, seed, use, file))

    plays: dict[tuple[str, int], Play] = {}
    missing = []
    for task in tasks:
        kept = task.kept()
        if kept is None:
            missing.append(task)
        else:
            plays[task.label, task.seed] = kept
    with (progress or Progress(False)).bar("bench") as advance:
        for task, new in _play_tasks(contest, missing, jobs):
            plays[task.label, task.seed] = new
            task.keep(new)  # at once, so that a call that is stopped loses no finished play
            advance(len(plays), len(tasks), task.label)
    by_label = {}
    for label in uses:
        by_label[label] = [plays[label, seed] for seed in seeds]
    return by_label


def _check_samplers(arena: Arena, uses: Mapping[str, SamplerUse]) -> None:
    problems = []
    for label, use in uses.items():
        refusal = arena.refusal(use)
        if refusal is not None:
            problems.append(f"{label}: {refusal}")
    if problems:
        raise UsageError("\n".join(problems))


def _play_tasks(contest: Contest, tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[_Task, Play]]:
    """Play, in this process or in several, and yield each record as soon as it is there."""
    if jobs < 2:
        for task in tasks:
            yield task, play(contest, task.use, task.seed)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {}
        for task in tasks:
            futures[pool.submit(play, contest, task.use, task.seed)] = task
        for future in as_completed(futures):
            yield futures[future], future.result()


def _digest(contest: Contest, use: SamplerUse) -> str:
    """Return a digest of all that a sampler's plays depend on and that files can show."""
    source = inspect.getsourcefile(registry.find("sampler", use["use"]).load()) or ""
    # A sampler may import the files beside its own, so all of its folder counts.
    files = sorted(Path(source).parent.glob("*.py"))
    files.append(Path(contest.space.get("path", "")))
    digest = hashlib.sha256(canonical_json([asdict(contest), use]).encode())
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]
