"""The sections of a page on single models to ship: class by class, cut texts, and where they and the teacher disagree.

The page of a run has them for its own models, the page of a study for those that it recommends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.format import titled
from nasframe.report.records import ClassRow, Confusion, CutScores, LabelCounts, ModelDetail, RunReport
from nasframe.report.sections import Cell, Grid, Row, Section, plain_rows

CLASS_COLUMNS = ("examples", "precision", "recall", "F1", "F1 of the teacher", "change")
ANSWERS = ("found", "missed", "wrongly said", "rightly not")
EXAMPLE_COLUMNS = ("example", "label", "model", "teacher", "confidence")
CHOSEN = (
    "Examples that the teacher gets right and the model gets wrong, its most confident errors first, and then other"
    " disagreements."
)
CHOSEN_OF_VALUES = "Examples on which their predictions differ most."
SHARE = MetricFormat(percent=True)


def detail_sections(report: RunReport, detail: ModelDetail, title: str = "") -> Iterator[Section]:
    """Yield the sections on one model.

    Args:
        report: the report of the model's run.
        detail: the model, compared with its teacher.
        title: what the page calls the model; default: its name.
    """
    name = title or detail.model
    if detail.classes:
        are_labels = bool(detail.label_counts)
        grids = [_classes(detail.classes, "label" if are_labels else "class")]
        if are_labels:
            names = [row.name for row in detail.classes]
            grids.append(_label_counts(names, detail.label_counts, name))
            grids.append(_label_counts(names, detail.teacher_label_counts, detail.teacher))
        if detail.confusion:
            labels = [row.name for row in detail.classes]
            grids.append(_confusion(labels, detail.confusion, f"{name}: label ↓ predicted →"))
            grids.append(_confusion(labels, detail.teacher_confusion, f"{detail.teacher}: label ↓ predicted →"))
        heading = "Label by label" if are_labels else "Class by class"
        yield Section(f"{heading}: {name}", _right_and_wrong(report, detail), grids=grids)
    notes = [] if detail.cut is None else [_cut_text(report, detail.cut)]
    if any(example.text for example in detail.disagreements):  # numbers of examples alone would say nothing
        yield Section(
            f"Where {name} and the teacher disagree",
            f"{CHOSEN if detail.classes else CHOSEN_OF_VALUES} The predictions on all examples are in each model's"
            " folder of the run.",
            grids=[_examples(detail)],
            notes=notes,
        )
    elif notes:
        yield Section(f"Texts that were cut: {name}", notes=notes)


def _right_and_wrong(report: RunReport, detail: ModelDetail) -> str:
    """Say how many examples only one of the two gets right."""
    text = f"{detail.examples:,} examples of {report.split}."
    if detail.only_model is None or detail.only_teacher is None or detail.p is None:
        return text
    return (
        f"{text} Only the model is right on {detail.only_model:,}, only the teacher on {detail.only_teacher:,}"
        f" (exact McNemar, {_p(detail.p)})."
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _classes(rows: Sequence[ClassRow], noun: str) -> Grid:
    laid = []
    for row in rows:
        change = None
        if row.f1 is not None and row.teacher_f1 is not None:
            change = row.f1 - row.teacher_f1
        tone = ""
        if change:
            tone = "down" if change < 0 else "up"
        cells = [Cell(row.name), Cell(f"{row.examples:,}")]
        cells += [Cell(tables.metric(SHARE, value)) for value in (row.precision, row.recall, row.f1, row.teacher_f1)]
        cells.append(Cell(tables.difference(SHARE, change), tone=tone))
        laid.append(Row(cells))
    return Grid([noun, *CLASS_COLUMNS], laid, kind="dense")


def _confusion(labels: Sequence[str], counts: Confusion, title: str) -> Grid:
    """Lay a confusion matrix out; cells are shaded by their share of the row."""
    laid = []
    for name, row in zip(labels, counts, strict=True):
        total = sum(row)
        cells = [Cell(name)]
        for count in row:
            share = count / total if total else 0.0
            cells.append(Cell(f"{count:,}", shade=0.6 * share))
        laid.append(Row(cells))
    return Grid([title, *labels], laid, kind="dense confusion")


def _label_counts(names: Sequence[str], counts: Sequence[LabelCounts], title: str) -> Grid:
    """Lay out how often each label was rightly and wrongly said."""
    rows = []
    for name, count in zip(names, counts, strict=True):
        numbers = (count.found, count.missed, count.wrong, count.left_out)
        rows.append([name, *(f"{number:,}" for number in numbers)])
    return Grid([title, *ANSWERS], plain_rows(rows), kind="dense")


def _examples(detail: ModelDetail) -> Grid:
    rows = []
    for example in detail.disagreements:
        text = example.text or f"example {example.id}"
        if example.cut:
            text += " (cut)"
        confidence = "–" if example.confidence is None else tables.metric(SHARE, example.confidence)
        rows.append([text, example.label, example.model, example.teacher, confidence])
    return Grid(EXAMPLE_COLUMNS, plain_rows(rows), left=4, kind="dense examples")


def _cut_text(report: RunReport, cut: CutScores) -> str:
    """Say how a model does on the texts that were cut."""
    form = report.metric_format(report.metric)
    name = titled(report.metric, form)
    share = 100 * cut.cut / cut.examples
    text = f"{cut.cut:,} of {cut.examples:,} {report.split} texts ({share:.1f} %) were cut."
    if cut.on_cut is None:
        return text
    return (
        f"{text} {name} on them: {tables.metric(form, cut.on_cut)}, teacher {tables.metric(form, cut.teacher_on_cut)};"
        f" on the others: {tables.metric(form, cut.on_others)}, teacher {tables.metric(form, cut.teacher_on_others)}."
    )
