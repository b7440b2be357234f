"""The tables of a comparison as cells of text, the same on every page, in every file and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.format import of_study, titled
from nasframe.report.tables import human
from nasframe_studies.findings import interval, p_value

COLUMNS = {
    "arm": "arm",
    "n": "seeds",
    "score": "mean ± sd",
    "interval": "95 % bootstrap",
    "rank": "rank",
    "cost": "cost",
    "difference": "difference [95 % t]",
    "bootstrap": "[95 % bootstrap]",
    "p": "p (t)",
    "holm": "after Holm",
    "wilcoxon": "Wilcoxon p (least)",
    "effect": "d_z (g_z)",
    "verdict": "verdict",
    "more": "more seeds",
}
"""The columns of a table of scores, and their headings."""

OVER = " †"
"""What marks the score of a model that is over its budget in some run."""
LEDGER = ("arm", "runs", "student", "teacher", "training", "of the reference's", "evaluation", "evaluations", "time")
FRONTS = ("task", "front", "arm", "hypervolume", "difference [95 % t]", "after Holm", "covers", "is covered")
PAIRS = ("task", "model", "arm", "seeds", "McNemar p, by seed", "below 0.05", "difference by seed [95 % bootstrap]")


def views(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Group a comparison's tables by task, the mean of tasks first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for table in report["tables"]:
        found.setdefault(table["task"], []).append(table)
    return found


def overview_caption(report: Mapping[str, Any]) -> str:
    """Say what the overview shows, and over which comparisons Holm's adjustment was made."""
    tested = [table for table in report["tables"] if table["family"]]
    text = "Mean ± standard deviation over seeds; teacher: the full network that an arm begins with."
    if tested:
        text += " ↑ ↓: higher or lower than the reference, resolved after Holm's adjustment"
        text += f" over {family(report, tested)}."
        if report["family"] == "task" and len(views(report)) > 1:
            text += " Each task is adjusted by itself: of several tasks one may show an arrow by chance more often than"
            text += f" at {report['alpha']:g}. To adjust over the whole page: --family page."
    return text + _over_budget_key(report["tables"])


def family(report: Mapping[str, Any], tables_: Sequence[Mapping[str, Any]]) -> str:
    """Name the family of comparisons that Holm's adjustment of some tables counts.

    >>> family({"family": "page"}, [{"family": 12, "task": "t"}])
    'all 12 comparisons of this page'
    >>> family({"family": "task"}, [{"family": 4, "task": "t"}, {"family": 4, "task": "u"}])
    "each task's 4 comparisons"
    >>> family({"family": "task"}, [{"family": 4, "task": "t"}])
    'these 4 comparisons'
    """
    sizes = sorted({table["family"] for table in tables_})
    count = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    noun = "comparison" if sizes[-1] == 1 else "comparisons"
    if report["family"] == "page":
        return f"all {count} {noun} of this page" if sizes[-1] > 1 else "this page's one comparison"
    if len({table["task"] for table in tables_}) > 1:
        return f"each task's {count} {noun}"
    return f"these {count} {noun}" if sizes[-1] > 1 else "this one comparison"


