"""Compares samplers on a table of architectures: the same seeds, the same search loop, the same evaluations to spend.

One play is one sampler at one seed. It gives the objectives of everything it evaluated, in order, and what it wasted;
all figures are made from these, so that plays that are kept need not be played again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


class Arena:
    """The table made ready for plays: its domain, exact costs, bounds, and the truth where it is known.

    Raises:
        UsageError: the table, an objective, a bound or a reference cannot be used.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest, self.space = contest, registry.make("space", contest.space)
        estimators = self.space.estimators
        self.metrics = list(self.space.table.metrics)
        for name in contest.bounds:
            if name not in estimators:
                raise UsageError(f"no cost {name!r} to bound. There are: {listing(estimators)}.")
        for name in [text.removeprefix("-") for text in (*contest.objectives, *contest.reference)]:
            known = [*self.metrics, *estimators]
            if name not in known:
                raise UsageError(f"no objective {name!r}. There are: {listing(known)}.{suggestion(name, known)}")
        self.bounds = {n: parse_bounds(t, estimators[n].estimate(None, None)) for n, t in contest.bounds.items()}
        names = {*contest.bounds, *(o.removeprefix("-") for o in contest.objectives)} & estimators.keys()
        self.names = sorted(names)
        self.costs = cost_function({name: estimators[name] for name in self.names}, self.space, None)  # type: ignore[arg-type]
        self.points = None if self.space.archs is None else self._points(self.space.archs)
        ends = self.points if self.points is not None else self._points([r["arch"] for r in self.space.table.rows])
        worst = dict(zip((o.removeprefix("-") for o in contest.objectives), ends.min(0).tolist(), strict=True))
        signs = [-1.0 if o.startswith("-") else 1.0 for o in contest.objectives]
        given = [contest.reference.get(o.removeprefix("-")) for o in contest.objectives]
        self.reference = [
            low if value is None else sign * value
            for low, value, sign in zip(worst.values(), given, signs, strict=True)
        ]
        self.value = functools.partial(_value, contest.objectives)

    def _points(self, archs: Sequence[Arch]) -> np.ndarray:
        rows = []
        for arch in archs:
            costs = self.costs(arch)
            if constraints.violation(costs, self.bounds) == 0:
                rows.append(_value(self.contest.objectives, self.evaluate(arch), costs))
        if not rows:
            raise UsageError("no architecture of the table meets the bounds.")
        return np.array(rows)

    def evaluate(self, arch: Arch, examples: int | None = None) -> Mapping[str, float]:
        """Look an architecture's metrics up."""
        found: Mapping[str, float] = self.space.view(None, arch)()
        return found

    def sampler(self, use: Mapping[str, Any], seed: int) -> Any:
        """Make a sampler as a search stage would."""
        inject = {
            "domain": self.space.domain, "seed": stream_seed(seed, "sampler", "bench"),
            "costs": cost_rows(self.space.estimators, self.names, self.space, None),  # type: ignore[arg-type]
        }  # fmt: skip
        return registry.make("sampler", use, inject)


@functools.lru_cache(maxsize=2)
def _arena(contest: str) -> Arena:
    written: dict[str, Any] = json.loads(contest)
    fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in written.items()}
    with registry.file_plugins(fields["plugins"]):
        return Arena(Contest(**fields))


def arena_of(contest: Contest) -> Arena:
    """Return the arena of a contest, made once."""
    return _arena(canonical_json(dataclasses.asdict(contest)))


