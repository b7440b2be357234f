"""Costs of architectures as fast functions, from the additive tables of estimators that have one.

A search asks for costs far more often than it evaluates, so that a sum over table entries is used wherever it can be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.interfaces import Estimator, MeasuredEstimator, SearchSpace, cost_table, reference_arch
from nasframe.records import Arch, CostTable, PairCosts

if TYPE_CHECKING:
    import numpy as np

CostFunction = Callable[[Arch], dict[str, float]]
"""Architecture → its costs by name."""


def table_cost(table: CostTable, knobs: Mapping[str, Sequence[Any]]) -> Callable[[Arch], float]:
    """Make a function from an architecture to its cost out of an additive table.

    Args:
        table: what each choice costs.
        knobs: the values that the table's entries belong to, as in ``domain.knobs``.

    Returns:
        A function of canonical architectures. It raises ``KeyError`` for a value that has no entry.

    >>> cost = table_cost(CostTable(10.0, {"layers": [1.0, 2.0]}), {"layers": [[0], [0, 1]]})
    >>> cost({"layers": [0, 1]})
    12.0
    """
    entries = {}
    for knob, values in knobs.items():
        keys = map(_hashable, values)
        entries[knob] = dict(zip(keys, table.choices[knob], strict=True))
    base = table.base

    def cost(arch: Arch) -> float:
        total = base
        for knob, value in arch.items():
            # :func:`_hashable` in place: this is the hottest loop of a search.
            key = tuple(value) if type(value) is list else value
            total += entries[knob][key]
        return total

    if not table.pairs:
        return cost
    of_pairs = [_pair_cost(pair, knobs) for pair in table.pairs]
    return lambda arch: cost(arch) + sum(of_pair(arch) for of_pair in of_pairs)


def _pair_cost(pair: PairCosts, knobs: Mapping[str, Sequence[Any]]) -> Callable[[Arch], float]:
    """Make a function from an architecture to what two of its choices cost together."""
    kinds = []
    for knob, kinds_of_values in zip((pair.first, pair.second), pair.kinds, strict=True):
        kinds.append(dict(zip(map(_hashable, knobs[knob]), kinds_of_values, strict=True)))

    def cost(arch: Arch) -> float:
        if pair.first not in arch or pair.second not in arch:
            return 0.0
        first = kinds[0][_hashable(arch[pair.first])]
        second = kinds[1][_hashable(arch[pair.second])]
        return pair.costs[first][second]

    return cost


def _hashable(value: Any) -> Any:
    """Return a value that can be the key of a table: a list becomes a tuple."""
    return tuple(value) if isinstance(value, list) else value


def cost_function(estimators: Mapping[str, Estimator], space: SearchSpace, net: Any) -> CostFunction:
    """Make a function from an architecture to its costs by name.

    Args:
        estimators: name → estimator. An additive one is asked once, for its table.
        space: the space that the architectures are from.
        net: the network that they are sub-networks of.

    Returns:
        A function of canonical architectures; those outside the domain's values are counted one by one. A cost that
        cannot be known for an architecture is left out.
    """
    summed: dict[str, Callable[[Arch], float]] = {}
    for name, estimator in estimators.items():
        table = cost_table(estimator, space, net)
        if table is not None:
            summed[name] = table_cost(table, space.domain.knobs)  # type: ignore[attr-defined]

    def costs(arch: Arch) -> dict[str, float]:
        values = {}
        for name, estimator in estimators.items():
            try:
                value = summed[name](arch)
                if value == value:  # not NaN, which a table has for what it does not know
                    values[name] = value
            except KeyError:  # there is no table, or the domain does not list the value
                cost = estimator.estimate(space, net, arch)
                if cost is not None:
                    values[name] = cost
        return values

    return costs


def full_costs(estimators: Mapping[str, Estimator], space: Any, net: Any) -> dict[str, float]:
    """Return the costs that percentages refer to: those of the super-network's largest architecture.

    Args:
        estimators: name → estimator.
        space: the space, if there is one.
        net: its super-network.

    Returns:
        Name → cost; one that cannot be known is left out.
    """
    arch = reference_arch(space, net)
    costs = {}
    for name, estimator in estimators.items():
        cost = estimator.estimate(space, net, arch)
        if cost is not None:
            costs[name] = cost
    return costs


def tables(estimators: Mapping[str, Estimator], space: Any, net: Any) -> Callable[[str], CostTable | None]:
    """Return the function that samplers get as ``tables``: from the name of a cost to its additive table.

    Args:
        estimators: name → estimator.
        space: the space that the architectures are from.
        net: the network that they are sub-networks of.

    Returns:
        A function that returns ``None`` for an unknown cost, and for one that is no sum over choices.
    """

    @functools.cache
    def table_of(name: str) -> CostTable | None:
        if name not in estimators:
            return None
        return cost_table(estimators[name], space, net)

    return table_of


def cost_rows(
    estimators: Mapping[str, Estimator], names: Sequence[str], space: Any, net: Any
) -> Callable[[Sequence[Arch]], np.ndarray] | None:
    """Return the function that samplers get as ``costs``: from archs to an array ``(archs, costs)``.

    Measured costs are left out, because samplers ask for costs by the thousand. If no other cost is named, ``params``
    stands in for them.

    Args:
        estimators: name → estimator.
        names: the costs that constraints, budgets and objectives name.
        space: the space that the architectures are from.
        net: the network that they are sub-networks of.

    Returns:
        The function, or ``None`` if even ``params`` is unknown.
    """
    import numpy as np

    counted = [name for name in names if not isinstance(estimators[name], MeasuredEstimator)]
    columns = sorted(counted) or ["params"]
    if not estimators.keys() >= set(columns):
        return None
    column_estimators = {name: estimators[name] for name in columns}

    @functools.cache
    def costs() -> CostFunction:
        # Made when a sampler first asks: many never do, and a table takes a count of the whole network.
        return cost_function(column_estimators, space, net)

    def rows(archs: Sequence[Arch]) -> np.ndarray:
        costs_of = costs()
        table = []
        for arch in archs:
            values = costs_of(arch)
            table.append([values.get(name, np.nan) for name in columns])
        return np.array(table)

    return rows
