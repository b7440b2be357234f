"""Constraints and budgets as a command line writes them: ``encoder_params<=60%``, ``latency=12ms,8ms``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import NasframeError, UsageError, listing, suggestion
from nasframe.search.constraints import parse_bounds

if TYPE_CHECKING:
    from nasframe.plan import Plan

CONSTRAINT = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(<=|>=|<|>)\s*(\S.*)")
BUDGETS = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=\s*(\S.*)")


class Asked:
    """What is asked of a run: constraints for all models, and budgets with one model each.

    Args:
        plan: the run's plan; its own constraints hold where nothing else is said of a cost.
    """

    def __init__(self, plan: Plan) -> None:
        self.constraints: dict[str, Any] = dict(plan.constraints)
        self.budgets: dict[str, list[str]] = {}
        self.known = {*plan.estimators, *registry.factories("estimator")}
        self.uses = plan.estimators
        self.problems: list[str] = []

    @property
    def names(self) -> list[str]:
        """The costs that are bounded."""
        return list(dict.fromkeys([*self.constraints, *self.budgets]))

    def read(self, constraints: Sequence[str], budgets: Sequence[str]) -> Asked:
        """Read both; see :func:`nasframe_deploy.deploy.deploy`.

        Raises:
            UsageError: every text that cannot be read, and why; or nothing is asked.
        """
        given: dict[str, list[str]] = {}
        for text in constraints:
            if (found := self._split(CONSTRAINT, text, "COST<=VALUE, as in 'encoder_params<=60%'")) and self._bound(
                text, found[0], found[1] + found[2]
            ):
                given.setdefault(found[0], []).append(found[1] + found[2])
        for text in budgets:
            if found := self._split(BUDGETS, text, "COST=VALUE,…, as in 'encoder_params=80%,60%'"):
                values = [value.strip() for value in found[1].split(",")]
                self.budgets.setdefault(found[0], []).extend(v for v in values if self._bound(text, found[0], v))
        if self.problems:
            raise UsageError("\n".join(self.problems))
        if not given and not self.budgets:
            raise UsageError("nothing is asked for. Expected a constraint such as 'encoder_params<=60%', or --budgets.")
        self.constraints |= {name: texts if len(texts) > 1 else texts[0] for name, texts in given.items()}
        return self

    def _split(self, pattern: re.Pattern[str], text: str, expected: str) -> tuple[str, ...] | None:
        found = pattern.fullmatch(text)
        if found is None:
            near = re.sub(r"\s*(==|=<|=)\s*", "<=", text, count=1) if pattern is CONSTRAINT else ""
            hint = f" Did you mean {near!r}?" if near and CONSTRAINT.fullmatch(near) else ""
            self.problems.append(f"{text!r}: not understood. Expected {expected}.{hint}")
        elif found[1] not in self.known:
            hint = suggestion(found[1], self.known)
            self.problems.append(f"{text!r}: unknown cost {found[1]!r}. Costs: {listing(self.known)}.{hint}")
        else:
            return found.groups()
        return None

    def _bound(self, text: str, cost: str, bound: str) -> bool:
        """Check that a bound can be read, in a unit of its cost."""
        try:
            estimator = registry.make("estimator", self.uses.get(cost, cost))
            parse_bounds(bound, full=1.0, unit=getattr(estimator, "unit", ""))
        except NasframeError as error:
            self.problems.append(f"{text!r}: {error}")
            return False
        return True
