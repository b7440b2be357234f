"""The problem that ``milp`` and ``dynamic`` solve: the best sum of a table's entries within bounds on other sums."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.interfaces import KnobDomain
from nasframe.records import CostTable, PairCosts
from nasframe.search.constraints import Bounds, bounds_of

Tables = Callable[[str], CostTable | None]
"""Name of a cost → its table, ``None`` if it has none."""


@dataclass(frozen=True)
class Part:
    """A knob with the values that it may have in a problem.

    Args:
        name: the knob.
        values: their positions in ``domain.knobs[name]``, ascending.
        parent: the knob that it depends on; empty if it always counts.
        active_at: positions of the parent's values at which it counts.
    """

    name: str
    values: np.ndarray
    parent: str = ""
    active_at: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Limit:
    """A sum that is bounded.

    Args:
        cost: the cost's name.
        table: its table.
        bounds: its bounds.
    """

    cost: str
    table: CostTable
    bounds: Bounds


@dataclass(frozen=True)
class AdditiveProblem:
    """Choose a value of each part.

    Args:
        knobs: knob → all its values, as in the domain.
        parts: the knobs, in the domain's order.
        score: the table of what is minimised; entries of a score to maximise are negated.
        limits: the bounded sums.
    """

    knobs: Mapping[str, Sequence[Any]]
    parts: Sequence[Part]
    score: CostTable
    limits: Sequence[Limit]

    def arch(self, positions: Mapping[str, int]) -> dict[str, Any]:
        """Return the architecture with the values at these positions."""
        # Copies, because the domain's own lists would otherwise be in the caller's hands.
        return {name: copy.deepcopy(self.knobs[name][position]) for name, position in positions.items()}


def problem_of(domain: Any, score: str, tables: Tables | None, who: str) -> AdditiveProblem:
    """Return the problem of a domain, within the bounds that it was restricted to.

    Args:
        domain: a domain of knobs.
        score: a cost after ``-``, to be minimised, or a cost of which more is better.
        tables: gives the tables; ``None`` before a run.
        who: the sampler, for errors.

    Raises:
        UsageError: the domain has no knobs or joined ones, or a cost is no sum over choices.
    """
    refuse_domain(domain, who)
    name = score.removeprefix("-")
    found = None if tables is None else tables(name)
    if found is None:
        raise UsageError(
            f"{who}.score: {name!r} is no sum over the choices of this space, or not among the recipe's costs. "
            "Expected a cost with a table, after '-' if less is better; name it under 'estimators'."
        )
    assert tables is not None
    sign = 1.0 if score.startswith("-") else -1.0
    objective = _times(found, sign)
    limits = []
    for cost, bounds in (bounds_of(domain) or {}).items():
        table = tables(cost)
        if table is None:
            raise UsageError(
                f"{who}: the cost {cost!r} is bounded, but is no sum over the choices of this space. Expected bounds "
                "on costs with a table."
            )
        limits.append(Limit(cost, table, bounds))
    parts = [_part(domain, knob, [objective, *(limit.table for limit in limits)]) for knob in domain.knobs]
    return AdditiveProblem(domain.knobs, parts, objective, limits)


def refuse_domain(domain: Any, who: str) -> None:
    """Refuse a domain whose choices are not those of tables.

    Raises:
        UsageError: it has no knobs, or joined ones.
    """
    if not isinstance(domain, KnobDomain):
        raise UsageError(f"{who}: works with domains of knobs, but {type(domain).__name__} has none.")
    dims = getattr(domain, "dims", None)
    if dims is not None and any(tuple(knobs) != (name,) for name, knobs in dims.items()):
        raise UsageError(f"{who}: tables have an entry for each value of a knob. Expected no joined knobs.")


def _part(domain: Any, knob: str, tables: Iterable[CostTable]) -> Part:
    """Return a knob with the values that the domain allows and whose costs are known."""
    count = len(domain.knobs[knob])
    allowed = np.arange(count)
    by_dimension = getattr(domain, "allowed", None)
    if by_dimension is not None:
        allowed = np.asarray(by_dimension[list(domain.knobs).index(knob)])
    for table in tables:
        costs = np.asarray(table.choices[knob], dtype=float)
        allowed = allowed[np.isfinite(costs[allowed])]
    parent, values = getattr(domain, "rules", {}).get(knob, ("", ()))
    if not parent:
        return Part(knob, allowed)
    parents_values = list(domain.knobs[parent])
    return Part(knob, allowed, parent, frozenset(parents_values.index(value) for value in values))


def _times(table: CostTable, factor: float) -> CostTable:
    """Return a table with all entries multiplied."""
    if factor == 1.0:
        return table
    choices = {knob: (np.asarray(costs) * factor).tolist() for knob, costs in table.choices.items()}
    pairs = []
    for pair in table.pairs:
        costs = [[factor * cost for cost in row] for row in pair.costs]
        pairs.append(PairCosts(pair.first, pair.second, pair.kinds, costs))
    return CostTable(factor * table.base, choices, tuple(pairs))


def bounded_below(limit: Limit) -> bool:
    """Tell whether a sum must not be too small."""
    return limit.bounds.low > -math.inf
