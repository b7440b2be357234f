"""Which network to ship for each budget, how much it loses, and what it saves.

The rule and the words are those of studies, see :mod:`nasframe_studies.choice`: methods are chosen by their scores on
``select``, a part of the training data, and the losses that are reported are those on ``dev``, which no choice saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasframe.declarations import TEACHER
from nasframe.measures import sign_of
from nasframe.report.read import read_run
from nasframe.report.recommend import saved, teacher_doubt
from nasframe.report.records import Measure, ModelRow, RunReport
from nasframe.report.tables import cost
from nasframe.search.constraints import parse_bounds
from nasframe_compress.request import Budget, budget_text
from nasframe_studies.choice import (
    Arm,
    Choice,
    Lead,
    Network,
    Wording,
    choose,
    fallback_note,
    leads,
    sentence,
)

DEV = "dev"
SELECT = "select"
NOUN = "method"


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
        network: what the choice knows of it.
    """

    place: Place
    row: ModelRow
    teacher: ModelRow
    network: Network

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
        p: of the paired t test against the teachers; ``None`` with one seed, or if all differences are equal.
    """

    method: str
    candidates: Sequence[Candidate]
    gain: float
    interval: Measure | None
    p: float | None

    @property
    def arm(self) -> Arm:
        """What the choice knows of the method."""
        return Arm(self.method, [candidate.network for candidate in self.candidates])

    @property
    def score(self) -> float:
        """The mean score on ``dev``."""
        return self.arm.mean

    @property
    def best(self) -> Candidate:
        """The network to ship if the method is recommended."""
        network = self.arm.network
        return next(candidate for candidate in self.candidates if candidate.network is network)

    @property
    def keeps_budget(self) -> bool:
        """Whether the network to ship is within the budget."""
        return not self.best.network.over


@dataclass(frozen=True)
class BudgetResult:
    """What all methods reached for a budget.

    Args:
        budget: the budget.
        metric: the metric of the scores.
        results: of each method, the recommended one first; those over the budget come last.
        report: of one of the runs, which knows how metric and costs read; ``None`` if no run is finished.
        choice: how the methods stand; ``None`` if no run is finished.
        lead: of the recommended method over the one that comes second, if there is one.
    """

    budget: Budget
    metric: str
    results: Sequence[MethodResult]
    report: RunReport | None = None
    choice: Choice | None = None
    lead: Lead | None = None

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

    @property
    def chosen_on(self) -> str:
        """The split whose scores decided between the methods; empty if there was nothing to decide."""
        return "" if self.choice is None else self.choice.chosen_on(DEV)

    def sentences(self) -> list[str]:
        """Say in plain words which network to ship, and what it saves."""
        budget = budget_text(self.budget)
        ship = self.ship
        if ship is None or self.report is None or self.choice is None:
            reasons = [f"{result.method}: {result.best.network.over}" for result in self.results]
            return [f"For {budget}, no network keeps this budget ({'; '.join(reasons) or 'no run is finished'})."]
        wording = Wording(
            budget=budget,
            metric=self.metric,
            form=self.report.metric_format(self.metric),
            split=DEV,
            noun=NOUN,
        )
        text = sentence(self.choice, self.lead, wording, ship.interval)
        savings = saved(self.report, ship.best.row, ship.best.teacher)
        return [text, f"  It has {savings}."] if savings else [text]

    def plain(self) -> dict[str, Any]:
        """Return the result JSON-plain."""
        lead = self.lead
        return {
            "budget": dict(self.budget),
            "metric": self.metric,
            "ship": self.shipped,
            "chosen_on": self.chosen_on,
            "runner_up": None if lead is None else {"method": lead.over, "p_holm": lead.p, "tests": lead.tests},
            "methods": [_plain(result) for result in self.results],
        }


def note_on(results: Sequence[BudgetResult]) -> str | None:
    """Say once that choices rest on ``dev``, if some method has no scores on ``select``."""
    budgets = [budget_text(result.budget) for result in results if result.chosen_on == DEV]
    return fallback_note(budgets, DEV, NOUN)


def doubt_on(results: Sequence[BudgetResult]) -> str:
    """Say once that the teacher has not learned its labels; nothing if it has."""
    reports = [result.report for result in results if result.report is not None]
    return teacher_doubt(reports[0]) if reports else ""


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
                "over_budget": candidate.network.over,
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
    first = reports[0][1] if reports else None
    metric = first.metric if first is not None else ""
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
        compared.append(_chosen(BudgetResult(budget, metric, results, first)))
    return _with_leads(compared)


def _chosen(result: BudgetResult) -> BudgetResult:
    """Return a budget's result with its methods in order, the recommended one first."""
    if not result.results or result.report is None:
        return result
    by_method = {method_result.method: method_result for method_result in result.results}
    form = result.report.metric_format(result.metric)
    choice = choose([method_result.arm for method_result in result.results], form)
    ordered = [by_method[arm.name] for arm in choice.ranked]
    return replace(result, results=ordered, choice=choice)


def _with_leads(results: Sequence[BudgetResult]) -> list[BudgetResult]:
    """Return results with the leads of their methods: one family of tests, as they are of one task."""
    places = []
    choices = []
    forms = []
    for place, result in enumerate(results):
        if result.choice is not None and result.report is not None:
            places.append(place)
            choices.append(result.choice)
            forms.append(result.report.metric_format(result.metric))
    with_leads = list(results)
    for place, lead in zip(places, leads(choices, forms), strict=True):
        with_leads[place] = replace(results[place], lead=lead)
    return with_leads


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
    if score is None or teacher_score is None:
        return []
    sign = sign_of(report.metric_format(report.metric))
    network = Network(
        seed=place.seed,
        run=str(place.directory),
        model=row.name,
        select=None if selected is None else sign * selected,
        score=score,
        teacher=teacher_score,
        over=_over(report, row, teacher, budget),
    )
    return [Candidate(place, row, teacher, network)]


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
    pair = Arm(method, [candidate.network for candidate in candidates]).against_teachers()
    assert pair is not None  # each has a teacher
    interval = candidates[0].row.gain_interval if len(candidates) == 1 else None
    if pair.t_low is not None and pair.t_high is not None:
        interval = Measure(pair.mean, pair.t_low, pair.t_high)
    return MethodResult(method, candidates, pair.mean, interval, pair.p_t)
