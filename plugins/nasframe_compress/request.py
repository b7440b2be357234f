"""What somebody asks ``nasframe compress`` for: a model, data, budgets, methods, and how long it may take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nasframe import registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.search.constraints import parse_bounds
from nasframe_deploy.request import CONSTRAINT

SHARE_COST = "encoder_params"
"""The cost that a bare share such as ``50%`` bounds."""

FURTHER_COSTS: Mapping[str, Mapping[str, Any]] = {"encoder_bits": {"use": "bits", "part": "encoder"}}
"""Costs that no plugin has a name for, with the estimator that they are."""

SHARE = re.compile(r"\d+(\.\d+)?\s*%")
"""A share as a budget writes it."""

Budget = Mapping[str, str]
"""Cost → its upper bound as recipes write it, all of which hold together for one network."""


@dataclass(frozen=True)
class Request:
    """The arguments of the command, read but not yet compared with model and data.

    Args:
        model: a directory, an id of the Hugging Face hub, or the name of a registered model.
        data: a table, a folder of tables, a folder of GLUE files, or a data set of the Hugging Face hub.
        dev: the table to report on; default: a part of ``data`` is set aside.
        text: the columns of the texts, one or two; empty: guessed.
        label: the column of the labels, or several with commas between them, one for each label; ``None``: guessed.
        separator: what stands between several labels of one column; ``None``: guessed.
        task: what the labels are; ``auto`` decides by their values. Or the name of a GLUE task.
        metric: the primary metric; ``None``: chosen.
        positive: the class that ``f1`` describes; ``None``: chosen.
        labels: the classes in the order of the checkpoint's head, if its own names do not say.
        new_head: draw a new head even if the checkpoint has one.
        max_length: tokens after which texts are cut; ``None``: the task's default.
        budgets: one network each.
        methods: names of method recipes.
        minutes: wall time of everything; ``None``: the recipes' own lengths.
        seeds: seeds of the runs.
    """

    model: str
    data: str
    dev: str | None = None
    text: tuple[str, ...] = ()
    label: str | None = None
    separator: str | None = None
    task: str = "auto"
    metric: str | None = None
    positive: str | None = None
    labels: tuple[str, ...] = ()
    new_head: bool = False
    max_length: int | None = None
    budgets: tuple[Budget, ...] = field(default_factory=lambda: ({SHARE_COST: "50%"},))
    methods: tuple[str, ...] = ("yoco_bert",)
    minutes: float | None = None
    seeds: tuple[int, ...] = (0,)

    def plain(self) -> dict[str, Any]:
        """Return the request JSON-plain."""
        return asdict(self)

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Request:
        """Return the request that :meth:`plain` wrote."""
        values: dict[str, Any] = {}
        for name, value in record.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def read_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Read budgets as the command line writes them.

    Args:
        texts: each is a share of the encoder's parameters (``50%``), a bound (``latency<=12ms``), or several bounds
            with commas between them, which must hold together.

    Returns:
        The budgets in their order, each once.

    Raises:
        UsageError: some texts cannot be read; the message lists all of them, and what was expected.

    >>> read_budgets(["50%", "encoder_params<=40%,macs<=30%"])
    ({'encoder_params': '50%'}, {'encoder_params': '40%', 'macs': '30%'})
    """
    problems: list[str] = []
    budgets: list[Budget] = []
    for text in texts:
        budget = _read_budget(text, problems)
        if budget and budget not in budgets:
            budgets.append(budget)
    if problems:
        raise UsageError("\n".join(problems))
    return tuple(budgets)


def budget_text(budget: Budget) -> str:
    """Write a budget as the command line does.

    >>> budget_text({"encoder_params": "50%"}), budget_text({"latency": "12ms"})
    ('50%', 'latency<=12ms')
    """
    if share_of(budget) is not None:
        return budget[SHARE_COST]
    parts = []
    for cost, bound in budget.items():
        sign = "" if bound.startswith("<") else "<="
        parts.append(f"{cost}{sign}{bound}")
    return ",".join(parts)


def _read_budget(text: str, problems: list[str]) -> Budget:
    """Read one budget; what is wrong with it is added to ``problems``."""
    budget: dict[str, str] = {}
    for part in text.split(","):
        cost, bound = _split(part.strip())
        problem = _fault(cost, bound)
        if not problem and cost in budget:
            problem = f"two bounds for {cost!r}. Expected each cost once."
        if problem:
            problems.append(f"--budget {text!r}: {problem}")
            return {}
        budget[cost] = bound
    return budget


def share_of(budget: Budget) -> float | None:
    """Return the percentage of a budget that is nothing but a share of the encoder, ``None`` for any other.

    >>> share_of({"encoder_params": "12.5 %"}), share_of({"encoder_params": "2M"}), share_of({"macs": "50%"})
    (12.5, None, None)
    """
    if list(budget) != [SHARE_COST]:
        return None
    bound = budget[SHARE_COST]
    return float(bound.removesuffix("%")) if SHARE.fullmatch(bound) else None


def _split(part: str) -> tuple[str, str]:
    """Return the cost and the bound of one part; an empty cost if it has another form."""
    if SHARE.fullmatch(part):
        return SHARE_COST, part
    match = CONSTRAINT.fullmatch(part)
    if match is None:
        return "", part
    bound = match["bound"].strip()
    if bound.startswith("<="):  # as recipes write an upper bound
        bound = bound.removeprefix("<=").strip()
    elif not bound.startswith("<"):
        return "", part
    return match["cost"], bound


def _fault(cost: str, bound: str) -> str:
    """Say what is wrong with one bound; nothing if it can be read."""
    if not cost:
        hint = f" Did you mean '{bound}%'?" if SHARE.fullmatch(f"{bound}%") else ""
        return f"{bound!r} is no budget. Expected a share such as '50%', or COST<=VALUE as in 'latency<=12ms'.{hint}"
    costs = [*registry.factories("estimator"), *FURTHER_COSTS]
    if cost not in costs:
        return f"unknown cost {cost!r}. Costs: {listing(costs)}.{suggestion(cost, costs)}"
    estimator = registry.make("estimator", FURTHER_COSTS.get(cost, cost))
    try:
        # No network is needed to read a bound, so percentages refer to 1 here.
        bounds = parse_bounds(bound, full=1.0, unit=getattr(estimator, "unit", ""))
    except UsageError as error:
        return f"{error}"
    is_share = bound.endswith("%")
    if bounds.high <= 0 or (is_share and bounds.high > 1):
        return f"{bound!r} is out of range. Expected more than 0, and at most 100%."
    return ""
