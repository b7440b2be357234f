"""Which models of a comparison to ship: for each task and budget the best arm, and of its seeds one finished model.

:mod:`nasframe_studies.choice` has the rule and the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe_studies.choice import (
    Arm,
    Choice,
    Lead,
    Network,
    Wording,
    choose,
    fallback_note,
    leads,
    sentence,
)
from nasframe_studies.pairs import MEAN
from nasframe_studies.records import Comparison, PairTable, Shipped

if TYPE_CHECKING:
    import pandas as pd

Teachers = Mapping[tuple[str, str, int], float]
"""Arm, task and seed → the teacher's score."""


@dataclass(frozen=True)
class Recommended:
    """What a comparison recommends.

    Args:
        shipped: a model for each task and budget.
        note: what limits all of them; ``None`` if nothing does.
    """

    shipped: Sequence[Shipped]
    note: str | None


def recommendations(comparison: Comparison, compared: pd.DataFrame, teachers: pd.DataFrame) -> Recommended:
    """Choose a model to ship for each task and budget.

    Args:
        comparison: the comparison, with its tables.
        compared: the compared models, with ``slot``.
        teachers: the teachers' rows.
    """
    teacher_scores = _teacher_scores(teachers)
    chosen = []
    for table in comparison.tables:
        if table.task == MEAN:
            continue
        arms = _arms(table, compared, teacher_scores)
        if arms:
            form = comparison.format_of(table.task, table.metric)
            chosen.append((table, choose(arms, form)))
    shipped = []
    on_split = []
    for (table, choice), lead in zip(chosen, _leads(comparison, chosen), strict=True):
        shipped.append(_shipped(comparison, table, choice, lead))
        if choice.basis == "split":
            on_split.append(table.model)
    return Recommended(shipped, fallback_note(on_split, comparison.split))


def _teacher_scores(teachers: pd.DataFrame) -> Teachers:
    scores: dict[tuple[str, str, int], float] = {}
    for row in teachers.to_dict("records"):
        key = (str(row["arm"]), str(row["task"]), int(row["seed"]))
        scores.setdefault(key, float(row["score"]))
    return scores


def _arms(table: PairTable, compared: pd.DataFrame, teachers: Teachers) -> list[Arm]:
    """Return the arms of a table with their networks."""
    rows = compared[(compared["task"] == table.task) & (compared["slot"] == table.model)]
    arms = []
    for scored in table.arms:
        networks = []
        for row in rows[rows["arm"] == scored.arm].to_dict("records"):
            seed = int(row["seed"])
            networks.append(
                Network(
                    seed=seed,
                    run=str(row["run"]),
                    model=str(row["model"]),
                    select=_finite(row.get("select_score")),
                    score=float(row["score"]),
                    teacher=teachers.get((scored.arm, table.task, seed)),
                    over="over" if seed in scored.over_budget else "",
                )
            )
        arms.append(Arm(scored.arm, networks))
    return arms


def _finite(value: Any) -> float | None:
    """Return a number; ``None`` for what tables have in its place."""
    return None if value is None or not np.isfinite(value) else float(value)


def _leads(comparison: Comparison, chosen: Sequence[tuple[PairTable, Choice]]) -> list[Lead | None]:
    """Test the leads of recommended arms, adjusted over the same families as the tables: a task's, or the page's."""
    families: dict[str, list[int]] = {}
    for place, (table, _) in enumerate(chosen):
        name = "" if comparison.family == "page" else table.task
        families.setdefault(name, []).append(place)
    found: list[Lead | None] = [None] * len(chosen)
    for places in families.values():
        choices = [chosen[place][1] for place in places]
        tables = [chosen[place][0] for place in places]
        forms = [comparison.format_of(table.task, table.metric) for table in tables]
        for place, lead in zip(places, leads(choices, forms), strict=True):
            found[place] = lead
    return found


def _shipped(comparison: Comparison, table: PairTable, choice: Choice, lead: Lead | None) -> Shipped:
    wording = Wording(
        budget=table.model,
        place=f" on {table.task}" if len(comparison.tasks) > 1 else "",
        metric=table.metric,
        form=comparison.format_of(table.task, table.metric),
        split=comparison.split,
    )
    network = choice.arm.network
    return Shipped(
        task=table.task,
        budget=table.model,
        arm=choice.arm.name,
        seed=network.seed,
        run=network.run,
        model=network.model,
        text=sentence(choice, lead, wording),
        chosen_on=choice.chosen_on(comparison.split),
        runner_up=None if lead is None else lead.over,
        p_holm=None if lead is None else lead.p,
    )


def lines(shipped: Sequence[Shipped]) -> list[str]:
    """Return the sentences of recommendations, each once: one network may be the best under several budgets."""
    return list(dict.fromkeys(entry.text for entry in shipped))