def adjusted(report: Mapping[str, Any], tables_: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence over which comparisons Holm's adjustment of some tables was made; nothing without tests."""
    tested = [table for table in tables_ if table["family"]]
    return f"Holm over {family(report, tested)}." if tested else ""


def _over_budget_key(tables_: Sequence[Mapping[str, Any]]) -> str:
    over = any(row["over_budget"] for table in tables_ for row in table["arms"])
    return " †: over budget by its final costs in some run." if over else ""


def costs_caption(report: Mapping[str, Any]) -> str:
    """Say what the table of costs shows."""
    absolute = [tables.COSTS.get(name, name.replace("_", " ")) for name in report["absolute"]]
    text = "Means over an arm's runs, as shares of the teacher's costs."
    if absolute:
        text += f" In absolute numbers, since the arms' full networks differ in them: {', '.join(absolute)}."
    return text


def cost_name(report: Mapping[str, Any]) -> str:
    """Name the cost that a comparison is drawn against, and its unit.

    >>> cost_name({"cost": "encoder_params", "absolute": []})
    "encoder params, share of the teacher's"
    """
    unit = "absolute" if report["cost"] in report["absolute"] else "share of the teacher's"
    return f"{report['cost'].replace('_', ' ')}, {unit}"


def about(report: Mapping[str, Any], view: Sequence[Mapping[str, Any]]) -> str:
    """Say what a table shows."""
    task = view[0]["task"]
    against = f", against {report['against']}" if any(table["comparisons"] for table in view) else ""
    text = f"{report['name']}: {report['split']} {metric(report, view[0], ' × 100')} ({task}){against}"
    return ". ".join(part for part in (text, adjusted(report, view).removesuffix(".")) if part)


def metric(report: Mapping[str, Any], table: Mapping[str, Any], unit: str = ", × 100") -> str:
    """Name a table's metric, with the class that it is about, and that shares are written times 100."""
    form = of_study(report, table["task"], table["metric"])
    return titled(table["metric"], form) + (unit if form.percent else "")


def rows(report: Mapping[str, Any], table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write the rows of a table of scores as text, by the names of :data:`COLUMNS`."""
    pairs = {row["arm"]: row for row in table["comparisons"]}
    return [_row(report, table, row, pairs.get(row["arm"])) for row in table["arms"]]


def _row(
    report: Mapping[str, Any], table: Mapping[str, Any], row: Mapping[str, Any], pair: Mapping[str, Any] | None
) -> dict[str, str]:
    form = of_study(report, table["task"], table["metric"])
    name = report.get("cost")
    column = name if name in report["absolute"] else f"{name}_relative"
    cost = row["costs"].get(column)
    cells = dict.fromkeys(COLUMNS, "–") | {
        "arm": row["arm"],
        "n": str(row["n"] if pair is None or pair["n"] == row["n"] else f"{row['n']} ({pair['n']} pairs)"),
        "score": _spread(report, table["task"], table["metric"], row) + (OVER if row["over_budget"] else ""),
        "rank": "–" if row["rank"] is None else f"{row['rank']:.2g}",
        "cost": _cost(report, name, cost),
        "verdict": "reference" if row["arm"] == report["against"] else "not paired",
    }
    if row["low"] is not None:
        cells["interval"] = f"[{score(form, row['low'])}, {score(form, row['high'])}]"
    if pair is not None:
        resolved = pair["verdict"] in ("higher", "lower", "not after Holm")
        cells |= {
            "difference": interval(form, pair),
            "p": p_value(pair["p_t"]),
            "holm": p_value(pair["p_t_holm"]),
            "verdict": pair["verdict"],
            "more": "–" if resolved or pair["n"] < 2 or pair["d_z"] is None else human(pair["more_seeds"] or None),
        }
        if pair["n"] > 1:
            cells["wilcoxon"] = f"{p_value(pair['p_wilcoxon'])} (≥ {p_value(pair['smallest_p'])})"
        if pair["low"] is not None:
            cells["bootstrap"] = interval(form, pair, "low", "high").partition(" ")[2]
        if pair["d_z"] is not None:
            cells["effect"] = f"{pair['d_z']:.2f}" + (f" ({pair['g_z']:.2f})" if pair["g_z"] is not None else "")
            cells["effect"] = cells["effect"].replace("-", "−")
    return cells


def _cost(report: Mapping[str, Any], name: str | None, value: float | None) -> str:
    """Write a cost of compared models: its share of the teacher's, or the absolute number if teachers differ."""
    if name is None or value is None:
        return "–"
    return tables.cost(name, {name: value}) if name in report["absolute"] else f"{100 * value:.0f} %"


def overview(report: Mapping[str, Any]) -> list[list[str]]:
    """Lay all scores out as one table, its heading first: arms by models, mean ± sd, beside the arms' teachers.

    An arrow says that the difference from the reference is resolved after Holm's adjustment, and which way it goes.
    """
    arrows = {"higher": " ↑", "lower": " ↓"}
    laid = [["task", "arm", *(["teacher"] if report["teachers"] else []), *report["models"]]]
    for task, view in views(report).items():
        cells = {
            (row["arm"], table["model"]): row["score"] + arrows.get(row["verdict"], "")
            for table in view
            for row in rows(report, table)
        }
        cells |= {
            (row["arm"], "teacher"): _spread(report, task, view[0]["metric"], row)
            for row in report["teachers"]
            if row["task"] == task
        }
        named = [arm for arm in report["arms"] if any((arm, model) in cells for model in report["models"])]
        laid += [[task, arm, *(cells.get((arm, model), "–") for model in laid[0][2:])] for arm in named]
    return laid


def costs(report: Mapping[str, Any]) -> list[list[str]]:
    """Lay out what the models cost, the heading first: means over an arm's runs, as :func:`costs_caption` says."""
    described = [(table, row) for table in report["tables"] for row in table["arms"]]
    there = {
        name.removesuffix("_relative") for _, row in described for name in row["costs"] if name.endswith("_relative")
    }
    there |= {name for name in report["absolute"] if any(name in row["costs"] for _, row in described)}
    names = [*(name for name in tables.COSTS if name in there), *sorted(there - tables.COSTS.keys())]
    laid = [["task", "model", "arm", *(tables.COSTS.get(name, name.replace("_", " ")) for name in names)]]
    for table, row in described:
        columns = [name if name in report["absolute"] else f"{name}_relative" for name in names]
        cells = [_cost(report, name, row["costs"].get(column)) for name, column in zip(names, columns, strict=True)]
        laid.append([table["task"], table["model"], row["arm"], *cells])
    return laid if names else []


def ledger(report: Mapping[str, Any]) -> list[list[str]]:
    """Lay the ledger out: MACs by role, mean of an arm's runs."""
    return [
        [
            row["arm"], str(row["runs"]), *(human(row[f"{role}_macs"]) for role in ("student", "teacher", "training")),
            "–" if row["ratio"] is None else f"{row['ratio']:.3f}", human(row["evaluation_macs"]),
            human(row["evaluations"]), tables.duration((row["run_seconds"] or 0) + (row["cached_seconds"] or 0)),
        ]
        for row in report["ledger"]
    ]  # fmt: skip


def fronts(report: Mapping[str, Any]) -> list[list[str]]:
    """Lay hypervolumes and front coverage out."""
    laid = []
    for table in report["fronts"]:
        covered = {row["arm"]: row for row in table["coverage"]}
        for row in rows(report, table):
            ways = covered.get(row["arm"], {})
            shares = [f"{100 * ways[way]:.0f} %" if ways else "–" for way in ("covers", "covered")]
            absolute = any(name in report["absolute"] for name in table["cost"].split(", "))
            unit = ", absolute" if absolute else ""
            head = [table["task"], f"{table['model']}, {table['cost']}{unit}"]
            laid.append([*head, row["arm"], row["score"], row["difference"], row["holm"], *shares])
    return laid


def examples(report: Mapping[str, Any]) -> list[list[str]]:
    """Lay the comparisons by example out: a row for each task, model and arm, its seeds in one cell."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in report["examples"]:
        groups.setdefault((row["task"], row["model"], row["arm"]), []).append(row)
    laid = []
    for key, found in groups.items():
        tested = [row for row in found if row["p"] is not None]
        below = f"{sum(row['p'] < report['alpha'] for row in tested)} of {len(tested)}"
        p_values = ", ".join(row["note"] or p_value(row["p"]) for row in found)
        form = of_study(report, key[0], found[0]["metric"])
        shown = [interval(form, {**row, "mean": row["difference"]}, "low", "high") for row in found]
        laid.append([*key, ", ".join(str(row["seed"]) for row in found), p_values, below, "; ".join(shown)])
    return laid


def score(form: MetricFormat, value: float) -> str:
    """Write a score beside others: shares times 100, without a sign.

    >>> score(MetricFormat(percent=True), 0.9183), score(MetricFormat(), 0.52), score(MetricFormat(), 0.00412)
    ('91.8', '0.520', '0.00412')
    """
    if form.percent:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.1 or not value else f"{value:#.3g}"


def _spread(report: Mapping[str, Any], task: str, compared: str, row: Mapping[str, Any]) -> str:
    """Write an arm's mean and standard deviation, and those of the metrics that stand beside the compared one."""
    texts = []
    for name, own in {"": row, **row.get("beside", {})}.items():
        form = of_study(report, task, name or compared)
        spread = "" if own["sd"] is None else f" ± {score(form, own['sd'])}"
        texts.append(f"{name} {score(form, own['mean'])}{spread}".strip())
    return ", ".join(texts)
