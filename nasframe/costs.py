"""Costs of architectures as fast functions, from the additive tables of estimators that have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.types import Arch, CostTable

if TYPE_CHECKING:
    from torch import nn

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
    estimators: Mapping[str, Estimator], space: SearchSpace, net: nn.Module
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


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
