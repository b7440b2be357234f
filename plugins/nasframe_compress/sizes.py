"""What budgets mean for one network: which share of its encoder, or which number format, meets them.

Methods that prune to a share, and samplers that learn for shares, need budgets as shares of the encoder. A budget on
another cost becomes the largest share whose network meets it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasframe.errors import UsageError
from nasframe.interfaces import cost_format
from nasframe.report.tables import cost
from nasframe.search.constraints import Bounds, parse_bounds, violation
from nasframe.search.costs import CostFunction, cost_function, full_costs
from nasframe.stages.inputs import RunInputs
from nasframe_compress.request import SHARE_COST, Budget, budget_text, share_of

MARGIN = 0.97
"""What is used of a budget on another cost if a method's shapes are known only after training."""
STEP = 0.1
"""Shares of the encoder are written in steps of this many percent."""
FORMATS = ("int8", "2:4 int8", "int4", "2:4 int4")
"""Number formats of NxMiFormer, from the largest to the smallest."""


@dataclass(frozen=True)
class Share:
    """The share of the encoder that a budget becomes.

    Args:
        percent: the share.
        exact: whether the budget is that share itself.
    """

    percent: float
    exact: bool

    @property
    def text(self) -> str:
        """The share as recipes write it.

        >>> Share(50.0, True).text, Share(37.2, False).text
        ('50%', '37.2%')
        """
        return f"{self.percent:g}%"


class ShareFinder:
    """Finds the shares that meet budgets, on a network of the right shape.

    Args:
        inputs: model and data of a recipe over the space ``compound``.
    """

    def __init__(self, inputs: RunInputs) -> None:
        self.inputs = inputs
        self._shares: dict[tuple[str, float], Share] = {}

    def share(self, budget: Budget, shapes_are_known: bool = True) -> Share:
        """Return the largest share of the encoder whose network meets a budget.

        Args:
            budget: cost → bound.
            shapes_are_known: whether the method's networks have the shapes that are counted and measured here. If
                not, 3 % of every other cost stay unused.

        Raises:
            UsageError: no network of the space meets the budget; the message has the costs of the smallest.
        """
        share = share_of(budget)
        if share is not None:
            return Share(share, exact=True)
        margin = 1.0 if shapes_are_known else MARGIN
        key = (budget_text(budget), margin)
        if key not in self._shares:
            self._shares[key] = Share(self._largest(budget, margin), exact=False)
        return self._shares[key]

    def require_reach(self, budget: Budget) -> None:
        """Refuse a share of the encoder that no network with all its layers can have.

        Args:
            budget: cost → bound; any but a share is left to :meth:`share`.

        Raises:
            UsageError: even one head and no neuron in each layer are more than the share; the message has theirs.
        """
        percent = share_of(budget)
        if percent is None:
            return
        space: Any = self.inputs.work.space
        costs = self._costs(budget)(space.arch({"size": percent}))  # more than the share, if the widths cannot be less
        if violation(costs, self._bounds(budget, margin=1.0)) == 0:
            return
        estimators = {SHARE_COST: self.inputs.estimators[SHARE_COST]}
        full = full_costs(estimators, space, self.inputs.work.net)[SHARE_COST]
        smallest = math.ceil(100 * costs[SHARE_COST] / full / STEP) * STEP
        raise UsageError(
            f"--budget {budget_text(budget)!r}: with all its layers, the smallest network has {smallest:.1f}% of the "
            "encoder. Expected a larger budget."
        )

    def _largest(self, budget: Budget, margin: float) -> float:
        """Return the largest share that meets a budget, by bisection, since costs rise with the share."""
        space: Any = self.inputs.work.space
        costs = self._costs(budget)
        bounds = self._bounds(budget, margin)
        ladder = space.domain.knobs["size"]
        low = math.ceil(float(ladder[0]) / STEP)
        high = math.floor(100 / STEP)

        def fault(step: int) -> float:
            return violation(costs(space.arch({"size": step * STEP})), bounds)

        if fault(low) > 0:
            raise UsageError(self._out_of_reach(budget, costs(space.arch({"size": low * STEP})), low * STEP))
        if fault(high) == 0:
            return 100.0
        while high - low > 1:
            middle = (low + high) // 2
            if fault(middle) == 0:
                low = middle
            else:
                high = middle
        return round(low * STEP, 1)

    def _costs(self, budget: Budget) -> CostFunction:
        """Return the function from an architecture to the costs of a budget."""
        estimators = {name: self.inputs.estimators[name] for name in budget}
        work = self.inputs.work
        assert work.space is not None
        return cost_function(estimators, work.space, work.net)

    def _bounds(self, budget: Budget, margin: float) -> dict[str, Bounds]:
        work = self.inputs.work
        assert work.space is not None
        estimators = {name: self.inputs.estimators[name] for name in budget}
        full = full_costs(estimators, work.space, work.net)
        bounds = {}
        for name, text in budget.items():
            parsed = parse_bounds(text, full.get(name))
            scale = 1.0 if name == SHARE_COST else margin
            bounds[name] = parse_bounds(parsed.high * scale)
        return bounds

    def _out_of_reach(self, budget: Budget, costs: Mapping[str, float], percent: float) -> str:
        shown = ", ".join(self._shown(name, costs[name]) for name in budget)
        return (
            f"--budget {budget_text(budget)!r}: even {percent:g}% of the encoder has {shown}. Expected a larger budget."
        )

    def _shown(self, name: str, value: float) -> str:
        return f"{name} {cost(cost_format(self.inputs.estimators[name]), name, {name: value})}"


def format_within(inputs: RunInputs, budget: Budget) -> str:
    """Return the largest number format of NxMiFormer that meets a budget of bits.

    Args:
        inputs: model and data of a recipe over the space ``nm_bits`` with the formats of ``FORMATS`` and ``fp32``,
            which percentages refer to.
        budget: ``bits`` or ``encoder_bits`` → bound.

    Raises:
        UsageError: not even the smallest format meets it; the message has its cost.
    """
    work = inputs.work
    space: Any = work.space
    estimators = {name: inputs.estimators[name] for name in budget}
    full = full_costs(estimators, space, work.net)
    bounds = {name: parse_bounds(text, full.get(name)) for name, text in budget.items()}
    costs_of = cost_function(estimators, space, work.net)
    costs: Mapping[str, float] = {}
    for number_format in FORMATS:
        costs = costs_of(space.arch(dict.fromkeys(space.kinds, number_format)))
        if violation(costs, bounds) == 0:
            return number_format
    shown = ", ".join(f"{name} at {costs[name] / full[name]:.1%}" for name in budget)
    raise UsageError(f"--budget {budget_text(budget)!r}: even {FORMATS[-1]} has {shown}. Expected a larger budget.")
