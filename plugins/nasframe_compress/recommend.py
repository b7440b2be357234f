"""Which network to ship for each budget, how much it loses, and what it saves.

Methods are chosen by their scores on ``select``, a part of the training data; the losses that are reported are those on
``dev``, which no choice has seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.declarations import TEACHER
from nasframe.report.read import read_run
from nasframe.report.records import ModelRow, RunReport
from nasframe.report.tables import cost
from nasframe.search.constraints import parse_bounds
from nasframe.stages.model_store import predictions_file
from nasframe_compress.request import Budget
from nasframe_studies import stats
from nasframe_studies.evidence import example_scores

if TYPE_CHECKING:
    import pandas as pd


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
        model: its name in the run.
        chosen_by: its score on ``select``, larger is better.
        score: its score on ``dev``.
        teacher: the teacher's score on ``dev``.
        costs: the costs of the network.
        shares: of those of the teacher.
        over: what it is over its budget by, in words; empty if it keeps it.
    """

    place: Place
    model: str
    chosen_by: float
    score: float
    teacher: float
    costs: Mapping[str, Any]
    shares: Mapping[str, float]
    over: str


@dataclass(frozen=True)
class Gap:
    """A network's score minus its teacher's, with a 95 % interval.

    Args:
        mean: the difference; over the seeds its mean.
        low: the lower end; NaN if there is no interval.
        high: the upper end.
        how: what the interval is about: ``seeds`` or ``examples``.
        n: how many of these.
        p: of the paired t test over seeds; NaN without it.
    """

    mean: float
    low: float
    high: float
    how: str
    n: int
    p: float = math.nan


@dataclass(frozen=True)
class MethodResult:
    """What a method reached for a budget, over its seeds."""

    method: str
    candidates: Sequence[Candidate]
    gap: Gap

    @property
    def chosen_by(self) -> float:
        """The mean score on ``select``."""
        return float(np.mean([candidate.chosen_by for candidate in self.candidates]))

    @property
    def best(self) -> Candidate:
        """The network of the seed that scores best on ``select``."""
        return max(self.candidates, key=lambda candidate: candidate.chosen_by)

    @property
    def keeps_budget(self) -> bool:
        """Whether the network to ship is within the budget."""
        return not self.best.over


@dataclass(frozen=True)
class Recommendation:
    """The network to ship for a budget.

    Args:
        budget: the budget.
        results: what each method reached, the best on ``select`` first; those over the budget come last.
        metric: the metric of the scores.
    """

    budget: Budget
    results: Sequence[MethodResult]
    metric: str

    @property
    def ship(self) -> MethodResult | None:
        """The method whose network to ship; ``None`` if none keeps the budget."""
        first = self.results[0] if self.results else None
        return first if first is not None and first.keeps_budget else None

    def plain(self) -> dict[str, Any]:
        """Return the recommendation JSON-plain."""
        record = asdict(self)
        for result in record["results"]:
            for candidate in result["candidates"]:
                candidate["place"]["directory"] = str(candidate["place"]["directory"])
        ship = self.ship
        chosen = None
        if ship is not None:
            chosen = {"method": ship.method, "seed": ship.best.place.seed, "model": ship.best.model}
        return {**record, "budget": dict(self.budget), "ship": chosen}


def recommend(places: Sequence[Place], targets: Mapping[str, Sequence[tuple[Budget, str]]]) -> list[Recommendation]:
    """Compare finished runs, budget by budget.

    Args:
        places: the finished runs.
        targets: method → its budgets and the names of their networks.
    """
    reports = [(place, read_run(place.directory)) for place in places]
    budgets = next(iter(targets.values()))
    recommendations = []
    for number, (budget, _) in enumerate(budgets):
        results = []
        for method, method_targets in targets.items():
            model = method_targets[number][1]
            candidates = []
            for place, report in reports:
                if place.method == method:
                    candidates += _candidates(place, report, budget, model)
            if candidates:
                results.append(MethodResult(method, candidates, _gap(candidates, reports)))
        results.sort(key=lambda result: (not result.keeps_budget, -result.chosen_by))
        metric_name = reports[0][1].metric if reports else ""
        recommendations.append(Recommendation(budget, results, metric_name))
    return recommendations


def _candidates(place: Place, report: RunReport, budget: Budget, model: str) -> list[Candidate]:
    """Return a run's network for a budget; none if the run has not measured it."""
    rows = {row.name: row for row in report.models}
    row = rows.get(model)
    teacher = rows.get(TEACHER)
    if row is None or teacher is None:
        return []
    sign = 1.0 if report.metric_format(report.metric).higher_is_better else -1.0
    score = row.metrics.get("dev", {}).get(report.metric)
    select = row.metrics.get("select", {}).get(report.metric)
    teacher_score = teacher.metrics.get("dev", {}).get(report.metric)
    if score is None or select is None or teacher_score is None:
        return []
    return [
        Candidate(
            place=place,
            model=model,
            chosen_by=sign * select,
            score=score,
            teacher=teacher_score,
            costs=dict(row.costs),
            shares=dict(row.relative),
            over=_over(report, row, teacher, budget),
        )
    ]


def _over(report: RunReport, row: ModelRow, teacher: ModelRow, budget: Budget) -> str:
    """Say by how much a network is over its budget; nothing if it keeps it."""
    problems = []
    for name, text in budget.items():
        value = row.costs.get(name)
        if value is None:
            problems.append(f"{name} is unknown")
            continue
        bounds = parse_bounds(text, teacher.costs.get(name))
        excess = bounds.violation(value)
        if excess > 0:
            shown = cost(report.cost_format(name), name, row.costs)
            problems.append(f"{name} is {shown}, {excess:.1%} over {text}")
    return "; ".join(problems)


def _gap(candidates: Sequence[Candidate], reports: Sequence[tuple[Place, RunReport]]) -> Gap:
    """Return the score minus the teacher's: over seeds if there are several, else over examples."""
    if len(candidates) > 1:
        scores = [candidate.score for candidate in candidates]
        teachers = [candidate.teacher for candidate in candidates]
        pair = stats.paired(scores, teachers)
        return Gap(pair.mean, _number(pair.t_low), _number(pair.t_high), "seeds", pair.n, _number(pair.p_t))
    candidate = candidates[0]
    mean = candidate.score - candidate.teacher
    unknown = Gap(mean, math.nan, math.nan, "examples", 0)
    report = next(report for place, report in reports if place == candidate.place)
    own = _predictions(candidate.place.directory, report, candidate.model)
    others = _predictions(candidate.place.directory, report, TEACHER)
    if own is None or others is None:
        return unknown
    compared = example_scores(own, others, report.metric, _positive(report))
    if compared.low is None or compared.high is None:
        return unknown
    return Gap(mean, compared.low, compared.high, "examples", compared.n or 0)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _predictions(directory: Path, report: RunReport, model: str) -> pd.DataFrame | None:
    """Return a network's predictions on ``dev``, ``None`` if the run did not keep them."""
    import pandas as pd

    row = next(row for row in report.models if row.name == model)
    for path in row.predictions:
        if Path(path).name == predictions_file("dev"):
            return pd.read_csv(directory / path)
    return None


def _positive(report: RunReport) -> int | None:
    """Return the output of the class that a run's ``f1`` is about."""
    labels = report.data.get("labels")
    positive = report.metric_format("f1").positive
    if labels is None or positive is None:
        return None
    return list(labels).index(positive)
