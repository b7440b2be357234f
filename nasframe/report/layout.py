"""Lays a run's report out as a page: which sections it has, and what stands in them.

Here numbers become texts. The templates show every section of the page, so a new table needs no change in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from nasframe.measures import sign_of
from nasframe.report import tables
from nasframe.report.data_table import data_lines, data_rows
from nasframe.report.detail_sections import detail_sections
from nasframe.report.format import titled
from nasframe.report.records import ChoiceRow, LedgerRow, ModelRow, RunReport, SearchRow
from nasframe.report.roles import shipped, shown_role
from nasframe.report.sections import Cell, Grid, Highlight, Page, Picture, Remark, Row, Section, plain_grid

CAPTIONS = {
    "models": (
        "Accuracy against cost",
        "Every model on held-out data; the bars are 95 % intervals over the examples (bootstrap). The noise of training"
        " is not in them.",
    ),
    "pareto": (
        "Score against cost",
        "Every evaluated trial of the search, its front, and the finished models. Trials are scored on the selection"
        " split, finished models on held-out data.",
    ),
    "layers": (
        "What is kept",
        "Attention heads (left) and feed-forward neurons (right) of every layer; the pale bar is the full network."
        " Models of one shape share a panel.",
    ),
    "graphs": (
        "Architectures",
        "What was found, as graphs: each box reads the boxes that lines lead from. Equal architectures share a panel.",
    ),
    "curves": ("Training", "Logged losses, smoothed, and what was measured during training."),
    "ledger": (
        "Where the compute went",
        "Multiply-accumulates that were really run, padding included, and seconds, by stage.",
    ),
}
EXPORT = "nasframe export ."
"""The command that writes a run's recommended models, given in its directory."""
FIRST_PICTURES = ("models", "pareto")
"""The figures that stand above the table of models, by the beginning of their names."""
STORED = (
    "model",
    "matrices of the encoder's layers",
    "groups that violate",
    "rows off the grid",
    "fp32",
    "weights",
    "indices",
    "scales",
    "saved",
    "without indices",
    "biases, norms",
    "outside",
)
STORED_TEXT = (
    "Integer weights, the positions of those that an n:m pattern keeps, one scale of 32 bits a row; “saved” is relative"
    " to the matrices in floating point, with and without the positions. Biases, normalisation and all that is outside"
    " of the layers stay as they are."
)
LEDGER = (
    "stage",
    "role",
    "steps",
    "examples",
    "tokens",
    "forward MACs",
    "backward MACs",
    "evaluations",
    "time",
)
LEDGER_COUNTS = ("steps", "examples", "tokens", "forward_macs", "backward_macs", "evaluations")


def laid_out(report: RunReport, figures: Mapping[str, Any]) -> Page:
    """Lay a report out.

    Args:
        report: what is shown.
        figures: name → content of a :class:`nasframe.report.sections.Picture`.
    """
    warnings = [Remark(text, tone="warn", strong=True) for text in _warnings(report)]
    return Page(
        kind="nasframe report",
        title=report.name,
        summary=_summary(report),
        remarks=warnings,
        sections=list(_sections(report, figures)),
        highlights=[_highlight(report, model) for model in shipped(report.models) if model.score is not None],
        lead=_lead(report),
    )


def _lead(report: RunReport) -> list[str]:
    """Return the recommendations, and how the models are handed on; nothing while a run is under way."""
    lines = [recommendation.text for recommendation in report.recommendations]
    if not lines or not report.finished:
        return []
    return [*lines, f"To write them for other programs, here in the run directory: {EXPORT}"]


def caption(name: str) -> tuple[str, str]:
    """Return the title of a figure and the text below it.

    >>> caption("pareto-latency")[0]
    'Score against cost: latency'
    """
    kind, _, rest = name.partition("-")
    title, text = CAPTIONS[kind]
    if rest:
        title += f": {rest}"
    return title, text


def _summary(report: RunReport) -> str:
    parts = [report.description]
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    parts.append(tables.duration(report.run_seconds))
    return " · ".join(parts)


def _warnings(report: RunReport) -> list[str]:
    warnings = []
    if not report.finished:
        warnings.append("The run is not finished.")
    if report.failure:
        text = report.failure["text"]
        if report.failure.get("stage"):
            text = f"Stage {report.failure['stage']}: {text}"
        warnings.append(text)
    return warnings


