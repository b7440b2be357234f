"""Which network to ship for each budget, how much it loses, and what it saves.

Methods are chosen by their scores on ``select``, a part of the training data; the losses that are reported are those on
``dev``, which no choice has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.declarations import TEACHER
from nasframe.measures import sign_of
from nasframe.report.read import read_run
from nasframe.report.records import Measure, ModelRow, RunReport
from nasframe.report.tables import cost
from nasframe.search.constraints import parse_bounds
from nasframe_compress.request import Budget
from nasframe_studies import stats

DEV = "dev"
SELECT = "select"


@dataclass(frozen=True)
class Place:
    """A finished run.

    Args:
        method: the method.
        seed: the run's seed.
        directory: the run directory.
    """

    method: str
    seed: int
    directory: Path


@dataclass(frozen=True)
class Candidate:
    """A network that a run made for a budget.

    Args:
        place: the run.
        row: the network in the run's report.
        teacher: its teacher there.
        chosen_by: its score on ``select``; larger is better.
        score: its score on ``dev``.
        gain: that minus its teacher's.
        over: what it is over its budget by, in words; empty if it keeps it.
    """

    place: Place
    row: ModelRow
    teacher: ModelRow
    chosen_by: float
    score: float
    gain: float
    over: str

    @property
    def model(self) -> str:
        """The network's name in its run."""
        return self.row.name


@dataclass(frozen=True)
class MethodResult:
    """What a method reached for a budget, over its seeds.

    Args:
        method: the method.
        candidates: its networks, one for each seed.
        gain: their scores minus their teachers' on ``dev``, in the mean.
        interval: of the gain: over the seeds if there are several, else over the examples of ``dev``; ``None`` if
            neither is known.
        p: of the paired t test over the seeds; ``None`` with one seed, or if all differences are equal.
    """

    method: str
    candidates: Sequence[Candidate]
    gain: float
    interval: Measure | None
    p: float | None

    @property
    def score(self) -> float:
        """The mean score on ``dev``."""
        return float(np.mean([candidate.score for candidate in self.candidates]))

    @property
    def chosen_by(self) -> float:
        """The mean score on ``select``."""
        return float(np.mean([candidate.chosen_by for candidate in self.candidates]))

    @property
    def best(self) -> Candidate:
        """The network to ship: of those within the budget, that of the seed that scores best on ``select``."""
        return max(self.candidates, key=lambda candidate: (not candidate.over, candidate.chosen_by))

    @property
    def keeps_budget(self) -> bool:
        """Whether the network to ship is within the budget."""
        return not self.best.over


@dataclass(frozen=True)
class BudgetResult:
    """What all methods reached for a budget.

    Args:
        budget: the budget.
        metric: the metric of the scores.
        results: of each method, the best on ``select`` first; those over the budget come last.
    """

    budget: Budget
    metric: str
    results: Sequence[MethodResult]

    @property
    def ship(self) -> MethodResult | None:
        """The method whose network to ship; ``None`` if none keeps the budget."""
        first = self.results[0] if self.results else None
        return first if first is not None and first.keeps_budget else None

    @property
    def shipped(self) -> dict[str, Any] | None:
        """Which network to ship, JSON-plain."""
        ship = self.ship
        if ship is None:
            return None
        return {"method": ship.method, "seed": ship.best.place.seed, "model": ship.best.model}

    @property
    def networks(self) -> int:
        """How many networks were made for the budget, over all methods and seeds."""
        return sum(len(result.candidates) for result in self.results)

    def plain(self) -> dict[str, Any]:
        """Return the result JSON-plain."""
        return {
            "budget": dict(self.budget),
            "metric": self.metric,
            "ship": self.shipped,
            "methods": [_plain(result) for result in self.results],
        }


def _plain(result: MethodResult) -> dict[str, Any]:
    """Return what a method reached JSON-plain."""
    networks = []
    for candidate in result.candidates:
        networks.append(
            {
                "seed": candidate.place.seed,
                "run": str(candidate.place.directory),
                "model": candidate.model,
                "metrics": {split: dict(values) for split, values in candidate.row.metrics.items()},
                "teacher": {split: dict(values) for split, values in candidate.teacher.metrics.items()},
                "costs": dict(candidate.row.costs),
                "over_budget": candidate.over,
            }
        )
    interval = None if result.interval is None else [result.interval.low, result.interval.high]
    return {
        "method": result.method,
        "score": result.score,
        "gain": result.gain,
        "interval": interval,
        "p": result.p,
        "networks": networks,
    }


def recommend(places: Sequence[Place], targets: Mapping[str, Sequence[tuple[Budget, str]]]) -> list[BudgetResult]:
    """Compare finished runs, budget by budget.

    Args:
        places: the finished runs.
        targets: method → its budgets and the names of their networks.
    """
    reports = [(place, read_run(place.directory)) for place in places]
    metric = reports[0][1].metric if reports else ""
    budgets = [budget for budget, _ in next(iter(targets.values()))]
    compared = []
    for number, budget in enumerate(budgets):
        results = []
        for method, method_targets in targets.items():
            _, model = method_targets[number]
            candidates = []
            for place, report in reports:
                if place.method == method:
                    candidates += _candidates(place, report, budget, model)
            if candidates:
                results.append(_result(method, candidates))
        results.sort(key=lambda result: (not result.keeps_budget, -result.chosen_by))
        compared.append(BudgetResult(budget, metric, results))
    return compared


def _candidates(place: Place, report: RunReport, budget: Budget, model: str) -> list[Candidate]:
    """Return a run's network for a budget; none if the run has not measured it."""
    rows = {row.name: row for row in report.models}
    row = rows.get(model)
    teacher = rows.get(TEACHER)
    if row is None or teacher is None:
        return []
    score = row.metrics.get(DEV, {}).get(report.metric)
    selected = row.metrics.get(SELECT, {}).get(report.metric)
    teacher_score = teacher.metrics.get(DEV, {}).get(report.metric)
    if score is None or selected is None or teacher_score is None:
        return []
    sign = sign_of(report.metric_format(report.metric))
    candidate = Candidate(
        place=place,
        row=row,
        teacher=teacher,
        chosen_by=sign * selected,
        score=score,
        gain=score - teacher_score,
        over=_over(report, row, teacher, budget),
    )
    return [candidate]


def _over(report: RunReport, row: ModelRow, teacher: ModelRow, budget: Budget) -> str:
    """Say by how much a network is over its budget; nothing if it keeps it."""
    problems = []
    for name, text in budget.items():
        value = row.costs.get(name)
        if value is None:
            problems.append(f"{name} is unknown")
            continue
        excess = parse_bounds(text, teacher.costs.get(name)).violation(value)
        if excess > 0:
            shown = cost(report.cost_format(name), name, row.costs)
            problems.append(f"{name} is {shown}, {excess:.1%} over {text}")
    return "; ".join(problems)


def _result(method: str, candidates: Sequence[Candidate]) -> MethodResult:
    """Return what a method reached, with the interval of its gain."""
    if len(candidates) == 1:
        only = candidates[0]
        return MethodResult(method, candidates, only.gain, only.row.gain_interval, None)
    scores = [candidate.score for candidate in candidates]
    teachers = [candidate.score - candidate.gain for candidate in candidates]
    pair = stats.paired(scores, teachers)
    interval = None
    if pair.t_low is not None and pair.t_high is not None:
        interval = Measure(pair.mean, pair.t_low, pair.t_high)
    return MethodResult(method, candidates, pair.mean, interval, pair.p_t)
