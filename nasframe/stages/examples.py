"""The examples of ``dev`` that a run keeps as texts, because reports show where models and their teacher disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.declarations import TEACHER
from nasframe.folders import model_folder, predictions_file
from nasframe.interfaces import ReadableTask
from nasframe.report.predictions import Predictions, ReadExamples, notable, predictions_of, read_predictions

if TYPE_CHECKING:
    from nasframe.interfaces import Task
    from nasframe.stages.session import StageSession

LONGEST = 600
"""Letters of a text that a run keeps."""


def readable_examples(
    stage: StageSession, task: Task, predictions: Mapping[str, Mapping[str, Sequence[Any]]]
) -> dict[str, Any] | None:
    """Return the examples that the report of a run will show, JSON-plain, as ``ReadExamples`` reads them.

    Args:
        stage: the stage that evaluated the models on ``dev``.
        task: whose examples they are.
        predictions: model → the columns that the task gave.

    Returns:
        ``None`` if nobody can read the task's examples, or the models have no teacher to disagree with.
    """
    if not isinstance(task, ReadableTask):
        return None
    teacher = _teacher(stage, predictions)
    if teacher is None:
        return None
    shown: set[int] = set()
    for name, columns in predictions.items():
        own = predictions_of(columns)
        if own is not None and name != TEACHER:
            shown.update(int(own.ids[place]) for place in notable(own, teacher))
    ids = sorted(shown)
    texts = dict(zip(ids, (_shortened(text) for text in task.readable("dev", ids)), strict=True))
    cut = task.cut_examples("dev")
    return ReadExamples(texts, None if cut is None else frozenset(map(int, cut))).plain()


def _teacher(stage: StageSession, predictions: Mapping[str, Mapping[str, Sequence[Any]]]) -> Predictions | None:
    """Return the teacher's predictions, of this stage or of an earlier one."""
    if TEACHER in predictions:
        return predictions_of(predictions[TEACHER])
    return read_predictions(model_folder(stage.store.directory, TEACHER) / predictions_file("dev"))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