def _sections(report: RunReport, figures: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections in order; those without content are left out."""
    pictures = {name: _picture(name, content) for name, content in figures.items()}
    first = [picture for name, picture in pictures.items() if name.startswith(FIRST_PICTURES)]
    if first:
        yield Section(pictures=first)
    if report.models:
        yield _models(report)
    for detail in report.details:
        yield from detail_sections(report, detail)
    summary = report.data.get("summary")
    if summary is not None:  # a task need not have one
        heading, *rows = data_rows(summary)
        grid = plain_grid(heading, rows, kind="dense")
        yield Section("Data", " ".join(data_lines(summary)), grids=[grid])
    if report.notices:
        pairs = [(notice["place"], notice["text"]) for notice in report.notices]
        yield Section("Decided without being asked", pairs=pairs)
    others = [picture for name, picture in pictures.items() if not name.startswith(FIRST_PICTURES)]
    if others:
        yield Section(pictures=others)
    for search in report.searches:
        yield _search(report, search)
    facts = _model_facts(report)
    if facts:
        grid = plain_grid(["model", "fact", "value"], facts, left=3)
        yield Section("What plugins say about the models", grids=[grid])
    yield from _stored(report)
    if report.ledger:
        yield _ledger(report)
    yield Section("Provenance", pairs=_provenance(report))
    if report.recipe:  # packed records of runs have none
        yield Section("Recipe, resolved", source=report.recipe, folded=True)


def _picture(name: str, content: Any) -> Picture:
    title, text = caption(name)
    return Picture(title, text, content)


# ---- models


def _highlight(report: RunReport, model: ModelRow) -> Highlight:
    """Show a winner's score large, with its gains and the costs that come first in a sentence."""
    form = report.metric_format(report.metric)
    about = f"{report.split} {titled(report.metric, form)}"
    for name, title in tables.companions(report).items():
        about += f", {tables.measured(report, model, name)} {title}"
    lines = []
    if model.gain is not None:
        lines.append((tables.difference(form, model.gain), "against the teacher"))
    if model.over_budget:
        lines.append(("", f"over budget: {model.over_budget}"))
    if model.gain_over_baseline is not None:
        lines.append((tables.difference(form, model.gain_over_baseline), "against the baseline of its budget"))
    for name in tables.summary_columns(report):
        title = report.cost_format(name).highlight
        if title and name in model.relative:
            lines.append((tables.share(model, name), f"of the teacher's {title}"))
    choice = _choice_of(report, model)
    if choice is not None:
        lines.append(("chosen:", choice.text))
    return Highlight(model.name, tables.metric(form, model.score), about, lines)


def _choice_of(report: RunReport, model: ModelRow) -> ChoiceRow | None:
    """Return how a model was chosen, if a search chose it and recorded how."""
    for search in report.searches:
        for choice in search.choices:
            if choice.winner == model.name:
                return choice
    return None


def _models(report: RunReport) -> Section:
    name = titled(report.metric, report.metric_format(report.metric))
    companions = tables.companions(report)
    columns = tables.summary_columns(report)
    rows = []
    starts_budget = True  # a line above the row sets the budgets apart
    for model in report.models:
        role = shown_role(report.models, model)
        cells = [_name_cell(model, role), _score_cell(report, model)]
        for companion in companions:
            cells.append(Cell(tables.measured(report, model, companion)))
        for cost in columns:
            cells.append(_cost_cell(report, model, cost))
        kind = f"{role} group" if starts_budget else role
        rows.append(Row(cells, kind))
        starts_budget = model.last_of_budget
    heading = ["model", name, *companions.values(), *columns.values()]
    notes = []
    if report.removal_errors:
        notes.append(tables.removed(report.removal_errors))
    return Section(
        "Models",
        f"{report.split} {name}, with the gain over the teacher{_interval_text(report)}; costs, with their share of the"
        " teacher's.",
        grids=[Grid(heading, rows, kind="models")],
        notes=notes,
    )


def _interval_text(report: RunReport) -> str:
    """Say which interval stands next to a gain, if some model has one."""
    if any(model.gain_interval is not None for model in report.models):
        return " and its 95 % interval (paired bootstrap over the examples)"
    return ""


def _name_cell(model: ModelRow, role: str) -> Cell:
    if not model.over_budget:
        return Cell(model.name, label=role)
    return Cell(model.name, label=role, aside=f"over budget: {model.over_budget}", tone="warn")


def _score_cell(report: RunReport, model: ModelRow) -> Cell:
    form = report.metric_format(report.metric)
    text = tables.metric(form, model.score)
    if model.role == "teacher" or model.gain is None:
        return Cell(text)
    gain = tables.difference(form, model.gain)
    if model.gain_interval is not None:
        gain += f" [{tables.ends(form, model.gain_interval)}]"
    is_worse = sign_of(form) * model.gain < 0
    return Cell(text, aside=gain, tone="down" if is_worse else "up")


def _cost_cell(report: RunReport, model: ModelRow, name: str) -> Cell:
    text = tables.cost(report.cost_format(name), name, model.costs)
    if model.role == "teacher" or name not in model.relative:
        return Cell(text)
    return Cell(text, aside=tables.share(model, name), bar=model.relative[name])


# ---- searches and what is stored


def _search(report: RunReport, search: SearchRow) -> Section:
    """Show the trials on the front of a search, best first."""
    states = search.states
    early = f" ({search.broken_off} broken off, as they could no longer win)" if search.broken_off else ""
    text = (
        f"{states['done']} evaluations{early}, {states['repeat']} repeats, {states['screened']} screened out,"
        f" {states['failed']} failed; best score {tables.aimed(report, search, search.best_score)};"
        f" {tables.duration(search.run_seconds)}. The trials on the front:"
    )
    front = [point for point in search.points if point.front]
    front.sort(key=attrgetter("score"), reverse=True)
    rows = []
    for point in front:
        row = [str(point.number), point.arch_id]
        for name in search.costs:
            row.append(tables.cost(report.cost_format(name), name, point.costs))
        row.append(tables.aimed(report, search, point.score))
        rows.append(row)
    heading = ["trial", "arch", *search.costs, f"{search.split} {tables.aim(report, search)}"]
    title = "Search"
    if search.stage != "search":
        title += f": {search.stage}"
    notes = [f"{choice.winner}: {choice.text}." for choice in search.choices]
    if search.full:
        full = [f"{name} {tables.cost(report.cost_format(name), name, search.full)}" for name in search.full]
        notes.append(f"Percentages refer to the super-network's largest architecture: {', '.join(full)}.")
    return Section(title, text, grids=[plain_grid(heading, rows, left=2)], notes=notes)


def _stored(report: RunReport) -> Iterator[Section]:
    """Yield a section on compressed matrices, if there are any."""
    rows = []
    for model in report.models:
        if model.stored is not None:
            rows.append(_stored_row(model.name, model.stored))
    if rows:
        grid = plain_grid(STORED, rows, left=2, kind="dense wrapped")
        yield Section("What is stored, in bits", STORED_TEXT, grids=[grid])


def _stored_row(name: str, stored: Mapping[str, Any]) -> list[str]:
    """Write what one model's matrices take; whether every group and row is in order stands first."""
    matrices = [f"{count} × {form}" for form, count in stored["formats"].items()]
    violations = f"{stored['violations']} of {stored['groups']:,}"
    row = [name, ", ".join(matrices), violations, str(stored["rows_off_grid"])]
    for part in ("matrices_fp32", "weights", "indices", "scales"):  # in the order of STORED
        row.append(tables.human(stored[part]))
    for saved in ("saved", "saved_without_indices"):
        row.append(f"{100 * stored[saved]:.1f} %")
    for part in ("encoder_rest", "outside"):
        row.append(tables.human(stored[part]))
    return row


def _model_facts(report: RunReport) -> list[list[str]]:
    """List the facts that plugins bring about models, as far as they are texts or numbers."""
    rows = []
    for model in report.models:
        for name, value in model.facts.items():
            if isinstance(value, str | int | float):  # curves and the like have no place in a table
                rows.append([model.name, name, str(value)])
    return rows


# ---- ledger and provenance


def _ledger(report: RunReport) -> Section:
    cached = [stage.name for stage in report.stages if stage.cached]
    total = report.ledger_total
    text = (
        f"Training took {tables.human(total.training_macs)} multiply-accumulates, searches"
        f" {tables.human(total.search_macs)}, all evaluation {tables.human(total.evaluation_macs)}. Equal budget"
        " between methods means equal MACs of training and search together; evaluations that only report do not count."
    )
    rows = [_ledger_row(row, row.stage in cached) for row in report.ledger]
    return Section("Cost ledger", text, grids=[plain_grid(LEDGER, rows, left=2)])


def _ledger_row(row: LedgerRow, is_cached: bool) -> list[str]:
    stage = row.stage
    if is_cached:
        stage += " (from the cache)"
    cells = [stage, row.role]
    for name in LEDGER_COUNTS:
        # A role has only some of the counts: the others are zero. None is a forward that could not be counted.
        count = getattr(row, name) or None
        cells.append(tables.human(count))
    return [*cells, tables.duration(row.run_seconds)]


def _provenance(report: RunReport) -> list[tuple[str, str]]:
    """Flatten environment and facts of the run to pairs of a name and a text."""
    data = dict(report.data)
    data.pop("summary", None)  # it has a section of its own
    facts = {"command": report.command, "data": data, **report.environment}
    return list(_flattened("", facts))


def _flattened(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(f"{prefix} {key}".strip(), inner)
    elif value in (None, "", []):  # facts that this run does not have
        return
    elif isinstance(value, list):
        yield prefix, " ".join(map(str, value))
    else:
        yield prefix, str(value)
