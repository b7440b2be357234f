"""What each operation of an edge costs, so that the cost of a derived network is a sum over its edges times its depth.

    cost(K, cell) = fixed(K) + K · Σ over the kept edges of cost(operation)

The numbers are differences of estimates, so that any estimator will do whose cost is such a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nasframe import registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.interfaces import TrainJob
from nasframe.records import Arch
from nasframe_adabert.network import INPUTS, NODES, operation_names
from nasframe_adabert.space import arch_of, built

PUBLISHED = {
    "zero": 0.0944,
    "identity": 0.0944,
    "max_pool3": 0.0944,
    "avg_pool3": 0.0944,
    "conv3": 0.0999,
    "conv5": 0.1037,
    "conv7": 0.1076,
    "dilated3": 0.0999,
    "dilated5": 0.1037,
    "dilated7": 0.1076,
}
"""The cost of each operation in the published code, which adds up to 1."""
NEAR = 1e-6
"""How far a cost may differ from the sum, relative to the cost."""
DRAWS = 3
"""Architectures on which it is compared."""


@dataclass(frozen=True)
class OperationCosts:
    """A cost as a sum over edges.

    Args:
        fixed: ``(depths,)`` the cost of K cells without operations, for each depth of the space.
        each: ``(operations,)`` the cost of an operation on one edge of one cell.
    """

    fixed: np.ndarray
    each: np.ndarray


def operation_costs(job: TrainJob, name: str, owner: str) -> OperationCosts:
    """Return a cost as a sum over edges.

    Args:
        job: the stage; its network is a super-network of ``adabert_cells``.
        name: one of its estimators, or one that needs no options.
        owner: the option that names the cost, for errors.

    Raises:
        UsageError: there is no such cost, it cannot be estimated, or it is no such sum.
    """
    estimator = estimator_of(job, name, owner)
    net: Any = job.net
    space: Any = job.space
    names = operation_names(net.arguments["dilation"])
    most = net.most

    def cost(arch: Arch) -> float:
        estimate = estimator.estimate(space, net, arch)
        if estimate is None:
            raise UsageError(f"{owner}: {name!r} cannot be estimated for these networks. Expected another cost.")
        return float(estimate)

    empty = _same_operations("zero")
    fixed = np.array([cost(arch_of(cells, empty)) for cells in range(net.fewest, most + 1)])
    each = []
    for operation in names:
        nodes = _same_operations("zero")
        nodes[0][0][1] = operation
        # Once in each of the cells, so that a difference of large numbers is divided, not multiplied.
        each.append((cost(arch_of(most, nodes)) - fixed[-1]) / most)
    costs = OperationCosts(fixed, np.array(each))
    _require_sum(costs, cost, space, names, net.fewest, f"{owner}: {name!r}")
    return costs


def _same_operations(name: str) -> list[list[list[Any]]]:
    """Return a cell whose nodes read its two inputs by one operation."""
    return [[[source, name] for source in range(INPUTS)] for _ in range(NODES)]


def _require_sum(costs: OperationCosts, cost: Any, space: Any, names: Sequence[str], fewest: int, what: str) -> None:
    """Refuse a cost that is not the sum of its parts."""
    rng = np.random.default_rng(0)
    for arch in [space.domain.largest(), *(space.domain.sample(rng) for _ in range(DRAWS))]:
        cells, nodes = built(arch)
        used = [costs.each[names.index(name)] for edges in nodes for _, name in edges]
        expected = costs.fixed[cells - fewest] + cells * sum(used)
        actual = cost(arch)
        if abs(actual - expected) > NEAR * max(abs(actual), 1.0):
            raise UsageError(
                f"{what} is no sum over operations times the number of cells: {dict(arch)} costs {actual:g}, its parts "
                f"{expected:g}. Expected an additive cost, such as params or macs."
            )


def estimator_of(job: TrainJob, name: str, owner: str) -> Any:
    """Return an estimator by its name, with the options that the recipe sets.

    Raises:
        UsageError: there is none of that name.
    """
    if name in job.estimators:
        return job.estimators[name]
    known = registry.factories("estimator")
    if name not in known:
        raise UsageError(f"{owner}: unknown cost {name!r}. There are: {listing(known)}.{suggestion(name, known)}")
    return registry.make("estimator", name)  # the recipe does not mention it


def relative_costs(job: TrainJob, costs: Sequence[str] | str, owner: str) -> torch.Tensor:
    """Return what the efficiency loss charges for each operation, ``(operations,)``.

    Args:
        job: the stage.
        costs: names of estimators, whose costs are added after each was divided by that of the dearest operation; or
            ``published`` for the numbers of the published code.
        owner: the option, for errors.
    """
    net: Any = job.net
    names = operation_names(net.arguments["dilation"])
    if costs == "published":
        return torch.tensor([PUBLISHED[name] for name in names])
    total = np.zeros(len(names))
    for name in costs:
        each = operation_costs(job, name, owner).each
        if not each.max() > 0:
            raise UsageError(f"{owner}: {name!r} is the same for all operations. Expected a cost that differs.")
        total += each / each.max()  # (A9)
    return torch.tensor(total, dtype=torch.float32)
