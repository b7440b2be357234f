"""How far the outputs of architectures are from those of a saved network, for the rule ``agreement`` of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError
from nasframe.interfaces import output_kind
from nasframe.records import arch_id
from nasframe.stages.trials import Candidate, Tally

if TYPE_CHECKING:
    import torch

    from nasframe.records import Arch

SPLIT = "select"


@dataclass
class Agreement:
    """Architecture → the mean divergence of its outputs from a teacher's on ``select``; 0 if they agree.

    For classes it is ``KL(teacher ‖ candidate)``, for labels that may hold together the mean of each label's, in
    regression the mean squared difference. Each network is run once.

    Args:
        task: gives the examples.
        name: the teacher's name, for errors.
        teacher: the teacher.
        candidate: architecture → what is compared.
        tally: what the passes cost; they are made when a search has ended, so that a resume repeats all of them.
    """

    task: Any
    name: str
    teacher: Candidate
    candidate: Callable[[Arch], Candidate]
    tally: Tally = field(default_factory=Tally)
    _expected: list[torch.Tensor] = field(default_factory=list)  # the teacher's outputs, batch by batch
    _divergences: dict[str, float] = field(default_factory=dict)  # by architecture: several budgets may ask for one

    def __call__(self, arch: Arch) -> float:
        """Return the divergence of an architecture."""
        key = arch_id(arch)
        if key not in self._divergences:
            if not self._expected:
                self._expected = self._outputs(self.teacher)
            self._divergences[key] = self._divergence(self._outputs(self.candidate(arch)))
        return self._divergences[key]

    def _outputs(self, candidate: Candidate) -> list[torch.Tensor]:
        """Run a network on the split; return its outputs, in the batches and the order of the task."""
        from nasframe.nn.outputs import logits_of

        batches = []

        def recording(**inputs: torch.Tensor) -> Any:
            outputs = candidate.forward(**inputs)
            logits = logits_of(outputs, "winner: agreement")
            batches.append(logits.detach().cpu().double())
            return outputs

        result = self.task.evaluate(recording, SPLIT)
        self.tally.add(result, candidate.macs(result))
        return batches

    def _divergence(self, outputs: list[torch.Tensor]) -> float:
        """Compare a candidate's outputs with the teacher's; every example counts the same, whatever its batch."""
        total = 0.0
        count = 0
        for ours, expected in zip(outputs, self._expected, strict=True):
            if ours.shape != expected.shape:
                shapes = f"{tuple(expected.shape)} and {tuple(ours.shape)}"
                raise RunError(f"{self.name!r} and the sub-networks cannot be compared: their outputs are {shapes}.")
            total += float(self._of_examples(ours, expected).sum())
            count += len(ours)
        return total / count

    def _of_examples(self, ours: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each example, ``(batch,)``."""
        from nasframe.nn.losses import bernoulli_divergences

        kind = output_kind(self.task)
        if kind == "numbers":
            return (ours - expected).square().flatten(1).mean(1)
        if kind == "independent":
            return bernoulli_divergences(ours, expected).mean(1)
        log_p = ours.log_softmax(-1)
        log_q = expected.log_softmax(-1)
        divergences = (log_q.exp() * (log_q - log_p)).sum(-1)
        return divergences.flatten(1).mean(1) if divergences.ndim > 1 else divergences
