"""Differences between arms, paired by seed, one table a task and model, and how many tests share an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.records import canonical_json
from nasframe.report.format import BESIDE
from nasframe_studies import stats

if TYPE_CHECKING:
    import pandas as pd


MEAN = "mean of tasks"


def group_of(task: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """Name the group of a task.

    >>> group_of("mrpc-50%", {"half": ["*-50%"], "quarter": ["*-25%"]})
    'half'
    """
    return next((name for name, patterns in groups.items() if any(fnmatch(task, p) for p in patterns)), None)


def tables(
    found: pd.DataFrame, arms: Sequence[str], against: str, absolute: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Make one table for each task (and for their mean) and each slot; :func:`adjust` adds Holm's adjustment.

    The mean is over the tasks that have the slot, where these are several.

    Args:
        found: rows with ``arm``, ``task``, ``seed``, ``slot``, ``metric``, ``score``, and costs.
        arms: in order.
        against: the reference.
        absolute: costs whose shares are left out, since they are of different networks.
    """
    made = []
    names = list(dict.fromkeys(found["task"]))
    for task in [*([MEAN] if len(names) > 1 else []), *names]:
        rows = found if task == MEAN else found[found["task"] == task]
        metrics = list(dict.fromkeys(rows["metric"]))
        for slot in dict.fromkeys(rows["slot"]):
            part = rows[rows["slot"] == slot]
            over = list(dict.fromkeys(part["task"]))
            scores = scores_by_seed(part, len(over))
            if task == MEAN and (len(over) == 1 or not {against} < set(scores)):
                continue  # nothing was measured on all tasks that could be compared
            head = {"task": task, "tasks": over, "model": slot, "metric": ", ".join(metrics)}
            made.append(head | _table(scores, part, [arm for arm in arms if arm in scores], against, absolute))
    return made


def families(
    scores: Sequence[dict[str, Any]], fronts: Sequence[dict[str, Any]], family: str
) -> list[list[dict[str, Any]]]:
    """Group the tables of a page by what Holm's adjustment counts together.

    Args:
        scores: the tables of scores.
        fronts: the tables of hypervolumes.
        family: one of :data:`nasframe_studies.file.FAMILIES`.
    """
    if family == "page":
        return [[*scores, *fronts]]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table in scores:
        groups.setdefault(("scores", table["task"]), []).append(table)
    for table in fronts:
        groups.setdefault((table["model"], table["task"]), []).append(table)
    return list(groups.values())


