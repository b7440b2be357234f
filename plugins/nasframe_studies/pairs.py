"""Differences between arms, paired by seed: one table for each task and model, adjusted for how many tests there are.

:func:`tables` makes the tables; :func:`adjust` applies Holm's adjustment to each family of them and adds the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nasframe.records import canonical_json
from nasframe.report.format import BESIDE
from nasframe_studies import stats
from nasframe_studies.records import ArmScores, Difference, FrontTable, PairTable, Spread, Verdict

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean of tasks"

Scores = Mapping[str, Mapping[int, float]]
"""Arm → seed → score."""
Directions = Mapping[str, float]
"""Task → the factor that makes its scores numbers to maximise: -1 if less of the metric is better, else 1."""
MORE_IS_BETTER: Directions = {}
"""More is better on every task; so it is on tasks that directions do not name."""
Table = TypeVar("Table", bound=PairTable)


def group_of(task: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """Return the name of a task's group, if it is in one.

    >>> group_of("mrpc-50%", {"half": ["*-50%"], "quarter": ["*-25%"]})
    'half'
    """
    for name, patterns in groups.items():
        if any(fnmatch(task, pattern) for pattern in patterns):
            return name
    return None


def relative_costs(columns: Iterable[str]) -> list[str]:
    """Return the costs that a table has as shares of the teacher's.

    >>> relative_costs(["score", "macs", "macs_relative"])
    ['macs']
    """
    costs = []
    for column in columns:
        cost = column.removesuffix("_relative")
        if cost != column:
            costs.append(cost)
    return costs


# ---- tables


def tables(
    scored: pd.DataFrame,
    arms: Sequence[str],
    against: str,
    absolute: Sequence[str] = (),
    directions: Directions = MORE_IS_BETTER,
) -> list[PairTable]:
    """Make one table for each task (and for their mean) and each slot; :func:`adjust` adds Holm's adjustment.

    The mean is over the tasks that have the slot, if there are several. There is none if more is better on some tasks
    and less on others.

    Args:
        scored: rows with ``arm``, ``task``, ``seed``, ``slot``, ``metric``, ``score``, and costs.
        arms: in order.
        against: the reference.
        absolute: costs whose shares are left out, since they are of different networks.
        directions: of the scores, which ranks follow.
    """
    pair_tables = []
    for task, rows in views(scored, directions=directions):
        of_task = []
        for slot in dict.fromkeys(rows["slot"]):
            part = rows[rows["slot"] == slot]
            covered = list(dict.fromkeys(part["task"]))
            scores = scores_by_seed(part, len(covered))
            if task == MEAN:
                # A mean over one task repeats that task's table. One that compares nothing would still be first on
                # the page, and conclusions are drawn from the first task.
                is_compared = against in scores and len(scores) > 1
                if len(covered) == 1 or not is_compared:
                    continue
            present = [arm for arm in arms if arm in scores]
            table = PairTable(
                task=task,
                tasks=covered,
                model=slot,
                metric=", ".join(dict.fromkeys(rows["metric"])),
                arms=_describe(scores, part, present, absolute, direction_of(covered[0], directions)),
                ranked_seeds=_common_seeds(scores, present),
                comparisons=_compare(scores, present, against),
            )
            of_task.append((table, part))
        pair_tables += _mark_repeated(of_task, against)
    return pair_tables


def views(
    rows: pd.DataFrame, tasks: Sequence[str] | None = None, directions: Directions = MORE_IS_BETTER
) -> list[tuple[str, pd.DataFrame]]:
    """Return each task with its rows, and before them the mean of tasks with all rows, if there is one.

    Args:
        rows: with ``task``.
        tasks: in order; default: as they come.
        directions: of the scores; those of different directions have no mean.
    """
    if tasks is None:
        tasks = list(dict.fromkeys(rows["task"]))
    of_tasks = [(task, rows[rows["task"] == task]) for task in tasks]
    if len(tasks) > 1 and agree(tasks, directions):
        of_tasks.insert(0, (MEAN, rows))
    return of_tasks


def direction_of(task: str, directions: Directions) -> float:
    """Return the factor that makes a task's scores numbers to maximise."""
    return directions.get(task, 1.0)


def agree(tasks: Iterable[str], directions: Directions) -> bool:
    """Return whether more is better on all of some tasks, or less on all of them."""
    return len({direction_of(task, directions) for task in tasks}) == 1


