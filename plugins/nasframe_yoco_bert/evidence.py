"""Modifiers that tell a sampler which shapes of equal cost are better: by the network's importance, and by probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob, output_kind, sizes_of
from nasframe.processes import from_leader, leader
from nasframe.records import Arch, Batch, Count, Positive, Size
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    import torch

    from nasframe.interfaces import Step
    from nasframe.nn.importance import Scores


@runtime_checkable
class ProbedSampler(Protocol):
    """A sampler that learns from networks compared on the same examples."""

    def probe(self) -> list[Arch]:
        """Return the networks to compare next, none if there is nothing to learn now."""
        ...

    def hear(self, archs: Sequence[Arch], losses: Sequence[float]) -> None:
        """Take the losses of the networks that :meth:`probe` returned; lower is better."""
        ...


@runtime_checkable
class PriorSampler(Protocol):
    """A sampler that can begin with a preference."""

    def set_prior(self, mass: Callable[[Arch], float]) -> None:
        """Take a function from an architecture to how much of the network's importance it keeps."""
        ...


class ImportancePrior(Modifier):
    """Tell the sampler, before the first step, how much of the network's importance each architecture keeps.

    The importance of an architecture is the sum over the heads and neurons that it keeps: the first ones of each kept
    layer, so the network should have been sorted by ``transform: rewire``.

    Args:
        score: ``taylor``, ``fisher`` or ``magnitude``, as in ``rewire``.
        batches: training batches that the scores are averaged over. They count as training compute.
        batch_size: examples in each.
    """

    reads_space = False

    def __init__(
        self,
        score: Literal["taylor", "fisher", "magnitude"] = "taylor",
        batches: Count = 8,
        batch_size: Size = 32,
    ) -> None:
        self.score = score
        self.batches = batches
        self.batch_size = batch_size
        self.uncounted: list[Batch] = []  # batches that the ledger does not have yet

    def on_start(self, job: TrainJob) -> None:
        """Measure the importance, and pass it on.

        Raises:
            UsageError: the stage's sampler takes no prior.
        """
        from nasframe.nn import importance
        from nasframe.nn.blueprint import blueprint

        _require(job, PriorSampler, "importance_prior", "set_prior")
        if self.score == "magnitude":
            scores = importance.magnitude(job.net)
        else:
            data = job.task.train_batches(stream_seed(job.seed, "data", job.stage, "prior"), 0, self.batch_size)
            device = next(job.net.parameters()).device
            batches = [batch.to(device) for batch in islice(data, self.batches)]
            scores = getattr(importance, self.score)(job.net, batches, job.task.loss)
            self.uncounted = batches
        kept = _Kept(scores, blueprint(job.net).get("group", 1))
        sampler: Any = job.sampler
        sampler.set_prior(lambda arch: kept.mass(sizes_of(job.space, arch) or {}))

    def on_update(self, step: Step) -> None:
        """Add the cost of the scores to the ledger, once."""
        for batch in self.uncounted:
            macs = step.passes.batch_macs(step.job.net, None, batch)
            backward_macs = None if macs is None else 2 * macs
            step.passes.ledger.add("importance", forward_macs=macs, backward_macs=backward_macs, examples=len(batch))
        self.uncounted = []

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the prior is part of the sampler's state, and a checkpoint comes after the first step."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Do not count the scores again; the ledger of the checkpoint has them."""
        self.uncounted = []


class _Kept:
    """Sums of importance over the first heads and neurons of each layer.

    Args:
        scores: of each head, or of each group of query heads, and of each neuron.
        group: query heads in a group.
    """

    def __init__(self, scores: Scores, group: int = 1) -> None:
        self.sums: dict[str, list[float]] = {}
        for unit, layers in scores.items():
            for layer, values in layers.items():
                if unit == "heads":  # sizes count query heads, each of which has its part of the group's score
                    values = values.repeat_interleave(group) / group
                self.sums[f"{unit}.{layer}"] = [0.0, *values.double().cumsum(0).tolist()]

    def mass(self, sizes: Arch) -> float:
        """Return the importance of what a sub-network of these sizes keeps."""
        total = 0.0
        for layer in sizes["layers"]:
            for unit in ("heads", "ffn"):
                name = f"{unit}.{layer}"
                total += self.sums[name][sizes.get(name, -1)]
        return total