def adjust(groups: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Adjust the p-values of each group of tables by Holm's method, and set the verdicts that rest on them.

    If the same networks answer two budgets of a task on both sides, there is one test, which counts once: the later
    budget names the first as ``same_as``.

    Args:
        groups: tables as :func:`tables` makes them; each group is one family of comparisons.
    """
    for group in groups:
        comparisons, copies = _tests(group)
        for kind in ("p_t", "p_wilcoxon"):
            adjusted = stats.holm([row[kind] if row["n"] > 1 else None for row in comparisons])
            for row, p in zip(comparisons, adjusted, strict=True):
                row[f"{kind}_holm"] = p
        for copy, first in copies:
            copy |= {kind: first[kind] for kind in ("p_t_holm", "p_wilcoxon_holm")}
        for row in [*comparisons, *(copy for copy, _ in copies)]:
            row |= {"verdict": _verdict(row), "more_seeds": _more(row)}
        size = sum(row["p_t"] is not None for row in comparisons)
        for table in group:
            table["family"] = size


def _tests(group: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Split the comparisons of a family into those that are tests of their own, and repetitions with their first.

    A comparison repeats an earlier one of its task and arm if it is of the same networks, under another budget.
    """
    tests: list[dict[str, Any]] = []
    copies: list[tuple[dict[str, Any], dict[str, Any]]] = []
    firsts: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
    for table in group:
        for row in table["comparisons"]:
            networks = row.pop("networks", None)
            row["same_as"] = None
            if networks is None:
                tests.append(row)
                continue
            model, first = firsts.setdefault((table["task"], row["arm"], networks), (table["model"], row))
            if first is row:
                tests.append(row)
            else:
                row["same_as"] = model
                copies.append((row, first))
    return tests, copies


def _verdict(row: Mapping[str, Any]) -> str:
    """Say what the paired t test after Holm's adjustment leaves to say."""
    if row["n"] == 1:
        return "one seed"
    if row["p_t"] is None:
        return "no spread"
    if row["p_t_holm"] < stats.ALPHA:
        return "higher" if row["mean"] > 0 else "lower"
    return "not after Holm" if row["p_t"] < stats.ALPHA else "not resolved"


def _more(row: Mapping[str, Any]) -> int | None:
    """Return how many more seeds would resolve a difference of the size found."""
    return None if row["seeds_needed"] is None else max(0, row["seeds_needed"] - row["n"])


def scores_by_seed(rows: pd.DataFrame, tasks: int) -> dict[str, dict[int, float]]:
    """Return arm → seed → score, tasks averaged; a seed that lacks a task is left out."""
    scores: dict[str, dict[int, float]] = {}
    for arm, own in rows.groupby("arm", sort=False):
        for seed in sorted(set(own["seed"].tolist())):
            part = own[own["seed"] == seed]
            if part["task"].nunique() == tasks and part["score"].notna().all():
                scores.setdefault(str(arm), {})[seed] = float(part["score"].mean())
    return scores


def _table(
    scores: Mapping[str, Mapping[int, float]],
    rows: pd.DataFrame,
    arms: Sequence[str],
    against: str,
    absolute: Sequence[str],
) -> dict[str, Any]:
    """Describe each arm and compare it with the reference on the seeds that both have."""
    complete = sorted(set.intersection(*(set(scores[arm]) for arm in arms))) if arms else []
    ranks: list[float | None] = [None] * len(arms)
    if complete and len(arms) > 1:
        ranks = stats.mean_ranks([[scores[arm][seed] for arm in arms] for seed in complete]).tolist()
    described, comparisons = [], []
    for arm, rank in zip(arms, ranks, strict=True):
        seeds = sorted(scores[arm])
        own = asdict(stats.summary([scores[arm][seed] for seed in seeds]))
        mine = rows[rows["arm"] == arm]
        costs = mine.select_dtypes("number").mean()
        shares = [f"{cost}_relative" for cost in absolute]
        names = [name for name in _costs(rows) if name in costs and name not in shares]
        shown = {name: float(costs[name]) for name in names if np.isfinite(costs[name])}
        values = {str(seed): scores[arm][seed] for seed in seeds}
        row = {"rank": rank, "scores": values, "costs": shown, "over_budget": _over_budget(mine)}
        described.append({"arm": arm} | own | row | companions_of(mine))
        common = [seed for seed in seeds if seed in scores.get(against, ())]
        if arm != against and common:
            first, second = ([scores[side][seed] for seed in common] for side in (arm, against))
            pair = asdict(stats.paired(first, second))
            lost = sorted(set(seeds) ^ set(scores[against]))
            networks = _networks(rows, (arm, against), common)
            comparisons.append({"arm": arm, "seeds": common, "left_out": lost, "networks": networks} | pair)
    return {"arms": described, "ranked_seeds": complete, "comparisons": comparisons}


def _networks(rows: pd.DataFrame, sides: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Digest which networks a comparison is of; ``None`` if some of them cannot be told from others."""
    if "network" not in rows:
        return None
    part = rows[rows["arm"].isin(sides) & rows["seed"].isin(seeds)]
    if part["network"].isna().any():
        return None
    return canonical_json(sorted(part[["arm", "task", "seed", "network"]].values.tolist()))


def _over_budget(rows: pd.DataFrame) -> list[int]:
    """Return the seeds at which a model is over its budget by its final costs."""
    if "over_budget" not in rows:
        return []
    return sorted(set(rows.loc[rows["over_budget"].notna(), "seed"].tolist()))


def invalid_network(row: Mapping[str, Any]) -> str:
    """Say that a score is no number."""
    return (
        f"NO NUMBER: {row['metric']} of {row['model']} is {row['score']} in {row['arm']} on {row['task']}, seed"
        f" {row['seed']}; left out."
    )


def companions_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Average the metrics that stand beside the compared one, if all rows have them."""
    names = [name for name in map(str, rows) if name.startswith(BESIDE) and rows[name].notna().all()]
    if not names or rows["task"].nunique() > 1:
        return {}
    averages = {}
    for name in names:
        own = asdict(stats.summary(rows[name].tolist()))
        averages[name.removeprefix(BESIDE)] = {key: own[key] for key in ("mean", "sd")}
    return {"beside": averages}


def _costs(rows: pd.DataFrame) -> list[str]:
    """Name the costs of a frame: what has a share of the teacher's, and the shares."""
    names = [name.removesuffix("_relative") for name in rows.columns if name.endswith("_relative")]
    return [column for name in names for column in (name, f"{name}_relative")]
