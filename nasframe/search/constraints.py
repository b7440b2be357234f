"""What is feasible: bounds on costs, and penalties for breaking them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nasframe.errors import UsageError
from nasframe.records import Arch
from nasframe.units import parse_number, parse_share, unit_fault

TINY = 1e-12  # in place of 0, if a bound lies at the very extreme and there is no way beyond it to divide by
_BOUND = re.compile(r"\s*(<=|>=|<|>|==|=|)\s*(.*)", re.DOTALL)

CostValues = Mapping[str, float]
"""Name of a cost → its value."""


@dataclass(frozen=True)
class Bounds:
    """A closed interval that a cost must lie in.

    >>> Bounds(high=50.0).violation(60.0)
    0.2
    """

    low: float = -math.inf
    high: float = math.inf
    full: float | None = field(default=None, compare=False, repr=False)  # the full network's cost, to show shares

    def violation(self, cost: float) -> float:
        """Return the excess relative to the broken bound, 0 inside the interval; NaN breaks every bound."""
        if self.low <= cost <= self.high:
            return 0.0
        if math.isnan(cost):
            return math.inf
        bound = self.high if cost > self.high else self.low
        return abs(cost - bound) / (abs(bound) or 1.0)  # relative, so that bounds on different costs can be added

    def shared(self, cost: float, extremes: tuple[float, float]) -> float:
        """Return how far a cost lies on the way from the broken bound to the extreme on that side, 0 inside."""
        if self.low <= cost <= self.high:
            return 0.0
        if cost > self.high:
            bound, extreme = self.high, extremes[1]
        else:
            bound, extreme = self.low, extremes[0]
        whole_way = max(abs(extreme - bound), TINY)
        # A domain without ends has estimated extremes, which a cost may lie beyond.
        return min(abs(cost - bound) / whole_way, 1.0)

    def joined(self, other: Bounds) -> Bounds:
        """Return the interval that both allow; if there is none, every cost violates the result."""
        low = max(self.low, other.low)
        high = min(self.high, other.high)
        return Bounds(low, high, self.full)

    def show(self, cost: float) -> str:
        """Return a cost as text, with its share of the full network's if that is known."""
        number = f"{cost:,.10g}"
        if not self.full:
            return number
        return f"{number} ({cost / self.full:.1%} of the full network)"

    def __str__(self) -> str:
        sides = []
        if self.low > -math.inf:
            sides.append(f">= {self.low:,.10g}")
        if self.high < math.inf:
            sides.append(f"<= {self.high:,.10g}")
        return ", ".join(sides) or "anything"


Limits = Mapping[str, Bounds]
"""Name of a cost → the bounds that it must lie in."""


def parse_bounds(
    text: str | float | Sequence[str | float], full: float | None = None, unit: str | None = None
) -> Bounds:
    """Read bounds: ``"<= 40M"``, ``">= 40M, <= 66M"``, ``"50%"``, ``40e6``; a bare number is an upper bound.

    Args:
        text: one bound or several, joined by commas or in a list. ``<`` and ``>`` exclude the bound itself.
        full: the cost of the full network, which percentages refer to.
        unit: the unit of the cost, as its estimator names it; ``None`` allows any unit.

    Raises:
        UsageError: the text is not a bound, its unit is of something else, it is a percentage and ``full`` is not
            known, or no cost meets all bounds.

    >>> parse_bounds(">= 40M, <= 66M")
    Bounds(low=40000000.0, high=66000000.0)
    >>> parse_bounds("50%", full=10.0).high
    5.0
    """
    texts = text if isinstance(text, list | tuple) else [text]
    joined_text = ",".join(map(str, texts))  # an item of a list may itself have commas
    band = Bounds(full=full)
    for part in joined_text.split(","):
        band = band.joined(_parse_bound(part, full, unit))
    if band.low > band.high:
        raise UsageError(f"bounds {text!r} contradict each other: nothing is {band}")
    return band


