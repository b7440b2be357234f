"""Evaluator ``racing``: few examples first, more for those that may still win.

Races over examples are those of Maron and Moore (Hoeffding Races, NeurIPS 1993): a model is dropped as soon as it can
no longer be the best. Three things make a race of sub-networks short:

- They are compared on the *same* examples (the blocking of Moore and Lee, Efficient Algorithms for Minimizing Cross
  Validation Error, ICML 1994). Sub-networks of one network make largely the same mistakes, so an answer that was not
  read yet is guessed from those that were measured to the end.
- The examples on which these disagree are read first: the others say little.
- Many candidates are about as good as the best one, and a test of being worse would read nearly everything for them. A
  candidate is dropped when reading on is not expected to gain anything worth it: the expected improvement of Mockus
  (Bayesian Methods for Seeking the Extremum, 1975).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import numpy as np
from annotated_types import Ge, Gt, Le

from nasframe.errors import UsageError
from nasframe.interfaces import Candidate, PartialTask, Rival, SearchJob, output_kind
from nasframe.records import Arch, Count, Evaluation, MetricFormat, Positive, Trial, arch_id
from nasframe_basics.evaluators import led_by

SPLIT = "select"
MOST_KNOWN = 8
"""At most as many of the last candidates that were measured to the end say what an unread answer may be."""
ROUNDING = 1e-12
"""Difference of scores that floating point alone may cause."""

Columns = Mapping[str, np.ndarray]
"""Predictions by column, ``(examples, …)`` each, with the examples in the order of the race."""


@dataclass(frozen=True)
class Answers:
    """What a network answered to all examples.

    Args:
        columns: its predictions.
        score: of all of them; more is better.
    """

    columns: Columns
    score: float


class Sheet:
    """The answers of a candidate so far, each at the place of its example.

    Args:
        total: the number of examples.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.read = np.empty(0, dtype=np.int64)
        self.tokens = 0
        self._columns: dict[str, np.ndarray] = {}

    def add(self, places: np.ndarray, part: Evaluation) -> None:
        """Add the answers to the examples at some places."""
        for name, values in part.predictions.items():
            answers = np.asarray(values)
            if name not in self._columns:
                self._columns[name] = np.empty((self.total, *answers.shape[1:]), dtype=answers.dtype)
            self._columns[name] = _wide_enough(self._columns[name], answers.dtype)
            self._columns[name][places] = answers
        self.read = np.concatenate([self.read, places])
        self.tokens += part.tokens

    def columns(self) -> Columns:
        """Return the answers; all have been read."""
        assert len(self.read) == self.total
        return self._columns

    def completed(self, unread: Columns) -> Columns:
        """Return the answers, with given ones where none was read."""
        return completed(self._columns, self.read, unread)