def scores_by_seed(rows: pd.DataFrame, tasks: int) -> dict[str, dict[int, float]]:
    """Return arm → seed → score, tasks averaged; seeds that lack a task are left out.

    Args:
        rows: with ``arm``, ``task``, ``seed`` and ``score``.
        tasks: how many tasks a seed must have.
    """
    scores: dict[str, dict[int, float]] = {}
    for arm, own in rows.groupby("arm", sort=False):
        for seed in sorted(set(own["seed"].tolist())):
            part = own[own["seed"] == seed]
            # A mean over fewer tasks would measure something else.
            is_complete = part["task"].nunique() == tasks and part["score"].notna().all()
            if is_complete:
                scores.setdefault(str(arm), {})[seed] = float(part["score"].mean())
    return scores


def _common_seeds(scores: Scores, arms: Sequence[str]) -> list[int]:
    """Return the seeds that all arms have."""
    if not arms:
        return []
    seeds = set(scores[arms[0]])
    for arm in arms:
        seeds &= scores[arm].keys()
    return sorted(seeds)


def _mean_ranks(scores: Scores, arms: Sequence[str], direction: float) -> dict[str, float]:
    """Return arm → mean rank over the seeds that all arms have; empty if there is nothing to rank."""
    seeds = _common_seeds(scores, arms)  # a rank needs the scores of all arms
    if not seeds or len(arms) < 2:
        return {}
    rows = []
    for seed in seeds:
        rows.append([direction * scores[arm][seed] for arm in arms])
    return dict(zip(arms, stats.mean_ranks(rows).tolist(), strict=True))


def _describe(
    scores: Scores, rows: pd.DataFrame, arms: Sequence[str], absolute: Sequence[str], direction: float
) -> list[ArmScores]:
    """Describe the scores and costs of each arm."""
    described = []
    ranks = _mean_ranks(scores, arms, direction)
    for arm in arms:
        by_seed = dict(sorted(scores[arm].items()))
        own = rows[rows["arm"] == arm]
        summary = stats.summary(list(by_seed.values()))
        arm_scores = ArmScores(
            **asdict(summary),
            arm=arm,
            rank=ranks.get(arm),
            scores={str(seed): score for seed, score in by_seed.items()},  # JSON's keys are text
            costs=_mean_costs(own, absolute),
            over_budget=_over_budget(own),
            beside=companions_of(own),
        )
        described.append(arm_scores)
    return described


def _compare(scores: Scores, arms: Sequence[str], against: str) -> list[Difference]:
    """Compare each arm with the reference on the seeds that both have."""
    differences = []
    reference = scores.get(against, {})
    for arm in arms:
        own = scores[arm]
        seeds = sorted(own.keys() & reference.keys())
        if arm == against or not seeds:
            continue
        # What arms share within a seed, such as the order of the data, cancels in the difference.
        own_scores = [own[seed] for seed in seeds]
        reference_scores = [reference[seed] for seed in seeds]
        paired = stats.paired(own_scores, reference_scores)
        more_seeds = None
        if paired.seeds_needed is not None:
            more_seeds = max(0, paired.seeds_needed - paired.n)  # a difference that is found needs none
        difference = Difference(
            **asdict(paired),
            arm=arm,
            seeds=seeds,
            left_out=sorted(own.keys() ^ reference.keys()),
            more_seeds=more_seeds,
        )
        differences.append(difference)
    return differences


def companions_of(rows: pd.DataFrame) -> dict[str, Spread]:
    """Average the metrics that are shown next to the compared one, if all rows are of one task and have them."""
    if rows["task"].nunique() > 1:
        return {}
    averages = {}
    for column in map(str, rows):
        is_companion = column.startswith(BESIDE)
        if is_companion and rows[column].notna().all():
            summary = stats.summary(rows[column].tolist())
            averages[column.removeprefix(BESIDE)] = Spread(mean=summary.mean, sd=summary.sd)
    return averages


def _mean_costs(rows: pd.DataFrame, absolute: Sequence[str]) -> dict[str, float]:
    """Average an arm's costs, and their shares of the teacher's unless the arms' teachers differ in them."""
    means = rows.select_dtypes("number").mean()
    costs = {}
    for cost in relative_costs(map(str, rows)):
        columns = [cost]
        if cost not in absolute:
            columns.append(f"{cost}_relative")
        for column in columns:
            if column in means and np.isfinite(means[column]):  # not measured: not shown
                costs[column] = float(means[column])
    return costs


