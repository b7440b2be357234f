"""Bi-branch weight sharing of AutoBERT-Zero (arXiv 2107.07445): children inherit shared weights, the best give back.

A round trains some children one after the other. Each begins with the shared weights, takes the branch of each layer
that it uses, and is measured on ``select`` when its steps are over. The best of a round write what they changed back.
Which weights a child uses is the space's business: with ``expression_graphs``, the maps of the attention whatever the
formula is, or the middle of the largest kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.measures import score_of
from nasframe.records import Arch, Count, Trial
from nasframe.training.selection import last_weights


class BIWS(Modifier):
    """Train children from shared weights, and write the best of each round back.

    The stage's sampler is ``children``: its ``steps`` say how long a child is trained, and it passes the scores of
    children on ``select`` to the sampler inside it. After the last step the network has the shared weights. A child
    whose steps were cut short by the end of the stage is measured as it is.

    Args:
        children: children of a round.
        keep: how many of the best of a round write back; where two changed the same weight, the better one wins.
        examples: examples of ``select`` that a child is measured on; ``null`` takes all.
    """

    reads_space = False

    def __init__(self, children: Count = 4, keep: Count = 1, examples: Count | None = None) -> None:
        if keep > children:
            raise UsageError(f"biws.keep: {keep} of {children} children. Expected at most {children}.")
        self.children = children
        self.keep = keep
        self.examples = examples
        self.shared: dict[str, torch.Tensor] = {}
        self.child = 0  # the number of the child that is being trained, from 1
        self.arch: Arch | None = None
        self.measured = 0  # children of this round whose steps are over
        self.best: list[tuple[float, dict[str, torch.Tensor]]] = []  # score and changed tensors, the worst first

    def validate(self, job: TrainJob) -> None:
        """Refuse stages without children.

        Raises:
            UsageError: the sampler does not stay with its proposals, several are asked for in a step, or weights of an
                earlier step may be kept.
        """
        if not _stays(job.sampler):
            raise UsageError(
                f"biws: stage {job.stage!r}: its sampler proposes another architecture in each step. Expected "
                "sampler: {use: children, inner: op_priority, steps: 40}."
            )
        if job.options.archs_per_step != 1:
            raise UsageError(f"biws: stage {job.stage!r}: archs_per_step: {job.options.archs_per_step}. Expected 1.")
        last_weights(job, "biws")

    def on_start(self, job: TrainJob) -> None:
        """Remember the shared weights."""
        self.validate(job)
        self.shared = _copied(job.net)
        self.child = 0
        self.arch = None
        self.measured = 0
        self.best = []

    def on_batch(self, step: Any) -> None:
        """When another child begins, measure the one before, and give the network the shared weights again."""
        started = step.job.sampler.started
        if started == self.child:
            return
        if self.arch is not None:
            self.finish_child(step)
        self.child = started
        self.arch = step.arch
        step.optimizer.state.clear()  # a child does not inherit the moments of another one

    def on_update(self, step: Any) -> None:
        """After the last step, measure the last child and end its round."""
        if step.index + 1 == step.total and self.arch is not None:
            self.finish_child(step)
            self.end_round(step.job.net)

    def on_finish(self, job: TrainJob) -> None:
        """Leave the shared weights; a child that nothing followed, because the sampler had no other, is dropped."""
        self.end_round(job.net)
        self.shared = {}

    def finish_child(self, step: Any) -> None:
        """Measure a child, tell the sampler, and keep what it changed if it is among the best of its round."""
        job = step.job
        assert self.arch is not None
        metrics = step.passes.evaluated(self.arch, "select", self.examples)
        score = score_of(job.task, metrics)
        trial = Trial(self.arch, score, metrics=dict(metrics), origin="train", examples=self.examples)
        job.sampler.tell([trial])
        job.log(step.index, {"child_score": score})
        if math.isfinite(score):
            self.best.append((score, _changes(job.net, self.shared)))
            self.best.sort(key=lambda candidate: candidate[0])
            self.best = self.best[-self.keep :]
        job.net.load_state_dict(self.shared)
        self.arch = None
        self.measured += 1
        if self.measured == self.children:
            self.end_round(job.net)

    @torch.no_grad()
    def end_round(self, net: torch.nn.Module) -> None:
        """Write the best children of a round back."""
        before = {name: tensor.clone() for name, tensor in self.shared.items()}
        for _, changes in self.best:  # the best last, so that it wins
            for name, tensor in changes.items():
                is_changed = tensor != before[name]
                self.shared[name] = torch.where(is_changed, tensor, self.shared[name])  # (Z9)
        net.load_state_dict(self.shared)
        self.best = []
        self.measured = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the shared weights, the child, and the best of its round."""
        best = [{"score": score, "changes": dict(changes)} for score, changes in self.best]
        return {
            "shared": dict(self.shared),
            "child": self.child,
            "arch": None if self.arch is None else dict(self.arch),
            "measured": self.measured,
            "best": best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        if state["shared"]:  # a finished stage has none
            self.shared = dict(state["shared"])
        self.child = state["child"]
        self.arch = state["arch"]
        self.measured = state["measured"]
        self.best = [(entry["score"], dict(entry["changes"])) for entry in state["best"]]


def _stays(sampler: Any) -> bool:
    """Tell whether a sampler stays with each of its proposals for some steps, and counts them.

    Args:
        sampler: the sampler; before a run what the recipe says of it.
    """
    if not isinstance(sampler, str | Mapping):
        return hasattr(sampler, "started")
    if sampler == "shared":  # the recipe's own, which the stage will have
        return True
    name, _ = registry.use_of(sampler)
    return hasattr(registry.find("sampler", name).load(), "started")


def _copied(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a network's tensors."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def _changes(net: torch.nn.Module, shared: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of the tensors that differ from the shared ones."""
    changes = {}
    for name, tensor in net.state_dict().items():
        if not torch.equal(tensor, shared[name]):
            changes[name] = tensor.detach().clone()
    return changes
