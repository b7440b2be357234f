"""What networks and architectures cost: as functions for searches, and as the facts that a run keeps of its models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe.declarations import COSTS, PART_COSTS, winners
from nasframe.interfaces import EstimatorTraits, MeasuredEstimator, traits_of
from nasframe.search import costs as search_costs
from nasframe.stages import model_store

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Work
    from nasframe.progress import Advance
    from nasframe.records import Arch
    from nasframe.search.budgets import Budget
    from nasframe.stages.session import StageSession

CostFunction = Callable[["Arch"], dict[str, float]]

ROUNDS = 3
"""How often each model is measured; the middle round counts, so one disturbed round does no harm."""


def cost_function(stage: StageSession, space: Any, net: nn.Module, names: Sequence[str]) -> CostFunction:
    """Return a function from an architecture to its costs by name, from additive tables if an estimator has one."""
    estimators = {name: stage.estimators[name] for name in names}
    return search_costs.cost_function(estimators, space, net)


@dataclass(frozen=True)
class Question:
    """What an estimator is asked about a finished model: the arguments of ``estimate`` and ``measure``."""

    space: Any
    net: nn.Module
    arch: Arch | None


def question(estimator: Any, name: str, net: nn.Module, work: Work, by_itself: bool = False) -> Question:
    """Return what to ask an estimator about a finished model.

    An extracted model is asked about as it was found: with the space, the super-network and the architecture. So a
    report has the number that a search went by, also if it comes from a table of operators or a learned predictor.

    Args:
        estimator: the estimator.
        name: the model's name.
        net: the model.
        work: says where models come from.
        by_itself: ask about the model itself, as estimators of plugin API 1 expect.
    """
    if by_itself or traits_of(EstimatorTraits, estimator).reads_weights:
        return Question(None, net, None)
    origin = work.origins.get(name)
    if origin is None or origin.net is None:
        return Question(origin.space if origin else work.space, net, None)
    return Question(origin.space, origin.net, origin.arch)


def usual_costs(nets: Iterable[nn.Module]) -> list[str]:
    """Return the costs that ``evaluate`` takes unless it names others.

    The parts of a network of one's own are not known unless it names them. So their parameters are not asked for, and a
    report has no columns without numbers.

    Args:
        nets: the networks to evaluate.
    """
    if any(_has_parts(net) for net in nets):
        return list(COSTS)
    return [cost for cost in COSTS if cost not in PART_COSTS]


def _has_parts(net: nn.Module) -> bool:
    """Tell whether a network's encoder and backbone are known."""
    from nasframe.nn.custom import Described
    from nasframe.nn.rows import is_sliceable

    return is_sliceable(net) or (isinstance(net, Described) and net.part("encoder") is not None)


def measure_models(
    stage: StageSession, work: Work, models: Mapping[str, nn.Module], costs: Sequence[str], advance: Advance
) -> None:
    """Estimate or measure the costs of models, and keep them in the run's database.

    Args:
        stage: the stage that evaluates.
        work: says where models come from.
        models: name → network.
        costs: the costs to take.
        advance: called after each measurement.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in models}
    for cost in costs:
        estimator: Any = stage.estimators[cost]
        by_itself = stage.inputs.is_of_former_api(cost)
        questions = {name: question(estimator, name, net, work, by_itself) for name, net in models.items()}
        if not isinstance(estimator, MeasuredEstimator):
            for name, asked in questions.items():
                values[name][cost] = estimator.estimate(asked.space, asked.net, asked.arch)
            continue
        for name, record in _measured_in_turns(estimator, questions, advance).items():
            # How it was measured (batch, length, threads) is a fact of the run: equal for all of its models.
            values[name][cost] = record["median"]
            values[name][f"{cost}_spread"] = record["spread"]
            stage.store.put(f"measured {cost}", record["how"])
    for name, new in values.items():
        earlier = stage.store.model(name).get("costs") or {}
        # "latency_cached" marks a latency that came from the cache: it goes when the latency is measured again.
        still_valid = {}
        for key, value in earlier.items():
            if key.removesuffix("_cached") not in new:
                still_valid[key] = value
        stage.store.put_model(name, costs=still_valid | new)


def _measured_in_turns(
    estimator: MeasuredEstimator, questions: Mapping[str, Question], advance: Advance
) -> dict[str, Mapping[str, Any]]:
    """Measure each model in several rounds, and return the record of its middle round.

    The models take turns, so that a drift of the machine's speed affects all alike.
    """
    records: dict[str, list[Mapping[str, Any]]] = {name: [] for name in questions}
    total = ROUNDS * len(questions)
    done = 0
    for _ in range(ROUNDS):
        for name, asked in questions.items():
            records[name].append(estimator.measure(asked.space, asked.net, asked.arch, again=True))
            done += 1
            advance(done, total, name)
    middle = {}
    for name, rounds in records.items():
        rounds.sort(key=_median)
        middle[name] = rounds[ROUNDS // 2]
    return middle


def _median(record: Mapping[str, Any]) -> float:
    """Return the median of one round's repetitions."""
    return float(record["median"])


