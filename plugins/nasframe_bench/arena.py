"""Compares samplers on a table of architectures: the same seeds, the same search loop, the same evaluations to spend.

One play is one sampler at one seed. Its record holds the objectives of everything it evaluated, in order, and what it
wasted. All figures are made from these records, so a play that is kept need not be played again.
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
from dataclasses import asdict, dataclass
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
from nasframe.search.costs import cost_function, cost_rows
from nasframe.search.loop import search
from nasframe.search.restrict import joined
from nasframe.seeds import stream_seed
from nasframe.store import write_text
from nasframe_bench.contest import Contest

SamplerUse = Mapping[str, Any]
"""A sampler with its options, as a recipe writes it: ``{"use": "evolution", "population": 20}``."""


@dataclass(frozen=True)
class RawPlay:
    """How often a sampler repeats itself and leaves the bounds when the search loop does not stop it."""

    proposals: int
    repeat: int
    infeasible: int


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
            full = self.estimators[name].estimate(None, None)
            self.bounds[name] = parse_bounds(text, full)

        objectives = {name.removeprefix("-") for name in contest.objectives}
        self.cost_names = sorted({*contest.bounds, *objectives} & self.estimators.keys())
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
        if points is None:
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
        known = {**costs, **metrics}
        values = []
        for objective in self.contest.objectives:
            name = objective.removeprefix("-")
            values.append(-known[name] if objective.startswith("-") else known[name])
        return values

    def sampler(self, use: SamplerUse, seed: int) -> Any:
        """Make a sampler as a search stage would."""
        inject = {
            "domain": self.space.domain,
            "seed": stream_seed(seed, "sampler", "bench"),
            "costs": cost_rows(self.estimators, self.cost_names, self.space, None),  # type: ignore[arg-type]
        }
        return registry.make("sampler", use, inject)


@functools.lru_cache(maxsize=2)
def _arena(contest: str) -> Arena:
    fields: dict[str, Any] = {}
    for key, value in json.loads(contest).items():
        fields[key] = tuple(value) if isinstance(value, list) else value
    with registry.file_plugins(fields["plugins"]):
        return Arena(Contest(**fields))


def arena_of(contest: Contest) -> Arena:
    """Return the arena of a contest, made once."""
    return _arena(canonical_json(asdict(contest)))


# ---- one play


@naming_plugins()
def play(contest: str, use: SamplerUse, seed: int) -> dict[str, Any]:
    """Let one sampler search the table at one seed.

    Args:
        contest: a contest as canonical JSON.
        use: the sampler with its options.
        seed: the run's seed, from which the sampler's is made.

    Returns:
        JSON-plain: ``points`` (the objectives of each evaluation, in order), counts of the other proposals, and the
        seconds spent in ``ask`` and ``tell``.
    """
    arena = _arena(contest)
    with registry.file_plugins(arena.contest.plugins):
        return _play(arena, use, seed)


def _play(arena: Arena, use: SamplerUse, seed: int) -> dict[str, Any]:
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
    points = [list(trial.objectives or (trial.score,)) for trial in trials if trial.state == "done"]
    record = {
        "points": points,
        "proposals": timed.states.total(),
        "ended": ended,
        "asks": timed.asks,
        "repeat": timed.states["repeat"],
        "screened": timed.states["screened"],
        "failed": timed.states["failed"],
        "ask_seconds": timed.ask_seconds,
        "tell_seconds": timed.tell_seconds,
    }
    if arena.contest.raw:
        record["raw"] = asdict(_play_raw(arena, use, seed))
    return record


def _play_raw(arena: Arena, use: SamplerUse, seed: int) -> RawPlay:
    """Evaluate all proposals of a sampler, repeated and infeasible ones too."""
    budget = arena.contest.budget
    sampler = arena.sampler(use, seed)
    archs: set[str] = set()
    proposals = repeats = infeasible = 0
    start_sampler(sampler, "bench", budget, "search")
    while proposals < budget:
        asked = sampler.ask(1)
        if not asked:
            break
        for proposal in asked:
            arch = arena.space.domain.canonical(proposal)
            trial = _raw_trial(arena, arch)
            key = arch_id(arch)
            if key in archs:
                repeats += 1
            if trial.violation > 0:
                infeasible += 1
            archs.add(key)
            proposals += 1
            sampler.tell([trial])
    return RawPlay(proposals, repeats, infeasible)


def _raw_trial(arena: Arena, arch: Arch) -> Trial:
    costs = arena.costs(arch)
    metrics = arena.evaluate(arch)
    excess = constraints.violation(costs, arena.bounds)
    if not metrics:  # the table does not have it
        return Trial(arch, math.nan, (), metrics, costs, excess, "failed")
    objectives = arena.objectives(metrics, costs)
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
        start_sampler(self.sampler, stage, total, "search")

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

    def kept(self) -> dict[str, Any] | None:
        """Return the record of an earlier call."""
        if self.file is None or not self.file.is_file():
            return None
        record: dict[str, Any] = json.loads(self.file.read_text())
        return record


def play_all(
    contest: Contest,
    uses: Mapping[str, SamplerUse],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:
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
        UsageError: some samplers cannot be made; names all of them, before any play.
    """
    text = canonical_json(asdict(contest))
    tasks = []
    with registry.file_plugins(contest.plugins):
        _check_samplers(arena_of(contest), uses)
        for seed in seeds:
            for label, use in uses.items():
                tasks.append(_Task(label, seed, use, _play_file(folder, text, use, seed)))

    records: dict[tuple[str, int], dict[str, Any]] = {}
    missing = []
    for task in tasks:
        record = task.kept()
        if record is None:
            missing.append(task)
        else:
            records[task.label, task.seed] = record
    with (progress or Progress(False)).bar("bench") as advance:
        for task, record in _play_tasks(text, missing, jobs):
            records[task.label, task.seed] = record
            if task.file is not None:
                write_text(task.file, json.dumps(record))
            advance(len(records), len(tasks), task.label)
    return {label: [records[label, seed] for seed in seeds] for label in uses}


def _check_samplers(arena: Arena, uses: Mapping[str, SamplerUse]) -> None:
    problems = []
    for label, use in uses.items():
        try:
            arena.sampler(use, 0)
        except NasframeError as error:
            problems.append(f"{label}: {error}")
    if problems:
        raise UsageError("\n".join(problems))


def _play_tasks(contest: str, tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[_Task, dict[str, Any]]]:
    """Play, in this process or in several, and yield each record as soon as it is there."""
    if jobs < 2:
        for task in tasks:
            yield task, play(contest, task.use, task.seed)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(play, contest, task.use, task.seed): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _play_file(folder: Path | None, contest: str, use: SamplerUse, seed: int) -> Path | None:
    """Return the file of a play, named by a digest of all that it depends on and that files can show."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(contest)
    source = inspect.getsourcefile(registry.find("sampler", use["use"]).load()) or ""
    files = [*sorted(Path(source).parent.glob("*.py")), Path(content["space"].get("path", ""))]
    digest = hashlib.sha256(canonical_json([content, use]).encode())
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return folder / f"{use['use']}-{digest.hexdigest()[:16]}-{seed}.json"