def _over_budget(rows: pd.DataFrame) -> list[int]:
    """Return the seeds at which a model is over its budget by its final costs."""
    if "over_budget" not in rows:
        return []
    return sorted(set(rows.loc[rows["over_budget"].notna(), "seed"].tolist()))


# ---- one network under several budgets


def _mark_repeated(of_task: Sequence[tuple[PairTable, pd.DataFrame]], against: str) -> list[PairTable]:
    """Return a task's tables, where each comparison of networks that an earlier table compared names that one.

    Args:
        of_task: the tables of one task, each with the rows that it is of.
        against: the reference.
    """
    first_model: dict[tuple[str, str], str] = {}  # arm and networks → the model that compares them first
    marked = []
    for table, rows in of_task:
        comparisons = []
        for difference in table.comparisons:
            arm = difference.arm
            networks = _networks(rows, (arm, against), difference.seeds)
            if networks is not None:
                model = first_model.setdefault((arm, networks), table.model)
                if model != table.model:
                    difference = replace(difference, same_as=model)
            comparisons.append(difference)
        marked.append(replace(table, comparisons=comparisons))
    return marked


def _networks(rows: pd.DataFrame, sides: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Digest which networks a comparison is of; ``None`` if some of them cannot be told from others."""
    if "network" not in rows:
        return None
    # The seeds matter: networks that agree at some seeds alone make two tests, not one.
    part = rows[rows["arm"].isin(sides) & rows["seed"].isin(seeds)]
    if part["network"].isna().any():
        return None
    # Sorted, since the rows of two budgets may come in different orders.
    networks = part[["arm", "task", "seed", "network"]].values.tolist()
    return canonical_json(sorted(networks))


# ---- families of tests


def adjust(tables: Sequence[Table], family: str) -> list[Table]:
    """Return the tables with p-values adjusted by Holm's method, and the verdicts that rest on them.

    If the same networks are compared under two budgets of a task, there is one test, which counts once.

    Args:
        tables: of scores and of fronts.
        family: one of :data:`nasframe_studies.file.FAMILIES`: whether the tables of a task are adjusted together, or
            those of the page.
    """
    families: dict[tuple[str, ...], list[int]] = {}  # name → places of its tables, which keep their order
    for place, table in enumerate(tables):
        name = _family_of(table, family)
        families.setdefault(name, []).append(place)
    adjusted = list(tables)
    for places in families.values():
        members = _adjust_family([tables[place] for place in places])
        for place, table in zip(places, members, strict=True):
            adjusted[place] = table
    return adjusted


def _family_of(table: PairTable, family: str) -> tuple[str, ...]:
    """Name the family of a table: what Holm's adjustment counts together. Each kind of front is one by itself."""
    if family == "page":
        return ()
    if isinstance(table, FrontTable):
        return (table.model, table.task)
    return ("scores", table.task)


def _adjust_family(tables: Sequence[Table]) -> list[Table]:
    """Adjust the tables of one family; comparisons of the same networks have the adjusted p-value of the first."""
    # The type is part of the key: in the family of a page a model may be called as a kind of front is.
    p_values: dict[tuple[type, str, str, str], float | None] = {}
    for table in tables:
        for difference in table.comparisons:
            if difference.same_as is None:
                p_values[type(table), table.task, table.model, difference.arm] = difference.p_t
    adjusted_p_values = stats.holm(list(p_values.values()))
    holm = dict(zip(p_values, adjusted_p_values, strict=True))
    tested = [p for p in p_values.values() if p is not None]  # what could not be tested needs no adjustment
    adjusted = []
    for table in tables:
        comparisons = []
        for difference in table.comparisons:
            model = difference.same_as or table.model
            p = holm[type(table), table.task, model, difference.arm]
            comparisons.append(replace(difference, p_t_holm=p, verdict=_verdict(difference, p)))
        adjusted.append(replace(table, comparisons=comparisons, family=len(tested)))
    return adjusted


def _verdict(difference: Difference, p_t_holm: float | None) -> Verdict:
    """Return the conclusion of the paired t test after Holm's adjustment."""
    if difference.n == 1:
        return "one seed"
    if difference.p_t is None or p_t_holm is None:  # the difference is the same at every seed
        return "no spread"
    if p_t_holm < stats.ALPHA:
        return "higher" if difference.mean > 0 else "lower"
    return "not after Holm" if difference.p_t < stats.ALPHA else "not resolved"
