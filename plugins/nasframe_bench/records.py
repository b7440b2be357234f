"""The records of a benchmark: a :class:`Play` is one search, a :class:`Result` is what all plays together say.

Records are the source of every file: :func:`play_json` writes a play in the folder ``plays``, and :func:`result_text`
writes ``bench.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasframe_bench.contest import Contest

FORMAT = 1
"""Of ``bench.json``."""


@dataclass(frozen=True, kw_only=True)
class RawPlay:
    """How often a sampler repeats itself and leaves the bounds when the search loop does not stop it."""

    proposals: int
    repeat: int
    infeasible: int


@dataclass(frozen=True, kw_only=True)
class Play:
    """One search by one sampler at one seed.

    Args:
        points: the objectives of each evaluation, in order.
        proposals: all architectures that the sampler was told about, evaluated or not.
        ended: why the search ended without a winner; empty if it has one.
        asks: calls of ``ask``.
        repeat: proposals that were evaluated before.
        screened: proposals outside the bounds.
        failed: proposals that the table does not have.
        ask_seconds: spent in ``ask``.
        tell_seconds: spent in ``tell``.
        raw: the same sampler without the search loop, if the contest asks for it.
    """

    points: Sequence[Sequence[float]]
    proposals: int
    ended: str
    asks: int
    repeat: int
    screened: int
    failed: int
    ask_seconds: float
    tell_seconds: float
    raw: RawPlay | None = None


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A value over the seeds: its mean, standard deviation and 95 % interval.

    A moment is ``None`` if the seeds do not give it: with one seed, or if a play has no evaluation.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The mean of a measure after each evaluation, and its 95 % interval; see :class:`Moments` for ``None``."""

    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class RawShares:
    """Shares of all proposals that repeat an earlier one or are outside the bounds, without the search loop."""

    repeats: float
    infeasible: float


@dataclass(frozen=True, kw_only=True)
class SamplerResult:
    """What one sampler reached, wasted and took, over all its plays.

    Args:
        name: its label, as the command line names it.
        use: the sampler with its options.
        evaluations: mean of its plays.
        proposals_per_evaluation: how many proposals one new evaluation took.
        repeats: share of proposals that were evaluated before.
        infeasible: share of proposals outside the bounds.
        failed: proposals that the table does not have.
        ask_ms: mean milliseconds of an ``ask``.
        tell_ms: milliseconds of ``tell`` for each ``ask``.
        ended: why plays ended without a winner.
        raw: waste without the search loop, if it was played.
        at: measure → number of evaluations → moments.
        found: number of evaluations → share of the seeds at which the optimum was found by then.
        curves: measure → curve.
    """

    name: str
    use: Mapping[str, Any]
    evaluations: float
    proposals_per_evaluation: float
    repeats: float
    infeasible: float
    failed: float
    ask_ms: float
    tell_ms: float
    ended: Sequence[str]
    raw: RawShares | None
    at: Mapping[str, Mapping[int, Moments]]
    found: Mapping[int, float]
    curves: Mapping[str, Curve]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first sampler minus another, in one measure after one number of evaluations, paired over the seeds.

    Args:
        sampler: the first one.
        other: the other one.
        measure: ``regret`` or ``hypervolume``.
        at: the number of evaluations.
        seeds: how many seeds both have a value at.
        mean: of the differences.
        low: lower end of the mean's 95 % interval, from two seeds on.
        high: its upper end.
    """

    sampler: str
    other: str
    measure: str
    at: int
    seeds: int
    mean: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """``ahead`` or ``behind`` if the interval excludes zero, else ``open``; a dash without an interval."""
        if self.low is None or self.high is None:
            return "–"
        if self.low <= 0 <= self.high:
            return "open"
        is_more = self.low > 0
        more_is_better = self.measure != "regret"
        return "ahead" if is_more == more_is_better else "behind"


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """The table that was played on.

    Args:
        rows: how many architectures it has.
        knobs: how many knobs they have.
        reference: the reference point of the hypervolume.
        truth: in words, what the best architecture is that regret refers to.
        feasible: how many rows meet the bounds, if the table is the truth.
        best: the best score among them.
        model: about the model that predicts missing rows, if there is one.
    """

    rows: int
    knobs: int
    reference: Sequence[float]
    truth: str
    feasible: int | None = None
    best: float | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts that timings depend on; ``threads`` is ``None`` if they are not limited."""

    platform: str
    cpus: int | None
    threads: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A benchmark of samplers.

    Args:
        contest: what was played.
        table: on which table.
        seeds: of the plays.
        at: the numbers of evaluations after which samplers are compared.
        machine: where it was played.
        samplers: one entry each, in the order of the command line.
        differences: the first sampler minus each other.
        format: of the file.
    """

    format: int = FORMAT
    contest: Contest
    table: TableFacts
    seeds: Sequence[int]
    at: Sequence[int]
    machine: Machine
    samplers: Sequence[SamplerResult]
    differences: Sequence[Difference]


def play_json(play: Play) -> dict[str, Any]:
    """Return the content of a play's file."""
    return _without_absent(asdict(play), "raw")


def read_play(content: Mapping[str, Any]) -> Play:
    """Return the play that a file holds, the inverse of :func:`play_json`."""
    raw = content.get("raw")
    return Play(**{**content, "raw": None if raw is None else RawPlay(**raw)})


def result_text(result: Result) -> str:
    """Return the content of ``bench.json``."""
    content = asdict(result)
    content["table"] = _without_absent(content["table"], "feasible", "best", "model")
    content["samplers"] = [_without_absent(sampler, "raw") for sampler in content["samplers"]]
    return json.dumps(content, indent=1, allow_nan=False)


def _without_absent(content: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Drop optional keys that have no value; everywhere else ``None`` is a value, and is written as null."""
    kept = dict(content)
    for key in optional:
        if kept[key] is None:
            del kept[key]
    return kept
