"""The sentences of a comparison: what was found, what cannot be concluded, and whether budgets were equal.

:func:`findings` and :func:`limits` speak of the mean of tasks if there is one, else of the first task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from nasframe.report.tables import human
from nasframe_studies.grouping import distinct_by
from nasframe_studies.processors import UNLIKE_PAIRS, has_unlike_pairs
from nasframe_studies.records import Comparison, Difference, EqualMacs, LedgerRow, PairTable
from nasframe_studies.wording import interval, p_is, plural, verdict

TOLERANCE = 0.05
"""The largest relative deviation from the reference's MACs that counts as an equal budget."""
FEW_FOR_T = 6
"""With fewer seeds the t test's assumption cannot be seen to hold."""
FEW_FOR_BOOTSTRAP = 10
"""With fewer seeds bootstrap intervals are too narrow."""

Table = TypeVar("Table", bound=PairTable)


# ---- equal budgets


def equal_macs(ledger: Sequence[LedgerRow], against: str, tolerance: float = TOLERANCE) -> EqualMacs:
    """Judge whether the arms had equal budgets: the reference's MACs of training and search, on the runs of both.

    Args:
        ledger: what each arm's runs cost.
        against: the reference.
        tolerance: the largest relative deviation that counts as equal.
    """
    ratios: dict[str, dict[str, float]] = {}
    for row in ledger:
        by_task = {task: ratio for task, ratio in row.ratios.items() if ratio is not None}
        if row.arm != against and by_task:
            ratios[row.arm] = by_task
    unequal = []
    where = "every arm"
    for arm, by_task in ratios.items():
        # Task by task: more work on one task would make up for less on another in the ratio of all.
        # `not … <=` rather than `>`, so that a ratio that is NaN counts as unequal.
        far = {task: ratio for task, ratio in by_task.items() if not abs(ratio - 1) <= tolerance}
        if far:
            unequal.append(_deviation(arm, far, one_task=len(by_task) == 1))
        if len(by_task) > 1:
            where = "every arm and task"
    within = f"training + search MACs within {100 * tolerance:g} % of {against}"
    if not ratios:
        equal = None
        text = "Budgets not compared: there are no two runs to set against each other."
    elif unequal:
        equal = False
        text = f"NOT equal budgets: {within} everywhere but {', '.join(unequal)}."
    else:
        equal = True
        text = f"Equal budgets: {within} in {where}."
    return EqualMacs(tolerance=tolerance, equal=equal, ratios=ratios, text=text)


def _deviation(arm: str, ratios: Mapping[str, float], one_task: bool) -> str:
    """Write by how much an arm's budget differs: task by task, unless it has only one.

    >>> _deviation("b", {"t": 1.31}, one_task=False)
    'b (t: 1.31 times)'
    """
    parts = []
    for task, ratio in ratios.items():
        text = f"{ratio:.3g} times"
        parts.append(text if one_task else f"{task}: {text}")
    return f"{arm} ({', '.join(parts)})"


# ---- what was found


def main_tables(tables: Sequence[Table]) -> list[Table]:
    """Return the tables that conclusions are drawn from: those of the first task, which is the mean of tasks if any."""
    return [table for table in tables if table.task == tables[0].task]


def findings(comparison: Comparison) -> Iterator[str]:
    """Word each resolved difference from the reference: of scores, then of hypervolumes."""
    titled: list[tuple[str, PairTable]] = []
    for table in main_tables(comparison.tables):
        titled.append((table.model, table))
    for front in main_tables(comparison.fronts):
        titled.append((f"hypervolume, {front.model}", front))
    for title, table in titled:
        form = comparison.format_of(table.task, table.metric)
        for row in table.comparisons:
            if row.resolved and row.same_as is None:  # the same networks are one finding, whatever budgets they meet
                gap = interval(form, row.mean, row.t_low, row.t_high)
                if has_unlike_pairs(comparison, table, row):
                    gap += UNLIKE_PAIRS
                yield (
                    f"{title}: {row.arm} is {verdict(form, row)} than {comparison.against} by {gap} on {row.n} seeds"
                    f" (paired t, {p_is(row.p_t_holm)} after Holm)."
                )


# ---- what cannot be concluded


def limits(comparison: Comparison) -> Iterator[str]:
    """Word what the numbers of a comparison cannot show, and why."""
    main = main_tables(comparison.tables)
    rows: list[Difference] = []
    for table in main:
        rows += table.comparisons
    # First what is not compared at all, then what the tests cannot show, then what else may lie behind a difference.
    yield from _without_pairs(comparison, rows)
    yield from _few_seeds(rows, comparison.alpha)
    yield from _few_ranks(main)
    for arm in dict.fromkeys(row.arm for row in rows):
        yield from _unresolved(comparison, main, arm)
    if comparison.equal_macs.equal is False:
        yield f"{comparison.equal_macs.text} A difference may come from the budgets alone."
    for run in comparison.missing:
        yield f"{run.arm} on {run.task}, seed {run.seed}: {run.why}."
    yield from _left_out(rows)
    if rows and len(comparison.tasks) == 1:
        yield f"One task, {comparison.tasks[0]}: nothing is said about others."


