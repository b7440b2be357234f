"""Predictions of a run's models, example by example: per class, against the teacher's, and where the two disagree."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.report.example_stats import RESAMPLES, are_whole, mcnemar, metric_difference, metric_interval
from nasframe.report.records import ClassRow, Confusion, CutScores, Disagreement, LabelCounts, Measure

PROBABILITY = "p_"
"""Begins the columns that hold the probability of a class."""
SHOWN_WORSE = 6
"""Examples that are shown of those that the teacher gets right and the model wrong."""
SHOWN_OTHERS = 3
"""Examples that are shown of the other disagreements."""
MOST_CLASSES = 12
"""With more classes only those that differ most from the teacher's are listed, and no confusion matrix."""
MOST_WORK = 2_000_000_000
"""Examples that are drawn for an interval at most, in all resamples together."""
FEWEST_RESAMPLES = 500


@dataclass(frozen=True)
class Predictions:
    """What a model predicted on a split, in the order of the examples' ids.

    Args:
        ids: ``(examples,)``, positions in the split.
        labels: ``(examples,)``, indices of classes, or real values; ``(examples, labels)``, 0 or 1, if several labels
            may hold for an example.
        predictions: of the same shape.
        confidence: ``(examples,)``, the probability of the predicted class, or of the labels as they are predicted;
            ``None`` if it is not known, or for real values.
    """

    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_classes(self) -> bool:
        """Whether labels and predictions are indices of classes."""
        return self.labels.dtype.kind == "i" and not self.are_sets

    @property
    def are_sets(self) -> bool:
        """Whether several labels may hold for an example."""
        return self.labels.ndim == 2

    @property
    def are_right(self) -> np.ndarray:
        """Whether each prediction is right, ``(examples,)``; one of several labels if all of them are."""
        return equal_examples(self.labels, self.predictions)

    def matches(self, other: Predictions) -> bool:
        """Tell whether two models predicted the same examples."""
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.labels, other.labels)


def predictions_of(columns: Mapping[str, Sequence[object]], split: str = "dev") -> Predictions | None:
    """Return predictions from the columns that a task gives; ``None`` if it has no ``id``, ``label``, ``prediction``.

    Args:
        columns: name → values; ``p_<class>`` are probabilities, and ``split`` the split of each row if there are
            several, as of MNLI.
        split: the split whose rows count.

    >>> found = predictions_of({"id": [1, 0], "label": [0, 1], "prediction": [0, 0], "p_no": [0.9, 0.6]})
    >>> found.ids.tolist(), found.confidence.tolist()
    ([0, 1], [0.6, 0.9])
    """
    if not {"id", "label", "prediction"} <= columns.keys():
        return None
    if hold_sets(columns["label"]):
        return _sets_of(columns, split)
    try:
        numbers = {name: np.asarray(columns[name], dtype=float) for name in ("id", "label", "prediction")}
        probabilities = [np.asarray(v, dtype=float) for k, v in columns.items() if k.startswith(PROBABILITY)]
    except ValueError:  # a task of another kind, whose labels are texts
        return None
    ids = numbers["id"].astype(int)
    kept = _kept(columns, split)
    order = np.argsort(ids[kept], kind="stable")
    confidence = None
    if probabilities:
        confidence = np.max(probabilities, axis=0)[kept][order]
    labels = numbers["label"][kept][order]
    predicted = numbers["prediction"][kept][order]
    if are_whole(labels) and are_whole(predicted):
        labels, predicted = labels.astype(int), predicted.astype(int)
    return Predictions(ids[kept][order], labels, predicted, confidence)


def _kept(columns: Mapping[str, Sequence[object]], split: str) -> np.ndarray:
    """Tell which rows are of a split."""
    if "split" not in columns:
        return np.ones(len(columns["id"]), dtype=bool)
    return np.asarray(columns["split"]) == split


