"""What a search is asked for: winners within bounds; and whether any architecture can be one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasframe.declarations import Winner, listed, winners
from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch
from nasframe.search.constraints import Bounds, Screen, parse_bounds
from nasframe.search.restrict import restrict

Costs = Callable[[Arch], Mapping[str, float]]


@dataclass(frozen=True)
class Goal:
    """A winner to find: its name, and the bounds it must meet, those of its budget and all constraints."""

    name: str
    bounds: Mapping[str, Bounds]

    def __str__(self) -> str:
        return "; ".join(f"{name} {bounds}" for name, bounds in self.bounds.items())


def parse_limits(
    constraints: Mapping[str, Any], budgets: Mapping[str, Any], full: Mapping[str, float]
) -> tuple[dict[str, Bounds], dict[str, dict[str, Bounds]]]:
    """Read constraints and budgets as recipes write them.

    Args:
        constraints: cost → bounds.
        budgets: cost → one bound or several, each with a winner of its own.
        full: cost → that of the full network.

    Returns:
        Cost → bounds, and cost → {the budget's text: bounds}.
    """
    bounds = {name: parse_bounds(text, full[name]) for name, text in constraints.items()}
    bounds_of_budgets = {}
    for cost, texts in budgets.items():
        bounds_of_budgets[cost] = {str(text): parse_bounds(text, full[cost]) for text in listed(texts)}
    return bounds, bounds_of_budgets


def goals(prefix: str, bounds: Mapping[str, Bounds], budgets: Mapping[str, Mapping[str, Bounds]]) -> list[Goal]:
    """Return the winners to find, named as :func:`nasframe.declarations.winners` names them.

    Args:
        prefix: the search's ``save_as``.
        bounds: cost → bounds that each must meet.
        budgets: cost → {the budget's text: bounds}.
    """
    texts = {cost: list(shares) for cost, shares in budgets.items()}
    return [_goal(winner, bounds, budgets) for winner in winners(prefix, texts)]


def known_goals(
    prefix: str, constraints: Mapping[str, Any], budgets: Mapping[str, Any], full: Mapping[str, float]
) -> list[Goal]:
    """Return the winners to find, bounded only by the costs that are known beforehand.

    A budget of another cost bounds nothing yet, but its winner is among them, and it counts in their names.

    Args:
        prefix: the search's ``save_as``.
        constraints: cost → bounds, as recipes write them.
        budgets: cost → one bound or several, as recipes write them.
        full: known cost → that of the full network.
    """
    known_constraints = {cost: text for cost, text in constraints.items() if cost in full}
    known_budgets = {cost: texts for cost, texts in budgets.items() if cost in full}
    bounds, shares = parse_limits(known_constraints, known_budgets, full)
    return [_goal(winner, bounds, shares) for winner in winners(prefix, budgets)]


def _goal(winner: Winner, bounds: Mapping[str, Bounds], budgets: Mapping[str, Mapping[str, Bounds]]) -> Goal:
    """Return a winner with the bounds of its budget, if that is among ``budgets``, and of all constraints."""
    limits = dict(bounds)
    if winner.cost is not None and winner.cost in budgets:
        budget = budgets[winner.cost][winner.text]
        limits[winner.cost] = budget.joined(bounds[winner.cost]) if winner.cost in bounds else budget
    return Goal(winner.name, limits)


def check_reachable(wanted: Iterable[Goal], region: Any, costs: Costs) -> None:
    """Make sure that the domain has an architecture for each goal.

    Args:
        wanted: the goals.
        region: the domain.
        costs: architecture → costs by name.

    Raises:
        UnsatisfiableError: it has none for some; every one is told, with the nearest reachable values.
    """
    found = [f"{goal.name}: {text}" for goal in wanted if (text := obstacle(goal, region, costs))]
    if found:
        raise UnsatisfiableError("\n".join(found))


def obstacle(goal: Goal, region: Any, costs: Costs) -> str:
    """Say why no architecture of a domain can meet a goal; nothing where one can."""
    screen = Screen(goal.bounds, costs)
    try:
        if screen.bounds:
            restrict(region, keep=screen).sample(np.random.default_rng(0))
        return ""
    except UnsatisfiableError:
        found = nearest(region, screen)
        return f"no architecture has {goal}. The nearest reachable is {shortfall(goal, found)}."


def shortfall(goal: Goal, costs: Mapping[str, float]) -> str:
    """Write those costs that break a goal's bounds, or all bounded ones where none does."""
    broken = [name for name, bound in goal.bounds.items() if bound.violation(costs[name]) > 0] or list(goal.bounds)
    return ", ".join(f"{name} = {goal.bounds[name].show(costs[name])}" for name in broken)


def nearest(region: Any, screen: Screen) -> Mapping[str, float]:
    """Return the costs of the least violating architecture that a descent from corners and random draws finds."""
    rng = np.random.default_rng(0)
    ends = [getattr(region, end)() for end in ("smallest", "largest") if hasattr(region, end)]
    best: tuple[float, Arch] = (math.inf, {})
    for arch in [*ends, *(region.sample(rng) for _ in range(5))]:
        excess = screen.violation(arch)
        for _ in range(300):
            other = region.mutate(arch, rng)
            if (reached := screen.violation(other)) <= excess:
                arch, excess = other, reached
        if excess < best[0]:
            best = excess, arch
    return screen.costs(best[1])