def _parse_bound(text: str, full: float | None, unit: str | None) -> Bounds:
    """Read one bound; see :func:`parse_bounds`."""
    sign, number = _BOUND.fullmatch(text).groups()  # type: ignore[union-attr]  # the pattern fits any text
    share = parse_share(number)
    if share is not None and full is None:
        raise UsageError(f"bound {text.strip()!r}: a percentage of an unknown full cost. Give a number.")
    if unit is not None:
        fault = unit_fault(number, unit)
        if fault:
            raise UsageError(fault)
    if share is None:
        value = parse_number(number)
    else:
        value = share * float(full or 0)
    match sign:
        case "<":  # intervals are closed, so the bound moves to the next number
            return Bounds(high=math.nextafter(value, -math.inf), full=full)
        case ">":
            return Bounds(low=math.nextafter(value, math.inf), full=full)
        case ">=":
            return Bounds(low=value, full=full)
        case "=" | "==":
            return Bounds(low=value, high=value, full=full)
    return Bounds(high=value, full=full)


def violation(costs: CostValues, bounds: Limits) -> float:
    """Return the sum of the relative excesses over all bounds; 0 is feasible, and an unknown cost breaks its bound."""
    return sum(bound.violation(costs.get(name, math.nan)) for name, bound in bounds.items())


class Screen:
    """A graded condition for ``domain.restrict(keep=…)``: an architecture's costs meet all bounds.

    Args:
        bounds: cost → bounds.
        costs: architecture → its costs by name.
    """

    def __init__(self, bounds: Limits, costs: Callable[[Arch], CostValues]) -> None:
        self.bounds = bounds
        self.costs = costs

    def __call__(self, arch: Arch) -> bool:
        """Tell whether all bounds are met."""
        return self.violation(arch) == 0

    def violation(self, arch: Arch) -> float:
        """Return the sum of the relative excesses, which domains descend on."""
        return violation(self.costs(arch), self.bounds)


def bounds_of(domain: Any) -> dict[str, Bounds] | None:
    """Return the bounds of a restricted domain, for samplers that compute with them instead of trying.

    Args:
        domain: a domain that was restricted by :class:`Screen`, perhaps several times.

    Returns:
        Cost → bounds; ``None`` if the domain has a condition of another kind, too, which only trying can tell.

    >>> from nasframe.search.domain import Choices
    >>> domain = Choices({"width": [1, 2]}).restrict(keep=Screen({"params": Bounds(high=5.0)}, lambda arch: {}))
    >>> bounds_of(domain)
    {'params': Bounds(low=-inf, high=5.0)}
    """
    conditions = [getattr(domain, "keep", None)]
    limits: dict[str, Bounds] = {}
    is_whole = True
    while conditions:
        condition = conditions.pop()
        if condition is None:
            continue
        inner = getattr(condition, "conditions", None)
        if inner is not None:  # several conditions at once
            conditions += inner
        elif isinstance(condition, Screen):
            for cost, bound in condition.bounds.items():
                limits[cost] = bound.joined(limits[cost]) if cost in limits else bound
        else:
            is_whole = False
    return limits if is_whole else None


def penalised(
    score: float,
    costs: CostValues,
    bounds: Limits,
    extremes: Mapping[str, tuple[float, float]],
    power: float,
    form: Literal["monotone", "published"] = "monotone",
) -> float:
    """Lower a score by how far its costs exceed the bounds: ``score · (1 − (cost − C) / (cost_max − C)) ** power``.

    The soft penalty of YOCO-BERT (arXiv 2106.02435), with one factor for each bound.

    Args:
        score: the measured score.
        costs: cost by name.
        bounds: the bounds that the costs should meet.
        extremes: cost → (smallest, largest) in the domain.
        power: the exponent.
        form: what happens to a negative score. ``monotone`` lowers it, too (times 2 − factor). ``published`` multiplies
            it by the factor, which raises it.

    >>> penalised(0.8, {"params": 75.0}, {"params": Bounds(high=50.0)}, {"params": (0.0, 100.0)}, 2)
    0.2
    """
    factor = 1.0
    for name, bound in bounds.items():
        excess = bound.shared(costs[name], extremes[name])
        factor *= (1 - excess) ** power
    if score >= 0 or form == "published":
        return score * factor
    return score * (2 - factor)  # from 1 to 2, so that a larger excess always means a lower score
