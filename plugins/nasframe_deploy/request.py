"""Constraints and budgets as a command line writes them: ``encoder_params<=60%``, ``latency=12ms,8ms``.

A budget with signs, ``encoder_params<=60%,latency<=12ms``, is one of several bounds that a model meets together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.declarations import Budgets, budgeted_costs
from nasframe.errors import NasframeError, UsageError, listing, suggestion
from nasframe.search.constraints import parse_bounds

if TYPE_CHECKING:
    from nasframe.plan import Plan

# A cost is named as in recipes, and its bound is read later: here it only has to be there.
CONSTRAINT = re.compile(r"\s*(?P<cost>[A-Za-z_][\w.-]*)\s*(?P<bound>(?:<=|>=|<|>)\s*\S.*)")
BUDGETS = re.compile(r"\s*(?P<cost>[A-Za-z_][\w.-]*)\s*=\s*(?P<bounds>\S.*)")


@dataclass(frozen=True)
class Request:
    """The bounds that somebody asks for.

    Args:
        constraints: cost → the bound or bounds that every model must meet.
        budgets: cost → bounds with one model each; or a list of bounds that one model meets together.
    """

    constraints: Mapping[str, Any]
    budgets: Budgets

    @property
    def costs(self) -> list[str]:
        """The names of the costs that are bounded, each once."""
        names = dict.fromkeys([*self.constraints, *budgeted_costs(self.budgets)])
        return list(names)


def read_request(plan: Plan, constraints: Sequence[str], budgets: Sequence[str]) -> Request:
    """Read constraints and budgets; see :func:`nasframe_deploy.deploy.deploy`.

    Args:
        plan: the run's plan. Its own constraints hold too, except for costs that ``constraints`` bounds.
        constraints: as ``encoder_params<=60%``.
        budgets: as ``encoder_params=80%,60%``, or as ``encoder_params<=60%,latency<=12ms``.

    Raises:
        UsageError: some texts cannot be read (lists all of them, and why), or there are none.
    """
    reader = _Reader(plan)
    new_constraints = reader.constraints(constraints)
    new_budgets = reader.budgets(budgets)
    if reader.problems:
        raise UsageError("\n".join(reader.problems))
    if not new_constraints and not new_budgets:
        raise UsageError("nothing is asked for. Expected a constraint such as 'encoder_params<=60%', or --budgets.")
    merged = dict(plan.constraints)
    for cost, bounds in new_constraints.items():
        # As recipes write it, where one bound is no list.
        merged[cost] = bounds if len(bounds) > 1 else bounds[0]
    return Request(merged, new_budgets)


class _Reader:
    """Reads texts and collects what is wrong with them, so that all problems are reported at once."""

    def __init__(self, plan: Plan) -> None:
        self.problems: list[str] = []
        self._uses = plan.estimators
        self._costs = {*plan.estimators, *registry.factories("estimator")}

    def constraints(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """Return cost → its bounds."""
        constraints: dict[str, list[str]] = {}
        for text in texts:
            match = CONSTRAINT.fullmatch(text)
            if match is None:
                expected = "COST<=VALUE, as in 'encoder_params<=60%'"
                self.problems.append(f"{text!r}: not understood. Expected {expected}.{_corrected(text)}")
                continue
            cost, bound = match["cost"], match["bound"]
            if self._is_known(text, cost) and self._is_bound(text, cost, bound):
                constraints.setdefault(cost, []).append(bound)
        return constraints

    def budgets(self, texts: Sequence[str]) -> Budgets:
        """Return cost → its budgets; or a list of budgets, if some bound several costs."""
        budgets: list[dict[str, str]] = []
        has_joint = False
        for text in texts:  # an option may be repeated, also for one cost
            if CONSTRAINT.match(text):
                joint = self._joint(text)
                has_joint = has_joint or len(joint) > 1
                budgets.append(joint)
                continue
            match = BUDGETS.fullmatch(text)
            if match is None:
                expected = "COST=VALUE,…, as in 'encoder_params=80%,60%', or COST<=VALUE,… for one model within all"
                self.problems.append(f"{text!r}: not understood. Expected {expected}.")
                continue
            cost = match["cost"]
            if not self._is_known(text, cost):
                continue
            bounds = [bound.strip() for bound in match["bounds"].split(",")]
            budgets += [{cost: bound} for bound in bounds if self._is_bound(text, cost, bound)]
        if has_joint:
            return budgets
        by_cost: dict[str, list[str]] = {}
        for budget in budgets:
            for cost, bound in budget.items():
                by_cost.setdefault(cost, []).append(bound)
        return by_cost

    def _joint(self, text: str) -> dict[str, str]:
        """Return the bounds of one budget by cost: ``encoder_params<=60%,latency<=12ms``."""
        joint: dict[str, str] = {}
        for part in text.split(","):
            match = CONSTRAINT.fullmatch(part)
            if match is None:
                expected = "COST<=VALUE,COST<=VALUE, as in 'encoder_params<=60%,latency<=12ms'"
                self.problems.append(f"{text!r}: {part!r} is not understood. Expected {expected}.")
                continue
            cost, bound = match["cost"], match["bound"]
            if self._is_known(text, cost) and self._is_bound(text, cost, bound):
                # "<=" is what a bare value means, so that the model is named as a recipe's would be.
                bare = bound.removeprefix("<=").strip()
                joint[cost] = f"{joint[cost]},{bound}" if cost in joint else bare
        return joint

    def _is_known(self, text: str, cost: str) -> bool:
        if cost in self._costs:
            return True
        hint = suggestion(cost, self._costs)
        self.problems.append(f"{text!r}: unknown cost {cost!r}. Costs: {listing(self._costs)}.{hint}")
        return False

    def _is_bound(self, text: str, cost: str, bound: str) -> bool:
        """Return whether a bound can be read, in a unit of its cost."""
        try:
            # With the options that the recipe gives a cost; its other costs have their defaults.
            estimator = registry.make("estimator", self._uses.get(cost, cost))
            # No network is needed to read a bound, so percentages refer to 1 here.
            parse_bounds(bound, full=1.0, unit=getattr(estimator, "unit", ""))
        except NasframeError as error:
            self.problems.append(f"{text!r}: {error}")
            return False
        return True


def _corrected(text: str) -> str:
    """Suggest ``<=`` in place of ``=``, ``==`` or ``=<``, if that makes a text a constraint."""
    corrected = re.sub(r"\s*(==|=<|=)\s*", "<=", text, count=1)
    if CONSTRAINT.fullmatch(corrected):
        return f" Did you mean {corrected!r}?"
    return ""