@naming_plugins()
def play(contest: str, use: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Let one sampler search the table at one seed.

    Args:
        contest: a contest as canonical JSON.
        use: the sampler with its options.
        seed: the run's seed, from which the sampler's is made.

    Returns:
        JSON-plain: ``points`` (the objectives of each evaluation, in order), counts of what else was proposed, and
        the seconds spent in ``ask`` and ``tell``.
    """
    arena = _arena(contest)
    with registry.file_plugins(arena.contest.plugins):
        return _played_by(arena, use, seed)


def _played_by(arena: Arena, use: Mapping[str, Any], seed: int) -> dict[str, Any]:
    own: Any = _Timed(arena.sampler(use, seed))
    trials: list[Trial] = []
    domain, ended = joined(arena.space.domain, use), ""
    try:
        search(
            own, domain, arena.evaluate, arena.costs, objectives=arena.contest.objectives, bounds=arena.bounds,
            trials=arena.contest.budget, on_trial=lambda number, trial, seconds: trials.append(trial), stage="bench",
        )  # fmt: skip
    except RunError as error:  # nothing was evaluated, or not enough to name a winner
        ended = str(error)
    points = [list(trial.objectives or (trial.score,)) for trial in trials if trial.state == "done"]
    record = {"points": points, "proposals": own.told.total(), "ended": ended, "asks": own.asks}
    record |= {name: own.told[name] for name in ("repeat", "screened", "failed")}
    record |= {"ask_seconds": own.ask_seconds, "tell_seconds": own.tell_seconds}
    if arena.contest.raw:
        record["raw"] = _play_raw(arena, use, seed)
    return record


def _play_raw(arena: Arena, use: Mapping[str, Any], seed: int) -> dict[str, int]:
    """Evaluate all that a sampler proposes when nothing keeps it from repeating itself and from leaving the bounds."""
    sampler, seen, repeats, infeasible, proposals = arena.sampler(use, seed), set(), 0, 0, 0
    start_sampler(sampler, "bench", arena.contest.budget, "search")
    while proposals < arena.contest.budget and (asked := sampler.ask(1)):
        for arch in map(arena.space.domain.canonical, asked):
            costs, metrics = arena.costs(arch), arena.evaluate(arch)
            excess = constraints.violation(costs, arena.bounds)
            repeats, infeasible, proposals = repeats + (arch_id(arch) in seen), infeasible + (excess > 0), proposals + 1
            seen.add(arch_id(arch))
            values = _value(arena.contest.objectives, metrics, costs) if metrics else (math.nan,)
            several = tuple(values) if len(values) > 1 else ()
            sampler.tell([Trial(arch, values[0], several, metrics, costs, excess, "done" if metrics else "failed")])
    return {"proposals": proposals, "repeat": repeats, "infeasible": infeasible}


class _Timed:
    """Passes a sampler's calls on, sums up their time and counts the states of what it is told."""

    def __init__(self, sampler: Any) -> None:
        self.told: Counter[str] = Counter()
        self.sampler, self.asks, self.ask_seconds, self.tell_seconds = sampler, 0, 0.0, 0.0

    def start(self, stage: str, total: int) -> None:
        start_sampler(self.sampler, stage, total, "search")

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        began = time.perf_counter()
        found: list[Arch] = self.sampler.ask(n, within=within)
        self.asks, self.ask_seconds = self.asks + 1, self.ask_seconds + time.perf_counter() - began
        return found

    def tell(self, trials: Sequence[Trial]) -> None:
        began = time.perf_counter()
        self.sampler.tell(trials)
        self.tell_seconds += time.perf_counter() - began
        self.told.update(trial.state for trial in trials)


def play_all(
    contest: Contest, uses: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], *, jobs: int = 1,
    folder: Path | None = None, progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Let every sampler play at every seed.

    Args:
        contest: what they play.
        uses: label → sampler with its options.
        seeds: the same for all, so that differences are paired.
        jobs: processes.
        folder: where plays are kept, and found again; a play of a sampler whose source has changed is played anew.
        progress: shows how far it is.

    Returns:
        Label → its plays, in the order of the seeds.

    Raises:
        UsageError: a sampler that cannot be made; all of them are named, before any play.
    """
    text, arena, faults = canonical_json(dataclasses.asdict(contest)), arena_of(contest), []
    with registry.file_plugins(contest.plugins):
        for label, use in uses.items():
            try:
                arena.sampler(use, 0)
            except NasframeError as error:
                faults.append(f"{label}: {error}")
        if faults:
            raise UsageError("\n".join(faults))
        tasks = {(label, seed): _kept(folder, text, use, seed) for seed in seeds for label, use in uses.items()}
    found = {key: json.loads(path.read_text()) for key, path in tasks.items() if path and path.is_file()}
    todo = [key for key in tasks if key not in found]
    with (progress or Progress(False)).bar("bench") as advance:
        for key, record in _played(text, uses, todo, jobs):
            found[key] = record
            if path := tasks[key]:
                write_text(path, json.dumps(record))
            advance(len(found), len(tasks), key[0])
    return {label: [found[label, seed] for seed in seeds] for label in uses}


def _played(
    contest: str, uses: Mapping[str, Mapping[str, Any]], todo: Sequence[tuple[str, int]], jobs: int
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """Play, in this process or in several, and yield each result as it comes."""
    if jobs < 2:
        yield from ((key, play(contest, uses[key[0]], key[1])) for key in todo)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(play, contest, uses[label], seed): (label, seed) for label, seed in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _kept(folder: Path | None, contest: str, use: Mapping[str, Any], seed: int) -> Path | None:
    """Name the file of a play by all that it depends on, as far as files can tell."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    source = inspect.getsourcefile(registry.find("sampler", use["use"]).load()) or ""
    files = [*sorted(Path(source).parent.glob("*.py")), Path(json.loads(contest)["space"].get("path", ""))]
    digest = hashlib.sha256(canonical_json([json.loads(contest), use]).encode())
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return folder / f"{use['use']}-{digest.hexdigest()[:16]}-{seed}.json"


def _value(objectives: Sequence[str], metrics: Mapping[str, float], costs: Mapping[str, float]) -> list[float]:
    known = {**costs, **metrics}
    return [-known[name[1:]] if name.startswith("-") else known[name] for name in objectives]
