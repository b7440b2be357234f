"""Costs of architectures as fast functions, from the additive tables of estimators that have one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.records import Arch, CostTable

if TYPE_CHECKING:
    import numpy as np

    from nasframe.interfaces import Estimator, SearchSpace


def table_cost(table: CostTable, knobs: Mapping[str, Sequence[Any]]) -> Callable[[Arch], float]:
    """Make a function from an architecture to its cost out of an additive table.

    Args:
        table: what each choice costs.
        knobs: the values the table's entries belong to, as in ``domain.knobs``.

    Returns:
        A function of canonical architectures. It raises ``KeyError`` for a value that has no entry.

    >>> cost = table_cost(CostTable(10.0, {"layers": [1.0, 2.0]}), {"layers": [[0], [0, 1]]})
    >>> cost({"layers": [0, 1]})
    12.0
    """
    entries = {knob: dict(zip(map(_key, values), table.choices[knob], strict=True)) for knob, values in knobs.items()}
    base = table.base

    def cost(arch: Arch) -> float:
        total = base
        for knob, value in arch.items():
            total += entries[knob][tuple(value) if type(value) is list else value]
        return total

    return cost


def cost_function(
    estimators: Mapping[str, Estimator], space: SearchSpace, net: Any
) -> Callable[[Arch], dict[str, float]]:
    """Make a function from an architecture to its costs by name.

    Args:
        estimators: name → estimator. An additive one is asked once, for its table.
        space: the space the architectures are from.
        net: the network they are sub-networks of.

    Returns:
        A function of canonical architectures; those outside the domain's values are counted one by one.
    """
    tables: dict[str, Callable[[Arch], float]] = {}
    for name, estimator in estimators.items():
        if (table := getattr(estimator, "table", lambda *_: None)(space, net)) is not None:
            tables[name] = table_cost(table, space.domain.knobs)  # type: ignore[attr-defined]

    def costs(arch: Arch) -> dict[str, float]:
        found = {}
        for name, estimator in estimators.items():
            try:
                found[name] = tables[name](arch)
            except KeyError:
                found[name] = estimator.estimate(space, net, arch)
        return found

    return costs


def cost_rows(
    estimators: Mapping[str, Estimator], names: Sequence[str], space: Any, net: Any
) -> Callable[[Sequence[Arch]], np.ndarray] | None:
    """Make what samplers get as ``costs``: a function from archs to an array ``(archs, costs)``.

    Measured costs are left out, for samplers ask for costs by the thousand; where none is left ``params`` stands in,
    or nothing where it is unknown.

    Args:
        estimators: name → estimator.
        names: the costs that constraints, budgets and objectives name.
        space: the space the architectures are from.
        net: the network they are sub-networks of; its costs are first counted when the function is first called.
    """
    import numpy as np

    chosen = sorted(name for name in names if not hasattr(estimators[name], "measure")) or ["params"]
    if not estimators.keys() >= set(chosen):
        return None
    counted = functools.cache(lambda: cost_function({name: estimators[name] for name in chosen}, space, net))  # type: ignore[arg-type]
    return lambda archs: np.array([[found[name] for name in chosen] for found in map(counted(), archs)])


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
