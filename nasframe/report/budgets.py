"""Which models break the budgets that they are named after, by their final costs.

A search keeps the bounds of its winners, in the stage's result under ``bounds``. A measured cost, such as a latency, is
measured again when a model is evaluated, and may then break a bound that it met in the search. Every page, table and
model card that shows a model calls :func:`over_budget`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nasframe.report import tables
from nasframe.search.constraints import Bounds

TINY = 1e-9
"""Relative excess up to which a cost meets its bound: floats summed in another order differ by less."""
MOST_DIGITS = 10


def plain_bounds(bounds: Mapping[str, Bounds]) -> dict[str, list[float | None]]:
    """Return bounds by cost as a stage's result keeps them: ``[low, high]``, with ``None`` for an open side.

    >>> plain_bounds({"latency": Bounds(high=12.0)})
    {'latency': [None, 12.0]}
    """
    plain: dict[str, list[float | None]] = {}
    for cost, bound in bounds.items():
        low = None if math.isinf(bound.low) else bound.low
        high = None if math.isinf(bound.high) else bound.high
        plain[cost] = [low, high]
    return plain


def bounds_of(name: str, results: Iterable[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Return the bounds that a model must meet by its name: those of winners under the same budget, and its own.

    Args:
        name: the model's; ``tuned@50%`` has the bounds of the winner ``best@50%``.
        results: the results of the run's stages.

    >>> bounds_of("tuned@50%", [{"bounds": {"best@50%": {"latency": [None, 12.0]}}}])
    {'latency': [None, 12.0]}
    """
    recorded: dict[str, dict[str, list[float | None]]] = {}
    for result in results:
        for winner, winner_bounds in (result.get("bounds") or {}).items():
            # An extract stage keeps bounds too, but of a measured cost only if no search has kept one.
            recorded[winner] = recorded.get(winner, {}) | winner_bounds
    budget = name.partition("@")[2]
    bounds: dict[str, list[float | None]] = {}
    for winner, winner_bounds in recorded.items():
        if budget and winner.partition("@")[2] == budget:
            bounds |= winner_bounds
    return bounds | recorded.get(name, {})  # its own bounds win


def over_budget(costs: Mapping[str, Any], bounds: Mapping[str, list[float | None]]) -> str:
    """Return the bounds that a model's costs break, as ``12.4 ms > 12 ms``; empty if it meets all.

    Args:
        costs: cost → its final value.
        bounds: cost → ``[low, high]``.

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
        if high is not None and value > high + TINY * abs(high):
            broken.append(_relation(cost, value, ">", high))
        elif low is not None and value < low - TINY * abs(low):
            broken.append(_relation(cost, value, "<", low))
    return "; ".join(broken)


def _relation(cost: str, value: float, sign: str, bound: float) -> str:
    """Write a cost and its bound with enough digits to see which is larger.

    >>> _relation("latency", 12.04, ">", 12.0), _relation("params", 5_300_100, ">", 5_300_000)
    ('12.04 ms > 12 ms', 'params 5,300,100 > 5,300,000')
    """
    if cost == "latency":
        for digits in range(3, MOST_DIGITS + 1):
            sides = [f"{side:.{digits}g} ms" for side in (value, bound)]
            if sides[0] != sides[1]:
                break
        return f"{sides[0]} {sign} {sides[1]}"
    sides = [tables.cost(cost, {cost: side}) for side in (value, bound)]
    if sides[0] == sides[1]:
        sides = [f"{side:,.10g}" for side in (value, bound)]
    return f"{cost} {sides[0]} {sign} {sides[1]}"
