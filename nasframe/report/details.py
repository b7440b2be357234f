"""Adds to a report what only the predictions of its models show: intervals, classes, cut texts and disagreements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nasframe.declarations import TEACHER
from nasframe.folders import predictions_file
from nasframe.report import predictions as by_example
from nasframe.report.predictions import MOST_CLASSES, Predictions, ReadExamples
from nasframe.report.records import ClassRow, Confusion, LabelCounts, ModelDetail, ModelRow, RunReport
from nasframe.report.roles import shipped


def with_examples(report: RunReport, directory: Path, examples: ReadExamples) -> RunReport:
    """Return a report with intervals for its models, and with details of those to ship.

    Args:
        report: a report without them.
        directory: the run's.
        examples: what the run keeps of its texts.
    """
    reader = _Reader(report, directory)
    teacher = next((model for model in report.models if model.role == TEACHER), None)
    of_teacher = None if teacher is None else reader.predictions(teacher)
    models = []
    for model in report.models:
        own = reader.predictions(model)
        if own is None:
            models.append(model)
            continue
        gap = None
        if of_teacher is not None and model is not teacher:
            gap = by_example.difference(own, of_teacher, report.metric, reader.positive)
        interval = by_example.interval(own, report.metric, reader.positive)
        models.append(replace(model, interval=interval, gain_interval=gap))
    report = replace(report, models=models)
    if teacher is None or of_teacher is None:
        return report
    details = []
    for model in shipped(report.models):
        own = reader.predictions(model)
        if own is not None and own.matches(of_teacher):
            details.append(_detail(model, own, teacher, of_teacher, reader, examples))
    return replace(report, details=details)


@dataclass(frozen=True)
class _Reader:
    """Reads predictions of a run's models.

    Args:
        report: says which metric of which classes.
        directory: the run's.
    """

    report: RunReport
    directory: Path

    @property
    def labels(self) -> Sequence[str] | None:
        """The classes in the order of the outputs; ``None`` for real values."""
        labels: Sequence[str] | None = self.report.data.get("labels")
        return labels

    @property
    def positive(self) -> int | None:
        """The index of the class that the metric is about, if it is about one."""
        name = self.report.metric_format(self.report.metric).positive
        if name is None or self.labels is None or name not in self.labels:
            return None
        return list(self.labels).index(name)

    def predictions(self, model: ModelRow) -> Predictions | None:
        """Return a model's predictions on the report's split."""
        name = predictions_file(self.report.split)
        for path in model.predictions:
            if Path(path).name == name:
                return by_example.read_predictions(self.directory / path, self.report.split)
        return None


def _detail(
    model: ModelRow,
    own: Predictions,
    teacher: ModelRow,
    of_teacher: Predictions,
    reader: _Reader,
    examples: ReadExamples,
) -> ModelDetail:
    """Compare a model with its teacher."""
    labels = reader.labels
    classes: list[ClassRow] = []
    confusion: Confusion = []
    teacher_confusion: Confusion = []
    label_counts: list[LabelCounts] = []
    teacher_label_counts: list[LabelCounts] = []
    only_model = only_teacher = p = None
    if labels is not None and own.are_sets and of_teacher.are_sets:
        only_model, only_teacher, p = by_example.only_one_right(own, of_teacher)
        rows = by_example.label_rows(labels, own, of_teacher)
        classes = rows if len(rows) <= MOST_CLASSES else _most_changed(rows)
        shown = [rows.index(row) for row in classes]
        of_model, of_its_teacher = by_example.label_counts(own), by_example.label_counts(of_teacher)
        label_counts = [of_model[place] for place in shown]
        teacher_label_counts = [of_its_teacher[place] for place in shown]
    if labels is not None and own.are_classes and of_teacher.are_classes:
        only_model, only_teacher, p = by_example.only_one_right(own, of_teacher)
        confusion = by_example.confusion(own, len(labels))
        teacher_confusion = by_example.confusion(of_teacher, len(labels))
        classes = by_example.class_rows(labels, confusion, teacher_confusion)
        if len(labels) > MOST_CLASSES:
            classes = _most_changed(classes)
            confusion, teacher_confusion = [], []
    return ModelDetail(
        model=model.name,
        teacher=teacher.name,
        examples=len(own),
        only_model=only_model,
        only_teacher=only_teacher,
        p=p,
        classes=classes,
        confusion=confusion,
        teacher_confusion=teacher_confusion,
        cut=by_example.cut_scores(own, of_teacher, reader.report.metric, reader.positive, examples),
        disagreements=by_example.disagreements(own, of_teacher, labels, examples),
        label_counts=label_counts,
        teacher_label_counts=teacher_label_counts,
    )


def _most_changed(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Return the classes whose F1 lies furthest below the teacher's, in the order of the outputs."""

    def change(row: ClassRow) -> float:
        return (row.f1 or 0.0) - (row.teacher_f1 or 0.0)

    chosen = sorted(rows, key=change)[:MOST_CLASSES]
    return [row for row in rows if row in chosen]