class Racing:
    """Measure the task's metrics on more and more of ``select``, until the architecture can no longer win.

    After each part, the architecture is compared with the best one so far under every budget that it meets. If it has
    no prospects against any of them, it is dropped. The sampler then gets an estimate of its metrics. Only
    architectures that were measured to the end can win. The first metric among the objectives decides, and a race needs
    to have one objective only.

    Args:
        bound: ``paired`` drops an architecture if reading on is expected to bring it ahead of the best one by less than
            ``gain``. What it will answer to the other examples is guessed from the architectures that were measured to
            the end; how wrong such guesses are is known from guessing these themselves. So a winner may be dropped,
            though hardly one that leads by much. ``exact`` drops it if right answers to all other examples would not be
            enough; the winner is then the same as without a race, but less is saved. It is for tasks with classes, and
            for metrics that no right answer makes worse.
        start: examples before the first comparison.
        growth: by which factor the examples grow from one comparison to the next.
        gain: the least expected gain for which ``paired`` goes on, in units of the metric: 0.001 is 0.1 points of
            accuracy.
        known: how many architectures ``paired`` measures to the end before it drops any.
    """

    def __init__(
        self,
        bound: Literal["paired", "exact"] = "paired",
        start: Count = 64,
        growth: Annotated[float, Gt(1), Le(100)] = 1.3,
        gain: Positive = 0.001,
        known: Annotated[int, Ge(3), Le(MOST_KNOWN)] = 6,
    ) -> None:
        self.bound = bound
        self.first = start
        self.growth = growth
        self.gain = gain
        self.enough = known if bound == "paired" else 1

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the task's metrics, the primary one first."""
        return led_by(primary, of_task)

    def validate(self, job: SearchJob) -> None:
        """Refuse several objectives, a cost as objective, and tasks that cannot be measured part by part."""
        if len(job.objectives) > 1:
            names = ", ".join(job.objectives)
            raise UsageError(
                f"racing drops what cannot have the best score, and a search for {names} looks for more than that. "
                "Expected one objective."
            )
        if job.task is None:
            return
        name = job.objectives[0].removeprefix("-")
        if name in job.estimators:
            raise UsageError(f"racing compares scores on examples, and {name!r} is a cost. Expected a metric.")
        task: Any = job.task  # a Task that may have the members of PartialTask
        if not isinstance(task, PartialTask):
            raise UsageError(
                "racing needs a task that is measured part by part, with 'order', 'evaluate_at' and 'metrics_of'. "
                "Expected the evaluator metric."
            )
        if self.bound == "exact" and output_kind(cast("Any", task)) == "numbers":
            raise UsageError("racing with 'bound: exact' needs a task with classes. Expected 'bound: paired'.")

    def start(self, job: SearchJob) -> None:
        """Take the search."""
        self.job = job
        self.task: Any = job.task  # with the members of PartialTask, as was validated
        self.sign = -1.0 if job.objectives[0].startswith("-") else 1.0
        self.metric = job.objectives[0].removeprefix("-")
        self.order = np.asarray(self.task.order(SPLIT))
        self._answers: dict[tuple[str, int], Answers] = {}  # by architecture and number of examples
        self._names: Sequence[str] = ()  # of the known architectures
        self._errors: dict[int, np.ndarray] = {}  # of guesses from these, by number of answers read

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Return the metrics, or estimates if the candidate was dropped."""
        total = len(self.order) if examples is None else min(examples, len(self.order))
        sheet = Sheet(total)
        race = self._race(candidate, total)
        places = np.arange(total) if race is None else race.places
        for count in self._rungs(total, races=race is not None):
            new = places[len(sheet.read) : count]
            sheet.add(new, self.task.evaluate_at(candidate.forward, SPLIT, self.order[new].tolist()))
            if race is not None and count < total and race.is_lost(sheet):
                estimates = race.estimates(sheet)
                return Evaluation(estimates, {}, count, sheet.tokens, broken_off=True)
        metrics = dict(self.task.metrics_of(sheet.columns()))
        if candidate.arch is not None:
            self._answers[arch_id(candidate.arch), total] = Answers(sheet.columns(), self.sign * metrics[self.metric])
        predictions = {name: values.tolist() for name, values in sheet.columns().items()}
        return Evaluation(metrics, predictions, total, sheet.tokens)

    def _race(self, candidate: Candidate, total: int) -> Race | None:
        """Return the race of a candidate; ``None`` if it is measured to the end in any case."""
        measured = candidate.measured[-MOST_KNOWN:]
        if not candidate.rivals or len(measured) < self.enough:
            return None
        known = [self._answers_of(trial.arch, total) for trial in measured]
        names = [arch_id(trial.arch) for trial in measured]
        if names != self._names:
            self._names = names
            self._errors = {}
            # Others will not be asked for again, and an answer of each network to each example takes memory.
            self._answers = dict(zip([(name, total) for name in names], known, strict=True))
        return Race(self, known, candidate.rivals)

    def _answers_of(self, arch: Arch, total: int) -> Answers:
        """Return the answers of an architecture that was measured to the end; after a resume it answers once more."""
        key = (arch_id(arch), total)
        if key not in self._answers:
            assert self.job.candidate is not None
            candidate = self.job.candidate(arch)
            result = self.task.evaluate_at(candidate.forward, SPLIT, self.order[:total].tolist())
            self.job.count(candidate, result)
            sheet = Sheet(total)
            sheet.add(np.arange(total), result)
            self._answers[key] = Answers(sheet.columns(), self.score(sheet.columns()))
        return self._answers[key]

    def _rungs(self, total: int, races: bool) -> Iterator[int]:
        """Yield the numbers of examples after which candidates are compared; the last one is all of them."""
        count = float(self.first)
        while races and math.ceil(count) < total:
            yield math.ceil(count)
            count = max(count * self.growth, math.ceil(count) + 1)
        yield total

    def errors(self, known: Sequence[Answers], count: int) -> np.ndarray:
        """Return how wrong guesses are after ``count`` answers: ``(known,)``, of each one from those of the others."""
        if count not in self._errors:
            errors = [self._error(known, number, count) for number in range(len(known))]
            self._errors[count] = np.array(errors)
        return self._errors[count]

    def _error(self, known: Sequence[Answers], number: int, count: int) -> float:
        """Return the score of one known network, less the guess after ``count`` of its answers."""
        one = known[number]
        others = [*known[:number], *known[number + 1 :]]
        order = self.reading_order(others)
        read, unread = order[:count], order[count:]
        guessed = completed(one.columns, read, guesses(others, unread))
        return one.score - self.score(guessed)

    def reading_order(self, known: Sequence[Answers]) -> np.ndarray:
        """Return ``(examples,)`` the places of all examples, those first on which known networks disagree the most."""
        return np.argsort(-self._disagreement(known), kind="stable")

    def _disagreement(self, known: Sequence[Answers]) -> np.ndarray:
        """Return ``(examples,)`` the variance over networks of being right, or of the loss if that is what counts."""
        columns = [answers.columns for answers in known]
        names = columns[0].keys()
        is_about_loss = self.metric == "loss" or output_kind(self.task) == "numbers"
        if not is_about_loss and {"label", "prediction"} <= names:
            values = np.stack([_is_right(of_network) for of_network in columns])
        elif "loss" in names:
            values = np.stack([of_network["loss"] for of_network in columns])
        else:  # of numbers only the task knows which are far apart: the examples come in the task's order
            first = next(iter(columns[0].values()))
            return np.zeros(len(first))
        variance: np.ndarray = values.astype(float).var(axis=0)
        return variance

    def score(self, columns: Mapping[str, Any]) -> float:
        """Return what the search maximises, of answers to all examples."""
        metrics: Mapping[str, float] = self.task.metrics_of(columns)
        return self.sign * metrics[self.metric]


class Race:
    """A candidate against its rivals.

    Args:
        racing: the evaluator.
        known: the answers of architectures that were measured to the end; at least one.
        rivals: what the candidate has to beat.

    Attributes:
        places: ``(examples,)`` the places of the examples in the order in which they are read.
    """

    def __init__(self, racing: Racing, known: Sequence[Answers], rivals: Sequence[Rival]) -> None:
        self.racing = racing
        self.known = known
        self.rivals = rivals
        self.places = racing.reading_order(known)

    def is_lost(self, sheet: Sheet) -> bool:
        """Tell whether the candidate has no prospects against any of its rivals."""
        if self.racing.bound == "exact":
            best_case = self.racing.score(sheet.completed(self._right_answers()))
            return all(best_case < self._needed(rival) - ROUNDING for rival in self.rivals)
        guess = self.racing.score(self._guessed(sheet))
        errors = self.racing.errors(self.known, len(sheet.read))
        deviation = float(np.sqrt(np.mean(errors**2)))
        return all(
            expected_gain(guess - self._needed(rival), deviation, len(errors)) < self.racing.gain
            for rival in self.rivals
        )

    def estimates(self, sheet: Sheet) -> dict[str, float]:
        """Return a dropped candidate's metrics, as far as its answers tell.

        The sampler is never told that it is better than those that it could not beat.
        """
        estimates = dict(self.racing.task.metrics_of(self._guessed(sheet)))
        weakest = min(self._score(rival.trial) for rival in self.rivals)
        name, sign = self.racing.metric, self.racing.sign
        estimates[name] = sign * min(sign * estimates[name], weakest)
        return estimates

    def _guessed(self, sheet: Sheet) -> Columns:
        """Return the candidate's answers, and guesses for those that were not read."""
        unread = self.places[len(sheet.read) :]
        return sheet.completed(guesses(self.known, unread))

    def _right_answers(self) -> Columns:
        """Return right answers to all examples."""
        right = dict(self.known[0].columns)
        right["prediction"] = right["label"]
        right["loss"] = np.zeros(len(right["loss"]))
        return right

    def _score(self, trial: Trial) -> float:
        """Return a trial's score; more is better."""
        return self.racing.sign * trial.metrics[self.racing.metric]

    def _needed(self, rival: Rival) -> float:
        """Return the score that beats a rival, or is near enough to it to be chosen all the same."""
        return self._score(rival.trial) - rival.tolerance