class Probes(Modifier):
    """From time to time, compare sub-networks of one cost on the same training examples, and tell the sampler.

    A probe runs the networks that the sampler wants to compare, forward only and without dropout, on the examples of
    the last steps. Its loss is the divergence of the network's outputs from the teacher's, in regression their squared
    difference. The teacher's outputs on these examples are at hand if the stage distils with ``teacher_cache: run``.

    Args:
        teacher: name of the saved teacher.
        share: multiply-adds of probes as a share of those of the training steps, while the sampler learns.
        examples: examples of a probe, at least; whole batches are used.
    """

    reads_space = False

    def __init__(self, teacher: str = "teacher", share: Positive = 0.25, examples: Size = 64) -> None:
        self.teacher = teacher
        self.share = share
        self.examples = examples
        self.credit = 0.0  # multiply-adds that probes may spend
        self.batches: list[Batch] = []  # of the last steps

    def on_start(self, job: TrainJob) -> None:
        """Check, before any work, that there is a teacher, and a sampler that learns from probes.

        Raises:
            UsageError: one of them is missing.
        """
        from nasframe.training.step import saved_model

        saved_model(job, self.teacher)
        _require(job, ProbedSampler, "probes", "probe")

    def on_update(self, step: Step) -> None:
        """Keep the batch, and make a probe when it is due."""
        self.credit += 3 * self.share * self._effort(step, step.arch, step.batch)
        self.batches.append(step.batch)
        while sum(len(batch) for batch in self.batches[1:]) >= self.examples:
            self.batches.pop(0)
        if self.credit > 0 and sum(len(batch) for batch in self.batches) >= self.examples:
            self._probe(step)

    def _probe(self, step: Step) -> None:
        import torch

        sampler: Any = step.job.sampler
        # As with ask and tell, only the first process uses its sampler.
        archs = from_leader(sampler.probe() if leader() else [])
        if not archs:
            self.credit = 0.0  # time in which nothing is to be learned must not be made up for later
            return
        net = step.job.net
        net.eval()
        losses = []
        with torch.no_grad():
            for arch in archs:
                losses.append(self._divergence(step, arch))
        net.train()
        means = step.job.reduce(torch.stack(losses)).tolist()
        if leader():
            sampler.hear(archs, means)
        step.job.log(step.index, {"probe_spread": max(means) - min(means)})

    def _divergence(self, step: Step, arch: Arch) -> torch.Tensor:
        """Return the mean divergence of a sub-network from the teacher over the kept batches."""
        from nasframe.nn.losses import matching
        from nasframe.nn.outputs import logits_of

        total: Any = 0.0
        count = 0
        for batch in self.batches:
            student = logits_of(step.forward(arch, batch), "probes")
            teacher = logits_of(step.passes.teacher(self.teacher, None, batch), f"probes: teacher {self.teacher!r}")
            divergence = matching(output_kind(step.job.task), student, teacher)  # (Y18)
            total = total + divergence * len(batch)
            count += len(batch)
            self.credit -= self._effort(step, arch, batch)
        return total / count

    def _effort(self, step: Step, arch: Arch | None, batch: Batch) -> float:
        """Return the multiply-adds of a forward pass; if no pass of this network can be counted, its examples."""
        macs: float | None = step.passes.batch_macs(step.job.net, arch, batch)
        return float(len(batch)) if macs is None else macs

    def state_dict(self) -> dict[str, Any]:
        """Return the multiply-adds left and the kept batches."""
        return {"credit": self.credit, "batches": [vars(batch) for batch in self.batches]}

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        self.credit = state["credit"]
        self.batches = [Batch(**kept) for kept in state["batches"]]


def _require(job: TrainJob, protocol: type, modifier: str, method: str) -> None:
    """Refuse a stage whose sampler does not have what a modifier needs."""
    if not isinstance(job.sampler, protocol):
        raise UsageError(
            f"stage {job.stage!r}: modifier {modifier!r} needs a sampler with {method}(), as 'banded_sng' has. "
            f"Got {'no sampler' if job.sampler is None else type(job.sampler).__name__}."
        )
