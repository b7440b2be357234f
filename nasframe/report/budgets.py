"""Which models break the budgets that they are named after, by their final costs.

A search keeps the bounds of its winners, in the stage's result under ``bounds``. A measured cost, such as a latency, is
measured again when a model is evaluated, and may then break a bound that it met in the search. Every page, table and
model card that shows a model calls :func:`over_budget`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from nasframe.records import CostFormat
from nasframe.report import tables
from nasframe.report.format import EARLIER_COSTS, PLAIN_COST, following_unit
from nasframe.search.constraints import Bounds

PlainBounds: TypeAlias = list[float | None]
"""``[low, high]``, as a stage's result keeps them; ``None`` is an open side."""

TINY = 1e-9
"""Relative excess up to which a cost meets its bound: floats summed in another order differ by less."""
MOST_DIGITS = 10
"""Digits to which times are told apart; more are beyond any clock."""


def plain_bounds(bounds: Mapping[str, Bounds]) -> dict[str, PlainBounds]:
    """Return bounds by cost as a stage's result keeps them: ``[low, high]``, with ``None`` for an open side.

    >>> plain_bounds({"latency": Bounds(high=12.0)})
    {'latency': [None, 12.0]}
    """
    plain: dict[str, PlainBounds] = {}
    for cost, bound in bounds.items():
        sides: PlainBounds = []
        for side in (bound.low, bound.high):
            sides.append(None if math.isinf(side) else side)  # JSON has no infinity
        plain[cost] = sides
    return plain


def bounds_of(name: str, results: Iterable[Mapping[str, Any]]) -> dict[str, PlainBounds]:
    """Return the bounds that a model must meet by its name: those of winners under the same budget, and its own.

    Args:
        name: the model's; ``tuned@50%`` has the bounds of the winner ``best@50%``.
        results: the results of the run's stages.

    >>> bounds_of("tuned@50%", [{"bounds": {"best@50%": {"latency": [None, 12.0]}}}])
    {'latency': [None, 12.0]}
    """
    recorded: dict[str, dict[str, PlainBounds]] = {}
    for result in results:
        for winner, winner_bounds in (result.get("bounds") or {}).items():
            # An extract stage keeps bounds too, but of a measured cost only if no search has kept one.
            recorded[winner] = recorded.get(winner, {}) | winner_bounds
    # A model that a later stage made of a winner is named after the same budget, and must meet it as well.
    _, _, budget = name.partition("@")
    bounds: dict[str, PlainBounds] = {}
    for winner, winner_bounds in recorded.items():
        _, _, winner_budget = winner.partition("@")
        if budget and winner_budget == budget:
            bounds |= winner_bounds
    return bounds | recorded.get(name, {})  # its own bounds win


def over_budget(
    costs: Mapping[str, Any],
    bounds: Mapping[str, PlainBounds],
    formats: Mapping[str, CostFormat] = EARLIER_COSTS,
) -> str:
    """Return the bounds that a model's costs break, as ``12.4 ms > 12 ms``; empty if it meets all.

    Args:
        costs: cost → its final value.
        bounds: cost → ``[low, high]``.
        formats: cost → how it reads.

    >>> over_budget({"latency": 12.4}, {"latency": [None, 12.0]})
    '12.4 ms > 12 ms'
    >>> over_budget({"latency": 11.9, "params": 5.0e6}, {"latency": [None, 12.0]})
    ''
    """
    broken = []
    for cost, (low, high) in bounds.items():
        value = costs.get(cost)
        if value is None:
            continue
        form = formats.get(cost, PLAIN_COST)
        if high is not None and value > high + TINY * abs(high):
            broken.append(_relation(form, cost, value, ">", high))
        elif low is not None and value < low - TINY * abs(low):
            broken.append(_relation(form, cost, value, "<", low))
    return "; ".join(broken)


def _relation(form: CostFormat, cost: str, value: float, sign: str, bound: float) -> str:
    """Write a cost and its bound with enough digits to see which is larger.

    >>> _relation(EARLIER_COSTS["latency"], "latency", 12.04, ">", 12.0)
    '12.04 ms > 12 ms'
    >>> _relation(EARLIER_COSTS["params"], "params", 5_300_100, ">", 5_300_000)
    'params 5,300,100 > 5,300,000'
    """
    if form.unit == "ms":
        sides = _different_times(value, bound)
    else:
        sides = [tables.cost(form, cost, {cost: side}) for side in (value, bound)]
        if sides[0] == sides[1]:
            unit = following_unit(form)
            sides = [f"{side:,.10g}{unit}" for side in (value, bound)]
    relation = f"{sides[0]} {sign} {sides[1]}"
    # The unit says which cost it is, unless the recipe has latencies of several names.
    if form.unit == "ms" and form.heading:
        return relation
    return f"{cost} {relation}"


def _different_times(value: float, bound: float) -> list[str]:
    """Write two times in milliseconds, with as few digits as show that they differ, but at least three."""
    for digits in range(3, MOST_DIGITS):
        texts = [f"{time:.{digits}g} ms" for time in (value, bound)]
        if texts[0] != texts[1]:
            return texts
    return [f"{time:.{MOST_DIGITS}g} ms" for time in (value, bound)]
