"""What a comparison says in sentences: what was found, what cannot be concluded, whether budgets were equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasframe.records import MetricFormat
from nasframe.report.format import of_study
from nasframe.report.tables import difference, human

TOLERANCE = 0.05
"""How far training MACs may lie from the reference's to count as an equal budget."""


def verdicts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``equal_macs``, ``findings`` and ``limits`` for a comparison.

    Args:
        report: as :func:`nasframe_studies.compare.analyse` has it so far.
    """
    budget = equal_macs(report["ledger"], report["against"])
    return {"equal_macs": budget, "findings": list(_findings(report)), "limits": list(_limits(report, budget))}


def equal_macs(ledger: Sequence[Mapping[str, Any]], against: str, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Judge whether the arms had equal budgets: equal training MACs as the reference, on the runs both have of a task.

    >>> rows = [{"arm": "a", "ratios": {"t": 1.0, "u": 1.0}}, {"arm": "b", "ratios": {"t": 1.31, "u": 1.0}}]
    >>> equal_macs(rows, "a")["text"]
    'NOT equal budgets: training MACs within 5 % of a everywhere but b (t: 1.31 times).'
    """
    known = {row["arm"]: {task: ratio for task, ratio in row["ratios"].items() if ratio is not None} for row in ledger}
    ratios = {arm: found for arm, found in known.items() if arm != against and found}
    far = {arm: {t: r for t, r in found.items() if not abs(r - 1) <= tolerance} for arm, found in ratios.items()}
    unequal = {arm: found for arm, found in far.items() if found}
    within = f"training MACs within {100 * tolerance:g} % of {against}"
    if not ratios:
        text = "Budgets not compared: there are no two runs to set against each other."
    elif unequal:
        named = [_times(arm, ratios[arm], found) for arm, found in unequal.items()]
        text = f"NOT equal budgets: {within} everywhere but {', '.join(named)}."
    else:
        text = f"Equal budgets: {within} in every arm{' and task' * any(len(found) > 1 for found in ratios.values())}."
    return {"tolerance": tolerance, "equal": not unequal if ratios else None, "ratios": ratios, "text": text}


def _times(arm: str, ratios: Mapping[str, float], far: Mapping[str, float]) -> str:
    """Say by how much an arm's training differs: task by task, but where it has only one."""
    each = [f"{ratio:.3g} times" if len(ratios) == 1 else f"{task}: {ratio:.3g} times" for task, ratio in far.items()]
    return f"{arm} ({', '.join(each)})"


def p_value(p: float | None) -> str:
    """Write a p-value, short where it is small.

    >>> p_value(0.03125), p_value(0.00002), p_value(0.04999), p_value(1.0), p_value(None)
    ('0.0312', '<0.001', '<0.05', '1', '–')
    """
    if p is None:
        return "–"
    text = f"{p:.2g}" if p < 0.01 else f"{p:.3g}"
    return "<0.001" if p < 0.001 else "<0.05" if text == "0.05" and p < 0.05 else text


