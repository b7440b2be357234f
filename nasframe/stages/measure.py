"""What networks and architectures cost: as functions for searches, and as the facts that a run keeps of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.declarations import winners
from nasframe.interfaces import MeasuredEstimator
from nasframe.search import costs as search_costs
from nasframe.stages import model_store

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Work
    from nasframe.progress import Advance
    from nasframe.records import Arch, Evaluation
    from nasframe.search.budgets import Budget
    from nasframe.stages.session import StageSession

CostFunction = Callable[["Arch"], dict[str, float]]

ROUNDS = 3
"""How often each model is measured; the middle round counts, so one disturbed round does no harm."""


def cost_function(stage: StageSession, space: Any, net: nn.Module, names: Sequence[str]) -> CostFunction:
    """Return a function from an architecture to its costs by name, from additive tables if an estimator has one."""
    estimators = {name: stage.estimators[name] for name in names}
    return search_costs.cost_function(estimators, space, net)


def forward_macs(net: nn.Module | None, arch: Arch | None, result: Evaluation) -> float:
    """Return the forward MACs of an evaluation, counted at the mean length of its examples.

    Args:
        net: what was evaluated; without a network there are no MACs.
        arch: the sub-network of it, or ``None`` for all of it.
        result: how many examples and tokens went through.
    """
    if net is None:
        return 0.0
    from nasframe.nn.count import forward_macs

    # A task reports tokens and examples, not the length of each batch, so all count as of the mean length.
    tokens_per_example = result.tokens / max(result.examples, 1)
    mean_length = max(round(tokens_per_example), 1)
    return forward_macs(net, arch, 1, mean_length) * result.examples


def measure_models(
    stage: StageSession, models: Mapping[str, nn.Module], costs: Sequence[str], advance: Advance
) -> None:
    """Estimate or measure the costs of models, and keep them in the run's database.

    Args:
        stage: the stage that evaluates.
        models: name → network.
        costs: the costs to take.
        advance: called after each measurement.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in models}
    for cost in costs:
        estimator: Any = stage.estimators[cost]
        if not isinstance(estimator, MeasuredEstimator):
            # A stand-alone model is what it is: it has no space, and no architecture within itself.
            for name, net in models.items():
                values[name][cost] = estimator.estimate(None, net, None)
            continue
        for name, record in _measured_in_turns(estimator, models, advance).items():
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
    estimator: MeasuredEstimator, models: Mapping[str, nn.Module], advance: Advance
) -> dict[str, Mapping[str, Any]]:
    """Measure each model in several rounds, and return the record of its middle round.

    The models take turns, so that a drift of the machine's speed affects all alike.
    """
    records: dict[str, list[Mapping[str, Any]]] = {name: [] for name in models}
    total = ROUNDS * len(models)
    done = 0
    for _ in range(ROUNDS):
        for name, net in models.items():
            records[name].append(estimator.measure(None, net, again=True))
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
    from nasframe.search.budgets import known_budgets

    # A name that a user chose in "extract: {archs: …}" has bounds too, if it is that of a budget's winner.
    prefix, _, _ = name.partition("@")
    costs_of_winners = {winner.name: winner.cost for winner in winners(prefix, stage.plan.budgets)}
    cost = costs_of_winners.get(name)
    if cost is None:
        return
    estimator: Any = stage.estimators[cost]
    is_measured = isinstance(estimator, MeasuredEstimator)
    if is_measured and cost in model_store.bounds_of(stage, name):
        # A search has kept the bound. Another one would differ if it is a share of the full network's cost, because
        # that would be measured again.
        return
    full = {cost: estimator.estimate(work.space, net, None)}
    for budget in known_budgets(prefix, {}, stage.plan.budgets, full):
        if budget.name == name:
            stage.result.setdefault("bounds", {})[name] = plain_bounds(budget.bounds)
            if not is_measured:
                _report_excess(stage, budget, {cost: estimator.estimate(work.space, net, arch)})


def _report_excess(stage: StageSession, budget: Budget, costs: Mapping[str, float]) -> None:
    from nasframe.search.budgets import shortfall

    excesses = [bound.violation(costs[cost]) for cost, bound in budget.bounds.items()]
    if max(excesses, default=0.0) <= 0:
        return
    text = f"{budget.name}: {shortfall(budget, costs)}. Expected {budget}, as its name says."
    stage.progress.say(text)
    stage.result.setdefault("over_budget", {})[budget.name] = text