def hold_sets(column: Sequence[object]) -> bool:
    """Tell whether a column holds lists of outputs, as of labels that may hold together; in files as ``[0, 2]``.

    >>> hold_sets(["[0, 2]", "[]"]), hold_sets([[1]]), hold_sets(["2", "0"])
    (True, True, False)
    """
    return len(column) > 0 and all(isinstance(value, list) or str(value).startswith("[") for value in column)


def set_column(column: Sequence[object], outputs: int) -> np.ndarray:
    """Return lists of outputs as 0 or 1 for each output, ``(examples, outputs)``.

    Raises:
        ValueError: a value is no list of outputs.

    >>> set_column(["[0, 2]", "[]"], 3).tolist()
    [[1, 0, 1], [0, 0, 0]]
    """
    values = np.zeros((len(column), outputs), dtype=int)
    for row, value in enumerate(column):
        for output in value if isinstance(value, list) else json.loads(str(value)):
            if not isinstance(output, int) or not 0 <= output < outputs:
                raise ValueError(f"{output!r} is no output; there are {outputs}.")
            values[row, output] = 1
    return values


def _sets_of(columns: Mapping[str, Sequence[object]], split: str) -> Predictions | None:
    """Return predictions of labels that may hold together; ``None`` if their probabilities are missing."""
    names = [name for name in columns if name.startswith(PROBABILITY)]
    if not names:
        return None
    try:
        labels = set_column(columns["label"], len(names))
        predicted = set_column(columns["prediction"], len(names))
        probabilities = np.array([np.asarray(columns[name], dtype=float) for name in names]).T
        ids = np.asarray(columns["id"], dtype=float).astype(int)
    except ValueError:
        return None
    of_answers = np.where(predicted == 1, probabilities, 1 - probabilities)
    kept = np.flatnonzero(_kept(columns, split))
    order = kept[np.argsort(ids[kept], kind="stable")]
    return Predictions(ids[order], labels[order], predicted[order], of_answers.prod(axis=1)[order])