def remeasure(stage: StageSession, space: Any, net: nn.Module, names: Iterable[str]) -> CostFunction | None:
    """Return a function that measures an architecture again, or ``None`` if none of the named costs is measured.

    Its result has the measured costs only: the others are exact.
    """
    measured: dict[str, MeasuredEstimator] = {}
    for name in names:
        estimator = stage.estimators[name]
        if isinstance(estimator, MeasuredEstimator):
            measured[name] = estimator
    if not measured:
        return None

    def costs(arch: Arch) -> dict[str, float]:
        medians = {}
        for name, estimator in measured.items():
            # Again, or the search would get the very measurement that it wants confirmed.
            record = estimator.measure(space, net, arch, again=True)
            medians[name] = record["median"]
        return medians

    return costs


def check_budget(stage: StageSession, name: str, net: nn.Module, arch: Arch, work: Work) -> None:
    """Keep the bound of the budget that a model is named after, and report a model whose counted cost is over it.

    A measured cost is only bounded here: it is taken when the model is evaluated.

    Args:
        stage: the stage that extracts.
        name: the model's name, such as ``best@50%``.
        net: what the model was extracted from.
        arch: the architecture it was extracted at.
        work: whose space the architecture is from.
    """
    from nasframe.report.budgets import plain_bounds
    from nasframe.search.budgets import Budget, known_budgets

    # A name that a user chose in "extract: {archs: …}" has bounds too, if it is that of a budget's winner.
    prefix, _, _ = name.partition("@")
    texts_of_winners = {winner.name: winner.texts for winner in winners(prefix, stage.plan.budgets)}
    kept = model_store.bounds_of(stage, name)
    estimators: dict[str, Any] = {}
    for cost in texts_of_winners.get(name, ()):
        estimator = stage.estimators[cost]
        # A search has kept the bound of a measured cost. Another one would differ if it is a share of the full
        # network's cost, because that would be measured again.
        if not (isinstance(estimator, MeasuredEstimator) and cost in kept):
            estimators[cost] = estimator
    if not estimators:
        return
    full = search_costs.full_costs(estimators, work.space, net)
    for budget in known_budgets(prefix, {}, stage.plan.budgets, full):
        if budget.name != name:
            continue
        stage.result.setdefault("bounds", {})[name] = plain_bounds(budget.bounds)
        counted = {}
        costs = {}
        for cost, bounds in budget.bounds.items():
            if isinstance(estimators[cost], MeasuredEstimator):
                continue
            counted[cost] = bounds
            value = estimators[cost].estimate(work.space, net, arch)  # of one architecture: no table is worth it
            if value is not None:
                costs[cost] = value
        _report_excess(stage, Budget(name, counted), costs)


def _report_excess(stage: StageSession, budget: Budget, costs: Mapping[str, float]) -> None:
    from nasframe.search.budgets import shortfall

    excesses = [bound.violation(costs.get(cost, math.nan)) for cost, bound in budget.bounds.items()]
    if max(excesses, default=0.0) <= 0:
        return
    text = f"{budget.name}: {shortfall(budget, costs)}. Expected {budget}, as its name says."
    stage.progress.say(text)
    stage.result.setdefault("over_budget", {})[budget.name] = text