def p_is(p: float | None) -> str:
    """Write a p-value in a sentence.

    >>> p_is(0.25), p_is(0.0)
    ('p = 0.25', 'p < 0.001')
    """
    text = p_value(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def interval(form: MetricFormat, row: Mapping[str, Any], low: str = "t_low", high: str = "t_high") -> str:
    """Write a difference with its interval, shares in points.

    >>> interval(MetricFormat(percent=True), {"mean": 0.012, "t_low": -0.001, "t_high": 0.025})
    '+1.20 [−0.10, +2.50]'
    """
    bounds = f" [{difference(form, row[low], 2)}, {difference(form, row[high], 2)}]" if row[low] is not None else ""
    return difference(form, row["mean"], 2) + bounds


def _main(report: Mapping[str, Any], part: str = "tables") -> list[Mapping[str, Any]]:
    """The tables that conclusions are drawn from: the tasks' mean where there is one."""
    tables = report[part]
    return [table for table in tables if table["task"] == tables[0]["task"]] if tables else []


def _comparisons(
    report: Mapping[str, Any], part: str = "tables"
) -> Iterator[tuple[str, MetricFormat, Mapping[str, Any]]]:
    for table in _main(report, part):
        form = of_study(report, table["task"], table["metric"])
        for row in table["comparisons"]:
            yield table["model"], form, row


def _findings(report: Mapping[str, Any]) -> Iterator[str]:
    fronts = ((f"hypervolume, {kind}", form, row) for kind, form, row in _comparisons(report, "fronts"))
    for what, form, row in (*_comparisons(report), *fronts):
        if row["verdict"] in ("higher", "lower") and row["same_as"] is None:
            yield (
                f"{what}: {row['arm']} is {row['verdict']} than {report['against']} by {interval(form, row)} on"
                f" {row['n']} seeds (paired t, {p_is(row['p_t_holm'])} after Holm)."
            )


def _limits(report: Mapping[str, Any], budget: Mapping[str, Any]) -> Iterator[str]:
    rows = list(_comparisons(report))
    yield from _without_pairs(report, rows)
    family = max((table["family"] for table in _main(report)), default=0)
    counts = sorted({row["n"] for *_, row in rows})
    for n in counts:
        having = dict.fromkeys(row["arm"] for *_, row in rows if row["n"] == n)
        for line in _of_few(n, family, report["alpha"]):
            yield f"{', '.join(having)}: {line}" if len(counts) > 1 else line
    yield from _few_ranks(report)
    for arm in dict.fromkeys(row["arm"] for *_, row in rows):
        yield from _unresolved(report["against"], arm, [each for each in rows if each[2]["arm"] == arm])
    if budget["equal"] is False:
        yield f"{budget['text']} A difference may come from the training alone."
    for run in report["missing"]:
        yield f"{run['arm']} on {run['task']}, seed {run['seed']}: {run['why']}."
    for seeds, arms in _left_out(rows).items():
        few = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        yield (
            f"{few} not on both sides: left out of the pairs of {', '.join(arms)}. Means and deviations are over each"
            " arm's own seeds."
        )
    if rows and len(report["tasks"]) == 1:
        yield f"One task, {report['tasks'][0]}: nothing is said about others."


def _without_pairs(report: Mapping[str, Any], rows: Sequence[Any]) -> Iterator[str]:
    against, compared = report["against"], {row["arm"] for *_, row in rows}
    if against not in {row["arm"] for table in report["tables"] for row in table["arms"]}:
        yield f"The reference {against} has no results: arms are described and not compared."
        return
    for arm in report["arms"]:
        tasks = dict.fromkeys(t["task"] for t in report["tables"] for row in t["comparisons"] if row["arm"] == arm)
        if arm not in compared and tasks:
            yield f"{arm} lacks some tasks: compared with {against} only on {', '.join(tasks)}."
        elif arm not in compared and arm != against:
            yield f"{arm} shares no task, model and seed with {against}: described, not compared."
    if not rows and len(report["arms"]) == 1:
        yield "One arm: there is nothing to compare it with."


def _of_few(n: int, family: int, alpha: float) -> Iterator[str]:
    """Say what so few seeds cannot show."""
    if n == 1:
        yield (
            "One seed: no interval and no test is possible, and a difference between two single runs may be the seed's"
            " own noise. McNemar's test, example by example, speaks of these two models and not of the methods."
        )
        return
    smallest, least = 2 / 2**n, math.ceil(math.log2(2 / alpha))
    if smallest > alpha:
        yield (
            f"With {n} seeds the exact Wilcoxon test cannot go below p = {smallest:.3g}: it cannot reach {alpha:g}"
            f" whatever the scores are ({least} seeds could). Its p is no evidence of equality."
        )
    elif smallest * family > alpha:
        least = math.ceil(math.log2(2 * family / alpha))
        yield (
            f"With {n} seeds and {family} comparisons Wilcoxon's p after Holm cannot go below {smallest * family:.2g};"
            f" {least} seeds could reach {alpha:g}."
        )
    if n < 6:
        yield (
            f"The t test's verdict rests on differences that are about normal, which {n} seeds cannot show"
            + ("; with two seeds its interval is 12.7 standard errors wide on each side." if n == 2 else ".")
        )
    if 2 < n < 10:
        yield "Bootstrap intervals of fewer than about ten seeds are too narrow; read the t intervals."


def _few_ranks(report: Mapping[str, Any]) -> Iterator[str]:
    """Say where ranks rest on fewer seeds than scores do: they need all arms of a seed."""
    for table in _main(report):
        ranked, most = len(table["ranked_seeds"]), max(row["n"] for row in table["arms"])
        if 0 < ranked < most:
            yield f"{table['model']}: ranks rest on {ranked} of {most} seeds, those that all arms have."


def _unresolved(against: str, arm: str, rows: Sequence[tuple[str, MetricFormat, Mapping[str, Any]]]) -> Iterator[str]:
    """Say in one line which of an arm's differences are open, and what would resolve them."""
    said, explained = [], False
    for model, form, row in rows:
        if row["same_as"] is not None:
            continue  # the same networks as under another budget, told there
        if row["verdict"] == "no spread":
            equal = "both score the same" if not row["mean"] else "the difference is the same"
            why = f"{equal} at every seed, so there is no spread to measure it against; no test can be made"
        elif row["verdict"] == "not after Holm":
            why = f"{p_is(row['p_t'])} alone, {p_is(row['p_t_holm'])} after Holm"
        elif row["verdict"] == "not resolved":
            why = f"{p_is(row['p_t'])}, {_more_seeds(row, explained)}"
            explained |= row["seeds_needed"] is not None
        else:
            continue
        said.append(f"{model} {interval(form, row)}, {why}")
    if said:
        yield f"{arm} against {against} is not resolved: {'; '.join(said)}."


def _more_seeds(row: Mapping[str, Any], explained: bool) -> str:
    """Say how many more seeds a difference needs, in short where the line has explained it."""
    if row["seeds_needed"] is None:
        return "no number of seeds that one could run resolves a difference so small"
    more = f"about {human(row['more_seeds'])} more"
    seeds = "seed" if row["more_seeds"] == 1 else "seeds"
    return more if explained else f"needs {more} {seeds} to resolve a difference of this size"


def _left_out(rows: Sequence[tuple[str, MetricFormat, Mapping[str, Any]]]) -> dict[tuple[int, ...], list[str]]:
    """Group arms by the seeds that their pairs had to leave out."""
    found: dict[tuple[int, ...], dict[str, None]] = {}
    for _, _, row in rows:
        if row["left_out"]:
            found.setdefault(tuple(row["left_out"]), {})[row["arm"]] = None
    return {seeds: list(arms) for seeds, arms in found.items()}
