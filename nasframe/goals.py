"""What a search is asked for: winners within bounds; and whether any architecture can be one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.keep import restrict
from nasframe.scoring import Bounds, Screen, parse_bounds
from nasframe.types import Arch

if TYPE_CHECKING:
    from nasframe.recipe.plan import Plan

Costs = Callable[[Arch], Mapping[str, float]]


@dataclass(frozen=True)
class Goal:
    """A winner to find: its name, and the bounds it must meet, those of its budget and all constraints."""

    name: str
    bounds: Mapping[str, Bounds]

    def __str__(self) -> str:
        return "; ".join(f"{name} {bounds}" for name, bounds in self.bounds.items())


def limits_of(plan: Plan, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the constraints and the budgets of a search stage: the recipe's, and its own over or instead of them."""
    budgets = options.get("budgets")
    constraints = {**plan.constraints, **(options.get("constraints") or {})}
    return constraints, dict(plan.budgets if budgets is None else budgets)


def aimed_costs(plan: Plan) -> list[str]:
    """Name the costs that a recipe as a whole bounds or aims at: those that samplers outside a search learn of."""
    aims = (name[1:] for name in plan.objectives or () if name.startswith("-") and name[1:] in plan.estimators)
    return sorted({*plan.constraints, *plan.budgets, *aims})


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
    shares = {n: {str(t): parse_bounds(t, full[n]) for t in listed(texts)} for n, texts in budgets.items()}
    return bounds, shares


def goals(prefix: str, bounds: Mapping[str, Bounds], budgets: Mapping[str, Mapping[str, Bounds]]) -> list[Goal]:
    """Name the winners to find.

    Args:
        prefix: ``best`` gives ``best``, ``best@50%``, or ``best@params=50%`` if several costs have budgets.
        bounds: cost → bounds that each must meet.
        budgets: cost → {the budget's name: bounds}.
    """
    budgets = {cost: texts for cost, texts in budgets.items() if texts}
    found = []
    for cost, texts in budgets.items():
        for text, budget in texts.items():
            name = f"{prefix}@{text}" if len(budgets) == 1 else f"{prefix}@{cost}={text}"
            both = budget.joined(bounds[cost]) if cost in bounds else budget
            found.append(Goal(name, {**bounds, cost: both}))
    return found or [Goal(prefix, bounds)]


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


def listed(value: Any) -> list[Any]:
    """Return a list of what is one thing or a list already.

    >>> listed("50%"), listed(["75%", "50%"])
    (['50%'], ['75%', '50%'])
    """
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


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
