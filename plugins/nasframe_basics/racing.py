"""Evaluator ``racing``: few examples first, more for those that may still win.

Races over examples are those of Maron and Moore (Hoeffding Races, NeurIPS 1993): a model is dropped as soon as it can
no longer be the best. Candidates are compared with the best one so far on the *same* examples (the blocking of Moore
and Lee, Efficient Algorithms for Minimizing Cross Validation Error, ICML 1994), because sub-networks of one network
make largely the same mistakes: their difference is known from few examples, even when either score is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import numpy as np
from annotated_types import Gt, Le

from nasframe.errors import UsageError
from nasframe.interfaces import Candidate, PartialTask, Rival, SearchJob, output_kind
from nasframe.records import Arch, Count, Evaluation, MetricFormat, Positive, arch_id
from nasframe_basics.evaluators import led_by

SPLIT = "select"
BLOCKS = 20
"""Groups that examples are divided into for the jackknife."""
ROUNDING = 1e-12
"""Difference of scores that floating point alone may cause."""

Columns = dict[str, list[Any]]
"""Rows of predictions by column, as :class:`nasframe.interfaces.PartialTask` gives them."""


@dataclass
class Rows:
    """What a network answered to the first examples of the order.

    Args:
        columns: its predictions.
        count: the number of examples.
        tokens: token positions that went through the network.
    """

    columns: Columns = field(default_factory=dict)
    count: int = 0
    tokens: int = 0

    def add(self, part: Evaluation) -> None:
        """Add the answers to some more examples."""
        for name, values in part.predictions.items():
            self.columns.setdefault(name, []).extend(values)
        self.count += part.examples
        self.tokens += part.tokens

    def first(self, count: int) -> Columns:
        """Return the answers to the first ``count`` examples."""
        return {name: values[:count] for name, values in self.columns.items()}

    def after(self, count: int, total: int) -> Columns:
        """Return the answers to the examples from ``count`` up to ``total``."""
        return {name: values[count:total] for name, values in self.columns.items()}


class Racing:
    """Measure the task's metrics on more and more of ``select``, until the architecture can no longer win.

    After each part, the architecture is compared with the best one so far under every budget that it meets. If it is
    behind all of them, it is dropped. The sampler then gets an estimate: the score of the best one, less the difference
    on the examples that both were measured on. Only architectures that were measured to the end can win. The first
    metric among the objectives decides, and a race needs to have one objective only.

    Args:
        bound: ``paired`` drops an architecture if it is behind the best one by more than ``errors`` standard errors of
            their difference on the same examples, which leaves a small chance of dropping a winner. ``exact`` drops it
            if right answers to all other examples would not be enough; the winner is then the same as without a race,
            but less is saved. It is for tasks with classes, and for metrics that no right answer makes worse.
        start: examples before the first comparison.
        growth: by which factor the examples grow from one comparison to the next.
        errors: how many standard errors behind is too far, for ``paired``.
    """

    def __init__(
        self,
        bound: Literal["paired", "exact"] = "paired",
        start: Count = 32,
        growth: Annotated[float, Gt(1), Le(100)] = 1.5,
        errors: Positive = 2.5,
    ) -> None:
        self.bound = bound
        self.first = start
        self.growth = growth
        self.errors = errors

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
        self.order: list[int] = list(self.task.order(SPLIT))
        self._known: dict[str, Rows] = {}  # by architecture: of those that were measured to the end
        self._blocks: dict[tuple[str, int], np.ndarray] = {}  # by rival and number of examples

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Return the metrics, or estimates if the candidate was dropped."""
        total = len(self.order) if examples is None else min(examples, len(self.order))
        rows = Rows()
        for count in self._rungs(total, races=bool(candidate.rivals)):
            part = self.task.evaluate_at(candidate.forward, SPLIT, self.order[rows.count : count])
            rows.add(part)
            if count < total and self._is_beaten(rows, candidate.rivals, total):
                estimates = self._estimates(rows, candidate.rivals, total)
                return Evaluation(estimates, rows.columns, rows.count, rows.tokens, broken_off=True)
        if candidate.arch is not None:
            self._known[arch_id(candidate.arch)] = rows
        return Evaluation(self.task.metrics_of(rows.columns), rows.columns, rows.count, rows.tokens)

    def _rungs(self, total: int, races: bool) -> Iterator[int]:
        """Yield the numbers of examples after which candidates are compared; the last one is all of them."""
        count = float(self.first)
        while races and math.ceil(count) < total:
            yield math.ceil(count)
            count = max(count * self.growth, math.ceil(count) + 1)
        yield total

    def _is_beaten(self, rows: Rows, rivals: Sequence[Rival], total: int) -> bool:
        """Tell whether a candidate can no longer win against any of its rivals."""
        is_beaten_by = self._is_out_of_reach if self.bound == "exact" else self._is_behind
        return all(is_beaten_by(rows, rival, total) for rival in rivals)

    def _is_out_of_reach(self, rows: Rows, rival: Rival, total: int) -> bool:
        """Tell whether right answers to all examples that are left would not bring a candidate up to a rival."""
        best_case = {name: list(values) for name, values in rows.columns.items()}
        left = self._rows_of(rival.trial.arch, total).after(rows.count, total)
        best_case["label"] += left["label"]
        best_case["prediction"] += left["label"]
        best_case["loss"] += [0.0] * len(left["label"])
        best_case["id"] += left["id"]
        needed = self.sign * rival.trial.metrics[self.metric] - rival.tolerance - ROUNDING
        return self._score(best_case) < needed

    def _is_behind(self, rows: Rows, rival: Rival, total: int) -> bool:
        """Tell whether a candidate is behind a rival by more than chance explains, on the examples that both saw."""
        blocks = min(BLOCKS, rows.count)
        difference = self._score(rows.columns) - self._score(self._rows_of(rival.trial.arch, total).first(rows.count))
        if difference >= 0 or blocks < 2:
            return False
        # The jackknife with groups left out (Quenouille 1956; Tukey 1958), which needs no formula for the metric.
        differences = self._without_blocks(rows.columns, blocks) - self._of_rival(rival.trial.arch, rows.count, total)
        variance = (blocks - 1) / blocks * float(np.sum((differences - differences.mean()) ** 2))
        # Examples are drawn without replacement: when all have been seen, no error is left.
        variance *= 1 - rows.count / total
        return difference + self.errors * math.sqrt(variance) < -rival.tolerance

    def _without_blocks(self, columns: Columns, blocks: int) -> np.ndarray:
        """Return ``(blocks,)`` the scores without each of some groups of examples."""
        return np.array([self._score(_without(columns, block, blocks)) for block in range(blocks)])

    def _of_rival(self, arch: Arch, count: int, total: int) -> np.ndarray:
        """Return a rival's scores on its first examples without each group; many candidates are compared with it."""
        key = (arch_id(arch), count)
        if key not in self._blocks:
            columns = self._rows_of(arch, total).first(count)
            self._blocks[key] = self._without_blocks(columns, min(BLOCKS, count))
        return self._blocks[key]

    def _estimates(self, rows: Rows, rivals: Sequence[Rival], total: int) -> dict[str, float]:
        """Return a dropped candidate's metrics, as far as its examples tell: a rival's, and the difference from it.

        The difference on common examples is much less uncertain than the score on few examples, and it keeps a dropped
        candidate below those that it could not beat.
        """
        weakest = min(rivals, key=lambda rival: self.sign * rival.trial.metrics[self.metric]).trial
        ours = self.task.metrics_of(rows.columns)
        theirs = self.task.metrics_of(self._rows_of(weakest.arch, total).first(rows.count))
        estimates = {}
        for name, value in ours.items():
            estimates[name] = weakest.metrics[name] + value - theirs[name]
        return estimates

    def _rows_of(self, arch: Arch, total: int) -> Rows:
        """Return the answers of a rival; after a resume it has to answer once more."""
        known = self._known.get(arch_id(arch))
        if known is None or known.count < total:
            assert self.job.candidate is not None
            candidate = self.job.candidate(arch)
            result = self.task.evaluate_at(candidate.forward, SPLIT, self.order[:total])
            self.job.count(candidate, result)
            known = Rows()
            known.add(result)
            self._known[arch_id(arch)] = known
        return known

    def _score(self, columns: Mapping[str, Sequence[Any]]) -> float:
        """Return what the search maximises, on some rows."""
        metrics: Mapping[str, float] = self.task.metrics_of(columns)
        return self.sign * metrics[self.metric]


def _without(columns: Columns, block: int, blocks: int) -> Columns:
    """Return rows without every ``blocks``-th one, from ``block`` on.

    >>> _without({"id": [0, 1, 2, 3, 4]}, 1, 2)
    {'id': [0, 2, 4]}
    """
    kept: Columns = {}
    for name, values in columns.items():
        kept[name] = [value for number, value in enumerate(values) if number % blocks != block]
    return kept
