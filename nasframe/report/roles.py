"""What models of a run are for: which of them to ship, and the roles that tables and figures show."""

from __future__ import annotations

from collections.abc import Sequence

from nasframe.report.records import ModelRow, Role

PRECEDENCE: tuple[Role, ...] = ("model", "winner", "baseline")
"""Of several models under one budget the first of these is shipped: one trained on from a winner before the winner."""


def shipped(models: Sequence[ModelRow]) -> list[ModelRow]:
    """Return the models of a run that are worth shipping, in the order of the table.

    Under each budget that is the model that was made of the winner, else the winner, else what was written out. A run
    without budgets ships its winners, or else all models but the teacher.

    Args:
        models: all rows of the table.
    """
    names = set()
    by_budget: dict[str, list[ModelRow]] = {}
    for model in models:
        if model.budget and model.role != "teacher":
            by_budget.setdefault(model.budget, []).append(model)
    for candidates in by_budget.values():
        for role in PRECEDENCE:
            of_role = [model.name for model in candidates if model.role == role]
            if of_role:
                names.add(of_role[-1])  # the last one: a model may be trained on more than once
                break
    names |= {model.name for model in models if model.role == "winner" and not model.budget}
    if not names:
        names = {model.name for model in models if model.role == "model"}
    return [model for model in models if model.name in names]


def shown_role(models: Sequence[ModelRow], model: ModelRow) -> Role:
    """Return the role that a page shows: a model that was written out is a baseline only beside what it is one for."""
    if model.role != "baseline":
        return model.role
    for other in models:
        if other.budget == model.budget and other.role in ("winner", "model"):
            return "baseline"
    return "model"