def equal_examples(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tell for which examples two columns are equal; of several labels if all are, ``(examples,)``.

    Args:
        first: ``(examples,)`` or ``(examples, labels)``.
        second: of the same shape.
    """
    equal: np.ndarray = first == second
    return np.all(equal, axis=1) if equal.ndim == 2 else equal


def read_predictions(path: Path, split: str = "dev") -> Predictions | None:
    """Return the predictions in a file, ``None`` if there is none or it holds others; see :func:`predictions_of`."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        heading, *rows = list(csv.reader(file)) or [[]]
    if not rows:
        return None
    columns = dict(zip(heading, zip(*rows, strict=True), strict=True))
    return predictions_of(columns, split)


def _resamples(examples: int) -> int:
    """Return how many resamples keep an interval's time within bounds."""
    return int(min(RESAMPLES, max(FEWEST_RESAMPLES, MOST_WORK // max(1, examples))))


def interval(model: Predictions, metric: str, positive: int | None) -> Measure | None:
    """Return a model's metric with its interval over the examples; ``None`` if predictions do not suffice for it."""
    measured = metric_interval(model.labels, model.predictions, metric, positive, _resamples(len(model)))
    return None if measured is None else Measure(*measured)


def difference(model: Predictions, teacher: Predictions, metric: str, positive: int | None) -> Measure | None:
    """Return how much higher a model's metric is than the teacher's, with the paired bootstrap's interval.

    Returns:
        ``None`` if predictions do not suffice for the metric, or are of other examples.
    """
    if not model.matches(teacher):
        return None
    resamples = _resamples(len(model))
    gap = metric_difference(model.labels, model.predictions, teacher.predictions, metric, positive, resamples)
    return None if gap is None else Measure(*gap)


def only_one_right(model: Predictions, teacher: Predictions) -> tuple[int, int, float]:
    """Return how many examples only the model has right, how many only the teacher, and McNemar's exact p."""
    return mcnemar(model.are_right, teacher.are_right)


# ---- class by class


def confusion(predictions: Predictions, classes: int) -> Confusion:
    """Count examples by label (rows) and prediction (columns).

    >>> confusion(Predictions(np.arange(3), np.array([0, 1, 1]), np.array([0, 1, 0]), np.ones(3)), 2)
    [[1, 0], [1, 1]]
    """
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (predictions.labels, predictions.predictions), 1)
    matrix: Confusion = counts.tolist()
    return matrix


def class_rows(labels: Sequence[str], model: Confusion, teacher: Confusion) -> list[ClassRow]:
    """Compare a model with its teacher class by class.

    Args:
        labels: the classes in the order of the outputs.
        model: the model's confusion matrix.
        teacher: the teacher's.
    """
    counts, teacher_counts = np.array(model), np.array(teacher)
    rows = []
    for place, name in enumerate(labels):
        precision, recall, f1 = _scores(counts, place)
        teacher_precision, teacher_recall, teacher_f1 = _scores(teacher_counts, place)
        examples = int(counts[place].sum())
        row = ClassRow(name, examples, precision, recall, f1, teacher_precision, teacher_recall, teacher_f1)
        rows.append(row)
    return rows


def _scores(counts: np.ndarray, place: int) -> tuple[float | None, float | None, float | None]:
    """Return precision, recall and F1 of a class in a confusion matrix."""
    right = float(counts[place, place])
    predicted = float(counts[:, place].sum())
    examples = float(counts[place].sum())
    return _rates(right, predicted, examples)


def _rates(right: float, predicted: float, examples: float) -> tuple[float | None, float | None, float | None]:
    """Return precision, recall and F1; ``None`` stands for a quotient of zeros."""
    precision = right / predicted if predicted else None
    recall = right / examples if examples else None
    f1 = 2 * right / (predicted + examples) if predicted + examples else None
    return precision, recall, f1


def label_rows(labels: Sequence[str], model: Predictions, teacher: Predictions) -> list[ClassRow]:
    """Compare a model with its teacher label by label, if several may hold for an example.

    Args:
        labels: in the order of the outputs.
        model: the model's predictions.
        teacher: the teacher's.
    """
    rows = []
    for name, own, of_teacher in zip(labels, label_counts(model), label_counts(teacher), strict=True):
        examples = own.found + own.missed
        scores = _rates(own.found, own.found + own.wrong, examples)
        teacher_scores = _rates(of_teacher.found, of_teacher.found + of_teacher.wrong, examples)
        rows.append(ClassRow(name, examples, *scores, *teacher_scores))
    return rows


def label_counts(predictions: Predictions) -> list[LabelCounts]:
    """Count the answers to each label.

    >>> sets = np.array([[1, 0], [1, 1], [0, 0]])
    >>> label_counts(Predictions(np.arange(3), sets, np.array([[1, 0], [0, 1], [0, 1]])))[1]
    LabelCounts(found=1, missed=0, wrong=1, left_out=1)
    """
    counts = []
    for truth, predicted in zip(predictions.labels.T == 1, predictions.predictions.T == 1, strict=True):
        found = int((truth & predicted).sum())
        missed = int((truth & ~predicted).sum())
        wrong = int((~truth & predicted).sum())
        counts.append(LabelCounts(found, missed, wrong, len(truth) - found - missed - wrong))
    return counts


# ---- single examples


@dataclass(frozen=True)
class ReadExamples:
    """Examples of a split as a person reads them, as far as a run keeps them.

    Args:
        texts: id → text.
        cut: ids of the examples of which the network read a part only; ``None`` if that is not known.
    """

    texts: Mapping[int, str]
    cut: frozenset[int] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> ReadExamples:
        """Return what :meth:`plain` made; a run of an earlier version kept nothing."""
        if not record:
            return cls({})
        texts = {int(key): str(text) for key, text in record["texts"].items()}
        cut = record.get("cut")
        return cls(texts, None if cut is None else frozenset(cut))

    def joined(self, later: ReadExamples) -> ReadExamples:
        """Return the examples of two evaluations."""
        cut = self.cut if later.cut is None else later.cut
        return ReadExamples({**self.texts, **later.texts}, cut)

    def plain(self) -> dict[str, object]:
        """Return the same as JSON-plain data."""
        cut = None if self.cut is None else sorted(self.cut)
        return {"texts": {str(key): text for key, text in self.texts.items()}, "cut": cut}


def notable(model: Predictions, teacher: Predictions) -> list[int]:
    """Return the positions of examples on which a model and its teacher disagree most, the teacher's gains first.

    Of classes these are examples that the teacher has right and the model wrong, the model's most confident errors
    first, and then other disagreements. Of real values they are the largest differences.

    >>> ids, labels = np.arange(3), np.array([0, 1, 1])
    >>> teacher = Predictions(ids, labels, labels, np.ones(3))
    >>> notable(Predictions(ids, labels, np.array([0, 0, 0]), np.array([0.9, 0.6, 0.8])), teacher)
    [2, 1]
    """
    if not model.matches(teacher):
        return []
    if not model.are_classes and not model.are_sets:
        gaps = np.abs(model.predictions - teacher.predictions)
        order = np.argsort(-gaps, kind="stable")[:SHOWN_WORSE]
        return [int(place) for place in order if gaps[place] > 0]
    differ = ~equal_examples(model.predictions, teacher.predictions)
    worse = differ & teacher.are_right
    by_confidence = np.arange(len(model))
    if model.confidence is not None:
        by_confidence = np.argsort(-model.confidence, kind="stable")
    worst = [int(place) for place in by_confidence if worse[place]]
    others = [int(place) for place in by_confidence if differ[place] and not worse[place]]
    return worst[:SHOWN_WORSE] + others[:SHOWN_OTHERS]


def disagreements(
    model: Predictions, teacher: Predictions, labels: Sequence[str] | None, examples: ReadExamples
) -> list[Disagreement]:
    """Describe the examples that :func:`notable` chooses.

    Args:
        model: the model's predictions.
        teacher: the teacher's.
        labels: the classes in the order of the outputs; ``None`` for real values.
        examples: what the run keeps of the texts; an example without a text is named by its number.
    """
    rows = []
    for place in notable(model, teacher):
        identity = int(model.ids[place])
        confidence = None if model.confidence is None else float(model.confidence[place])
        row = Disagreement(
            id=identity,
            text=examples.texts.get(identity, ""),
            cut=examples.cut is not None and identity in examples.cut,
            label=_named(model.labels[place], labels),
            model=_named(model.predictions[place], labels),
            teacher=_named(teacher.predictions[place], labels),
            confidence=confidence,
        )
        rows.append(row)
    return rows


def _named(value: float | np.ndarray, labels: Sequence[str] | None) -> str:
    """Return a class by its name, several labels by theirs, and a real value with three digits."""
    if isinstance(value, np.ndarray):
        names = [str(place) if labels is None else labels[place] for place in np.flatnonzero(value).tolist()]
        return ", ".join(names) or "none"
    if labels is None:
        return f"{value:.3g}"
    place = int(value)
    return labels[place] if place < len(labels) else str(place)


def cut_scores(
    model: Predictions, teacher: Predictions, metric: str, positive: int | None, examples: ReadExamples
) -> CutScores | None:
    """Return a metric on the texts that were cut and on the others; ``None`` if none was cut, or that is not known."""
    if not examples.cut or not model.matches(teacher):
        return None
    is_cut = np.isin(model.ids, list(examples.cut))
    if not is_cut.any() or is_cut.all():
        return None
    scores: list[float | None] = []
    for side in (model, teacher):
        for chosen in (is_cut, ~is_cut):
            measured = metric_interval(side.labels[chosen], side.predictions[chosen], metric, positive, resamples=2)
            scores.append(None if measured is None else measured.difference)
    return CutScores(int(is_cut.sum()), len(model), *scores)