def guesses(known: Sequence[Answers], places: np.ndarray) -> Columns:
    """Return what known networks answer to the examples at some places: each network to every n-th of them, in turns.

    So the guesses make as many mistakes as these networks on average, for any metric.

    Args:
        known: the networks' answers.
        places: ``(unread,)`` places of examples.

    Returns:
        Columns for all examples, of which only those at the places mean anything.
    """
    turns = np.arange(len(places)) % len(known)
    guessed = {}
    for name, values in known[0].columns.items():
        column = values.copy()
        for turn, answers in enumerate(known):
            of_turn = places[turns == turn]
            column[of_turn] = answers.columns[name][of_turn]
        guessed[name] = column
    return guessed


def completed(columns: Columns, read: np.ndarray, unread: Columns) -> Columns:
    """Return answers with those of one network at the places that were read, and others elsewhere."""
    whole = {}
    for name, values in unread.items():
        column = _wide_enough(values, columns[name].dtype).copy()
        column[read] = columns[name][read]
        whole[name] = column
    return whole


def expected_gain(mean: float, deviation: float, freedom: int) -> float:
    """Return the expectation of max(0, x): the expected improvement (Mockus 1975), if the deviation is an estimate.

    Args:
        mean: of x.
        deviation: scale of x, 0 or more, estimated from ``freedom`` errors about 0.
        freedom: degrees of freedom of Student's t, 2 or more: (x - mean) / deviation is distributed like that.

    >>> round(expected_gain(0.0, 1.0, 10**6), 4)  # as for a normal x: 1 / sqrt(2 pi)
    0.3989
    >>> expected_gain(-0.5, 0.0, 5)
    0.0
    """
    from scipy.stats import t

    if deviation == 0:
        return max(0.0, mean)
    ratio = mean / deviation
    upper = (freedom + ratio**2) / (freedom - 1) * t.pdf(ratio, freedom)
    return float(deviation * (upper + ratio * t.cdf(ratio, freedom)))


def _is_right(columns: Columns) -> np.ndarray:
    """Return ``(examples,)`` whether predictions are the labels; with several labels for an example, all of them."""
    same = columns["prediction"] == columns["label"]
    right: np.ndarray = same.reshape(len(same), -1).all(axis=1)
    return right


def _wide_enough(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values in a type that also holds those of another type, such as longer texts."""
    return values.astype(np.promote_types(values.dtype, dtype), copy=False)