def _without_pairs(comparison: Comparison, main_rows: Sequence[Difference]) -> Iterator[str]:
    """Name the arms that are described, and not compared."""
    against = comparison.against
    with_reference = [table for table in comparison.tables if against in table.scored]
    if not with_reference:
        yield f"The reference {against} has no results: arms are described and not compared."
        return
    compared = {row.arm for row in main_rows}
    for arm in comparison.arms:
        if arm in compared:
            continue
        # Not in the main tables, which may be the mean of tasks: single tasks may still compare the arm.
        tasks = [table.task for table in comparison.tables if table.difference_of(arm) is not None]
        if tasks:
            yield f"{arm} lacks some tasks: compared with {against} only on {', '.join(dict.fromkeys(tasks))}."
        elif arm != against:
            yield f"{arm} shares no task, model and seed with {against}: described, not compared."
    if not main_rows and len(comparison.arms) == 1:
        yield "One arm: there is nothing to compare it with."


def _few_seeds(rows: Sequence[Difference], alpha: float) -> Iterator[str]:
    """Say what few seeds cannot show, and of which arms if these have different numbers of seeds."""
    arms_of = distinct_by((row.n, row.arm) for row in rows)
    for n, arms in sorted(arms_of.items()):
        for line in _of_seeds(n, alpha):
            if len(arms_of) == 1:
                yield line
            else:
                yield f"{', '.join(arms)}: {line}"


def _of_seeds(n: int, alpha: float) -> Iterator[str]:
    """Say what a number of seeds cannot show."""
    if n == 1:
        yield (
            "One seed: no interval and no test is possible, and a difference between two single runs may be the seed's"
            " own noise. McNemar's test, example by example, speaks of these two models and not of the methods."
        )
        return
    # Of the 2ⁿ ways to give signs to the ranks, the two in which all signs are equal are the most extreme.
    smallest_p = 2 / 2**n
    if smallest_p > alpha:
        enough = math.ceil(math.log2(2 / alpha))
        yield (
            f"With {n} seeds the exact Wilcoxon test cannot go below p = {smallest_p:.3g}: it cannot reach {alpha:g}"
            f" whatever the scores are ({enough} seeds could). Its p is no evidence of equality."
        )
    if n < FEW_FOR_T:
        line = f"The t test's verdict rests on differences that are about normal, which {n} seeds cannot show"
        if n == 2:
            yield f"{line}; with two seeds its interval is 12.7 standard errors wide on each side."
        else:
            yield f"{line}."
    if 2 < n < FEW_FOR_BOOTSTRAP:  # with two seeds there is no bootstrap interval
        yield "Bootstrap intervals of fewer than about ten seeds are too narrow; read the t intervals."


def _few_ranks(tables: Sequence[PairTable]) -> Iterator[str]:
    """Name the tables whose ranks rest on fewer seeds than their scores do, since ranks need all arms of a seed."""
    for table in tables:
        ranked = len(table.ranked_seeds)
        most = max(row.n for row in table.arms)
        if 0 < ranked < most:
            yield f"{table.model}: ranks rest on {ranked} of {most} seeds, those that all arms have."


def _unresolved(comparison: Comparison, tables: Sequence[PairTable], arm: str) -> Iterator[str]:
    """List in one line an arm's open differences, each with what would resolve it."""
    parts = []
    explained = False
    for table in tables:
        row = table.difference_of(arm)
        if row is None or row.same_as is not None:  # the same networks are listed under another budget
            continue
        if row.verdict == "no spread":
            why = "both score the same" if row.mean == 0 else "the difference is the same"
            why += " at every seed, so there is no spread to measure it against; no test can be made"
        elif row.verdict == "not after Holm":
            why = f"{p_is(row.p_t)} alone, {p_is(row.p_t_holm)} after Holm"
        elif row.verdict == "not resolved":
            why = f"{p_is(row.p_t)}, {_more_seeds(row, explained)}"
            # Said in full once a line: with many budgets nobody would read the sentence at each.
            if row.more_seeds is not None:
                explained = True
        else:  # resolved, which is a finding, or of one seed, which has a line of its own
            continue
        form = comparison.format_of(table.task, table.metric)
        gap = interval(form, row.mean, row.t_low, row.t_high)
        parts.append(f"{table.model} {gap}, {why}")
    if parts:
        yield f"{arm} against {comparison.against} is not resolved: {'; '.join(parts)}."


def _more_seeds(row: Difference, explained: bool) -> str:
    """Say how many more seeds a difference needs, in short if the line has explained it."""
    if row.more_seeds is None:
        return "no number of seeds that one could run resolves a difference so small"
    more = f"about {human(row.more_seeds)} more"
    if explained:
        return more
    return f"needs {more} {plural('seed', row.more_seeds)} to resolve a difference of this size"


def _left_out(rows: Sequence[Difference]) -> Iterator[str]:
    """Name the seeds that are not on both sides, and whose pairs lack them."""
    arms_of = distinct_by((tuple(row.left_out), row.arm) for row in rows if row.left_out)
    for seeds, arms in arms_of.items():
        noun = plural("Seed", len(seeds))
        listed = ", ".join(map(str, seeds))
        yield (
            f"{noun} {listed} not on both sides: left out of the pairs of {', '.join(arms)}. Means and deviations are"
            " over each arm's own seeds."
        )
