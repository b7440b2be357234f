"""The budgets of a search, winners within bounds, and the check that some architecture can reach each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nasframe.declarations import Budgets, Winner, budget_texts, listed, winners
from nasframe.errors import UnsatisfiableError
from nasframe.interfaces import ends_of
from nasframe.records import Arch
from nasframe.search.constraints import Bounds, CostValues, Limits, Screen, parse_bounds, violation
from nasframe.search.restrict import restrict

Costs = Callable[[Arch], CostValues]
"""Architecture → its costs by name."""


@dataclass(frozen=True)
class JointBudget:
    """Bounds that one winner must meet together.

    Args:
        texts: cost → its bounds as the recipe writes them, after which the winner is named.
        bounds: cost → its bounds.
    """

    texts: Mapping[str, str]
    bounds: Limits


BudgetBounds: TypeAlias = Mapping[str, Limits] | Sequence[JointBudget]
"""Name of a cost → {a budget's text: its bounds}, each with a winner of its own; or joint budgets."""

DESCENT_DRAWS = 5  # random starts of the search for the nearest architecture, besides the two ends
DESCENT_STEPS = 300  # mutations from each start; the result only informs the user, so it need not be exact


@dataclass(frozen=True)
class Budget:
    """A winner to find: its name and the bounds that it must meet, of its budget and of all constraints."""

    name: str
    bounds: Limits

    def __str__(self) -> str:
        parts = [f"{name} {bounds}" for name, bounds in self.bounds.items()]
        return "; ".join(parts)


def parse_limits(
    constraints: Mapping[str, Any], budgets: Budgets, full: CostValues
) -> tuple[dict[str, Bounds], BudgetBounds]:
    """Read constraints and budgets as recipes write them.

    Args:
        constraints: cost → bounds.
        budgets: cost → one bound or several, each with a winner of its own; or a list of joint budgets.
        full: cost → that of the super-network's largest architecture, which percentages refer to. Without it,
            percentages are refused.

    Returns:
        Cost → bounds; and cost → {the budget's text: bounds}, or joint budgets.
    """
    bounds = {}
    for cost, text in constraints.items():
        bounds[cost] = parse_bounds(text, full.get(cost))
    if not isinstance(budgets, Mapping):
        return bounds, [_joint(texts, full) for texts in budget_texts(budgets)]
    bounds_of_budgets: dict[str, dict[str, Bounds]] = {}
    for cost, texts in budgets.items():
        bounds_of_budgets[cost] = {}
        for text in listed(texts):
            # Keyed by text, because a winner is named after its budget as the recipe writes it.
            bounds_of_budgets[cost][str(text)] = parse_bounds(text, full.get(cost))
    return bounds, bounds_of_budgets


def _joint(texts: Mapping[str, str], full: CostValues) -> JointBudget:
    """Read the bounds that one winner must meet together."""
    return JointBudget(texts, {cost: parse_bounds(text, full.get(cost)) for cost, text in texts.items()})


def named_budgets(prefix: str, bounds: Limits, budgets: BudgetBounds) -> list[Budget]:
    """Return the winners to find, named as :func:`nasframe.declarations.winners` names them.

    Args:
        prefix: the search's ``save_as``.
        bounds: cost → bounds that every winner must meet.
        budgets: cost → {the budget's text: bounds}, or joint budgets.
    """
    if isinstance(budgets, Mapping):
        texts = {cost: list(shares) for cost, shares in budgets.items()}
        return [_budget(winner, bounds, budgets) for winner in winners(prefix, texts)]
    return [_budget(winner, bounds, budgets) for winner in winners(prefix, [joint.texts for joint in budgets])]


def known_budgets(prefix: str, constraints: Mapping[str, Any], budgets: Budgets, full: CostValues) -> list[Budget]:
    """Return the winners to find, bounded only by the costs that are known before the run.

    A budget of another cost bounds nothing yet. Its winner is still listed, and it counts when winners are named.

    Args:
        prefix: the search's ``save_as``.
        constraints: cost → bounds, as recipes write them.
        budgets: as recipes write them.
        full: known cost → the full network's.
    """
    bounds = {cost: parse_bounds(text, full[cost]) for cost, text in constraints.items() if cost in full}
    known = []
    for winner in winners(prefix, budgets):  # of all budgets: unknown costs count in the names
        joint = _joint({cost: text for cost, text in winner.texts.items() if cost in full}, full)
        known.append(Budget(winner.name, _within(joint.bounds, bounds)))
    return known


def _budget(winner: Winner, bounds: Limits, budgets: BudgetBounds) -> Budget:
    """Return a winner with the bounds of its budget and of all constraints."""
    of_budget: Limits = {}
    if isinstance(budgets, Mapping):
        of_budget = {cost: budgets[cost][text] for cost, text in winner.texts.items()}
    else:
        for joint in budgets:
            if joint.texts == winner.texts:
                of_budget = joint.bounds
    return Budget(winner.name, _within(of_budget, bounds))


def _within(of_budget: Limits, bounds: Limits) -> dict[str, Bounds]:
    """Return a budget's bounds together with those that every winner must meet."""
    limits = dict(bounds)
    for cost, band in of_budget.items():
        # A constraint on the same cost still holds: the tighter bound of each side counts.
        limits[cost] = band.joined(bounds[cost]) if cost in bounds else band
    return limits


def check_reachable(wanted: Iterable[Budget], region: Any, costs: Costs) -> None:
    """Make sure that a domain has an architecture for each budget.

    Args:
        wanted: the budgets.
        region: the domain.
        costs: architecture → costs by name.

    Raises:
        UnsatisfiableError: it has none for some budgets; the text lists them all, with the nearest reachable values.
    """
    problems = []
    for budget in wanted:
        problem = obstacle(budget, region, costs)
        if problem:
            problems.append(f"{budget.name}: {problem}")
    if problems:
        raise UnsatisfiableError("\n".join(problems))


def obstacle(budget: Budget, region: Any, costs: Costs) -> str:
    """Return the reason why no architecture of a domain can meet a budget, an empty text if one can."""
    if not budget.bounds:
        return ""
    screen = Screen(budget.bounds, costs)
    try:
        # Only an example proves it: bounds on several costs may be reachable one by one, but not together.
        restrict(region, keep=screen).sample(np.random.default_rng(0))
    except UnsatisfiableError:
        nearest_costs = nearest(region, screen)
        if violation(nearest_costs, budget.bounds) == 0:  # it was hard to draw, but it is an example
            return ""
        return f"no architecture has {budget}. The nearest reachable is {shortfall(budget, nearest_costs)}."
    return ""


def shortfall(budget: Budget, costs: CostValues) -> str:
    """Write the costs that break a budget's bounds, or all bounded costs if none does."""
    everything = []
    broken = []
    for name, bound in budget.bounds.items():
        cost = costs.get(name, math.nan)
        text = f"{name} = {bound.show(cost)}"
        everything.append(text)
        if bound.violation(cost) > 0:
            broken.append(text)
    return ", ".join(broken or everything)


def nearest(region: Any, screen: Screen) -> CostValues:
    """Return the costs of the architecture that comes nearest to a screen's bounds.

    It is found by descents from the domain's two ends and from random draws, so it is a good answer, not a proven one.
    """
    rng = np.random.default_rng(0)  # so that a check and the run that follows it report the same values
    draws = [region.sample(rng) for _ in range(DESCENT_DRAWS)]
    best: Arch = {}
    least_excess = math.inf
    for start in [*ends_of(region), *draws]:
        arch = start
        excess = screen.violation(arch)
        for _ in range(DESCENT_STEPS):
            neighbour = region.mutate(arch, rng)
            neighbour_excess = screen.violation(neighbour)
            if neighbour_excess <= excess:  # equal ones too: it must cross plateaus, where no single knob helps
                arch, excess = neighbour, neighbour_excess
        if excess < least_excess:
            best, least_excess = arch, excess
    return screen.costs(best)
