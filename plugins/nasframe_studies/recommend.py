"""Which models of a comparison to ship: for each task and budget the best arm, and of its seeds one finished model.

An arm is chosen by its mean over seeds on the compared split; the seed by its score on ``select``, because a choice on
``dev`` would make that model look better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.measures import sign_of
from nasframe.records import MetricFormat
from nasframe.report import tables as report_tables
from nasframe.report.recommend import beside_teacher
from nasframe_studies import stats
from nasframe_studies.pairs import MEAN
from nasframe_studies.records import ArmScores, Comparison, PairTable, Shipped
from nasframe_studies.wording import mean_and_sd

if TYPE_CHECKING:
    import pandas as pd


def recommendations(comparison: Comparison, compared: pd.DataFrame, teachers: pd.DataFrame) -> list[Shipped]:
    """Return a model to ship for each task and budget.

    Args:
        comparison: the comparison, with its tables.
        compared: the compared models, with ``slot``.
        teachers: the teachers' rows.
    """
    chosen = []
    for table in comparison.tables:
        if table.task == MEAN:
            continue
        form = comparison.format_of(table.task, table.metric)
        best = _best_arm(table, form)
        if best is None:
            continue
        rows = compared[(compared["task"] == table.task) & (compared["slot"] == table.model)]
        own = rows[rows["arm"] == best.arm]
        model = _best_seed(own, best.over_budget)
        text = _sentence(comparison, table, best, own, teachers, model)
        chosen.append(
            Shipped(
                task=table.task,
                budget=table.model,
                arm=best.arm,
                seed=int(model["seed"]),
                run=str(model["run"]),
                model=str(model["model"]),
                text=text,
            )
        )
    return chosen


def _best_arm(table: PairTable, form: MetricFormat) -> ArmScores | None:
    """Return the arm with the best mean; arms that are over the budget in some run count only if all are."""
    return max(_candidates(table), key=lambda row: sign_of(form) * row.mean, default=None)


def _candidates(table: PairTable) -> list[ArmScores]:
    within = [row for row in table.arms if not row.over_budget]
    return within or list(table.arms)


def _best_seed(rows: pd.DataFrame, over_budget: Sequence[int]) -> dict[str, Any]:
    """Return the row of the seed that scored best on ``select``, of those within the budget if there are any.

    If no scores are known, it is the first seed.
    """
    records: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]

    def score(row: dict[str, Any]) -> float:
        value = row.get("select_score")
        return -np.inf if value is None or np.isnan(value) else float(value)

    within = [row for row in records if int(row["seed"]) not in over_budget]
    return max(within or records, key=score)


def _sentence(
    comparison: Comparison,
    table: PairTable,
    best: ArmScores,
    rows: pd.DataFrame,
    teachers: pd.DataFrame,
    model: dict[str, Any],
) -> str:
    """Write a recommendation in plain words."""
    form = comparison.format_of(table.task, table.metric)
    place = f" on {table.task}" if len(comparison.tasks) > 1 else ""
    seeds = "1 seed" if best.n == 1 else f"{best.n} seeds"
    unit = " %" if form.percent else ""
    title = "best" if form.higher_is_better else "best (lowest)"
    candidates = _candidates(table)
    among = " of the arms within the budget" if len(candidates) < len(table.arms) else ""
    text = (
        f"For {table.model}{place}, ship {model['model']} of {best.arm}, seed {model['seed']}: {best.arm} has the"
        f" {title} {comparison.split} {table.metric}{among}, {mean_and_sd(form, best.mean, best.sd)}{unit} over {seeds}"
    )
    loss = _against_teachers(form, rows, teachers)
    if loss:
        text += f", {loss}"
    text += "."
    runner_up = _runner_up(candidates, best, form)
    if runner_up is not None:
        name, resolved = runner_up
        if not resolved:
            text += f" Its lead over {name} is not resolved, so {name} may be as good."
    if best.over_budget:
        text += " Every arm is over this budget in some run."
    return text


def _against_teachers(form: MetricFormat, rows: pd.DataFrame, teachers: pd.DataFrame) -> str:
    """Say how an arm compares with its teachers, seed by seed; empty if it has none."""
    keys = ["arm", "task", "seed"]
    pairs = rows.merge(teachers, on=keys, suffixes=("", "_of_teacher"))
    if pairs.empty:
        return ""
    gap = stats.paired(pairs["score"].astype(float).tolist(), pairs["score_of_teacher"].astype(float).tolist())
    text = beside_teacher(form, gap.mean)
    if gap.t_low is not None and gap.t_high is not None:
        ends = f"{report_tables.difference(form, gap.t_low)} to {report_tables.difference(form, gap.t_high)}"
        text += f" (95 % interval over seeds {ends})"
    return text


def _runner_up(candidates: Sequence[ArmScores], best: ArmScores, form: MetricFormat) -> tuple[str, bool] | None:
    """Return the arm with the second best mean, and whether the best one is resolved from it, seed by seed."""
    others = [row for row in candidates if row.arm != best.arm]
    if not others:
        return None
    second = max(others, key=lambda row: sign_of(form) * row.mean)
    seeds = best.scores.keys() & second.scores.keys()
    own = [best.scores[seed] for seed in sorted(seeds)]
    other = [second.scores[seed] for seed in sorted(seeds)]
    if not seeds:
        return second.arm, False
    p = stats.paired(own, other).p_t
    return second.arm, p is not None and p < stats.ALPHA


def lines(shipped: Sequence[Shipped]) -> list[str]:
    """Return the sentences of recommendations, each once: one network may be the best under several budgets."""
    return list(dict.fromkeys(entry.text for entry in shipped))
