"""Evaluators that measure on ``select``: the task's metrics, its loss, or the agreement with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import Candidate, SearchJob, output_kind
from nasframe.measures import loss_fault
from nasframe.records import Evaluation, MetricFormat

if TYPE_CHECKING:
    import torch

SPLIT = "select"
DIVERGENCE = "divergence"


def led_by(first: str, of_task: Mapping[str, MetricFormat]) -> dict[str, MetricFormat]:
    """Return the task's metrics with one of them first; that one reads as a plain number if the task does not say how.

    >>> list(led_by("f1", {"accuracy": MetricFormat(), "f1": MetricFormat()}))
    ['f1', 'accuracy']
    """
    formats = {first: of_task.get(first, MetricFormat())}
    return formats | {name: form for name, form in of_task.items() if name != first}


class Metric:
    """Measure the task's metrics on ``select``, and score by the primary one.

    This is the default. ``objectives`` may name another metric of the task.

    >>> list(Metric().metrics("accuracy", {"loss": MetricFormat(), "accuracy": MetricFormat(percent=True)}))
    ['accuracy', 'loss']
    """

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the task's metrics, the primary one first."""
        return led_by(primary, of_task)

    def start(self, job: SearchJob) -> None:
        """Take the task."""
        self.task = job.task

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Return the task's measurement."""
        return self.task.evaluate(candidate.forward, SPLIT, examples)


class Loss(Metric):
    """Measure the task's metrics on ``select``, and score by the loss.

    On few examples many sub-networks have the same number of right answers, while the loss still tells them apart.

    >>> losses = {"accuracy": MetricFormat(percent=True), "loss": MetricFormat(higher_is_better=False)}
    >>> list(Loss().metrics("accuracy", losses))
    ['loss', 'accuracy']
    """

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the task's metrics, the loss first.

        Raises:
            UsageError: the task measures no loss on ``select``.
        """
        if not of_task:  # the task does not say what it measures
            return {"loss": MetricFormat(higher_is_better=False), primary: MetricFormat()}
        fault = loss_fault(of_task)
        if fault:
            raise UsageError(f"the evaluator {fault}")
        return led_by("loss", of_task)


class Agreement:
    """Compare the outputs on ``select`` with those of a teacher, and score by the mean divergence; 0 if they agree.

    For classes it is ``KL(teacher ‖ candidate)``, for labels that may hold together the mean of each label's, in
    regression the mean squared difference. The task's metrics are measured, too.

    Args:
        teacher: the saved network to compare with.
    """

    def __init__(self, teacher: str = "teacher") -> None:
        self.teacher = teacher
        self._expected: dict[int | None, list[torch.Tensor]] = {}  # number of examples → the teacher's outputs

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the divergence, then the task's metrics."""
        return {DIVERGENCE: MetricFormat(higher_is_better=False), **led_by(primary, of_task)}

    def start(self, job: SearchJob) -> None:
        """Take the search."""
        self.job = job
        self._expected.clear()

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Return the divergence and the task's metrics."""
        assert self.job.saved is not None
        if examples not in self._expected:
            teacher = self.job.saved(self.teacher)
            outputs, result = self._run(teacher, examples)
            self.job.count(teacher, result)
            self._expected[examples] = outputs
        outputs, result = self._run(candidate, examples)
        divergence = self._divergence(outputs, self._expected[examples])
        return replace(result, metrics={DIVERGENCE: divergence, **result.metrics})

    def _run(self, candidate: Candidate, examples: int | None) -> tuple[list[torch.Tensor], Evaluation]:
        """Run a network on the split; return its outputs, in the batches and the order of the task."""
        from nasframe.nn.outputs import logits_of

        batches = []

        def recording(**inputs: torch.Tensor) -> Any:
            outputs = candidate.forward(**inputs)
            logits = logits_of(outputs, "agreement")
            batches.append(logits.detach().cpu().double())
            return outputs

        result = self.job.task.evaluate(recording, SPLIT, examples)
        return batches, result

    def _divergence(self, outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
        """Compare a candidate's outputs with the teacher's; every example counts the same, whatever its batch."""
        total = 0.0
        count = 0
        for ours, theirs in zip(outputs, expected, strict=True):
            if ours.shape != theirs.shape:
                shapes = f"{tuple(theirs.shape)} and {tuple(ours.shape)}"
                raise RunError(f"{self.teacher!r} and the sub-networks cannot be compared: their outputs are {shapes}.")
            total += float(self._of_examples(ours, theirs).sum())
            count += len(ours)
        return total / count

    def _of_examples(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each example, ``(batch,)``."""
        from nasframe.nn.losses import bernoulli_divergences

        kind = output_kind(self.job.task)
        if kind == "numbers":
            return (ours - theirs).square().flatten(1).mean(1)
        if kind == "independent":
            return bernoulli_divergences(ours, theirs).mean(1)
        log_p = ours.log_softmax(-1)
        log_q = theirs.log_softmax(-1)
        divergences = (log_q.exp() * (log_q - log_p)).sum(-1)
        return divergences.flatten(1).mean(1) if divergences.ndim > 1 else divergences
