"""Probes of the teacher: what each of its layers knows about the task, and how the student's cells learn it.

A probe is a linear classifier on one layer of the frozen, fine-tuned teacher. :class:`AttachProbes` puts one on the
embeddings and one on each layer, a stage with :class:`FitProbes` trains them, and :class:`ProbeKD` lets the student's
states after 0, 1 … K cells learn from them. The labels are our own; README.md lists them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import ModelOutput

from nasframe import Described, families
from nasframe.errors import UsageError, listing, suggestion
from nasframe.interfaces import Modifier, OutputKind, Step, TrainJob, Work, is_categorical, output_kind
from nasframe.nn.losses import matching
from nasframe.records import Share
from nasframe.seeds import stream_seed
from nasframe.training.step import saved_model
from nasframe_adabert.supernet import AdaBertSupernet, SuperOutput, depth_gradient


@dataclass
class ProbeOutput(ModelOutput):
    """What a probed teacher returns.

    Args:
        logits: ``(batch, classes)`` of the last probe.
        probe_logits: ``(batch, probes, classes)``, from the embeddings to the last layer.
    """

    logits: torch.Tensor | None = None
    probe_logits: torch.Tensor | None = None


class ProbedTeacher(Described):
    """A frozen network with a linear probe on its embeddings and on each of its layers.

    Args:
        teacher: the network's description, see :func:`nasframe.families.describe`.
        probes: their number, one more than the network has layers.
        columns: the width of the network's hidden states.
        classes: the probes' outputs.
    """

    def __init__(self, teacher: Mapping[str, Any], probes: int, columns: int, classes: int) -> None:
        super().__init__()
        self.arguments = {"teacher": dict(teacher), "probes": probes, "columns": columns, "classes": classes}
        self.teacher = families.build(teacher).requires_grad_(False)
        self.probes = nn.ModuleList([nn.Linear(columns, classes) for _ in range(probes)])

    def describe(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.arguments)

    @property
    def config(self) -> Any:
        """The teacher's configuration, whose vocabulary and classes are the probed network's, too."""
        return self.teacher.config

    def train(self, mode: bool = True) -> ProbedTeacher:
        """Set the mode of the probes; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs: Any) -> ProbeOutput:
        """Run all probes on a batch."""
        inputs.pop("output_hidden_states", None)
        with torch.no_grad():
            hidden = self.teacher(attention_mask=attention_mask, output_hidden_states=True, **inputs).hidden_states
        features = [mean_over_tokens(hidden[0], attention_mask)]  # the embeddings have no [CLS] that knows the others
        features += [states[:, 0] for states in hidden[1:]]
        logits = []
        for probe, feature in zip(self.probes, features, strict=True):
            logits.append(probe(feature))  # (A11)
        return ProbeOutput(logits[-1], torch.stack(logits, dim=1))


def mean_over_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of hidden states ``(batch, length, width)`` over the tokens that are no padding."""
    if attention_mask is None:
        return hidden.mean(1)
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


class AttachProbes:
    """Put untrained probes on a saved network; a training stage with ``fit_probes`` follows.

    Args:
        teacher: name of the saved network, which stays as it is.
    """

    def __init__(self, teacher: str = "teacher", seed: int = 0) -> None:
        self.teacher = teacher
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return work whose network is the probed teacher.

        Raises:
            UsageError: there is no such network, or it has no hidden states.
        """
        if self.teacher not in work.models:
            hint = suggestion(self.teacher, work.models)
            raise UsageError(
                f"attach_probes.teacher: no network was saved as {self.teacher!r}. There are: "
                f"{listing(work.models)}.{hint}"
            )
        teacher: Any = work.models[self.teacher]
        layers = getattr(teacher.config, "num_hidden_layers", None)
        columns = getattr(teacher.config, "hidden_size", None)
        if not isinstance(layers, int) or not isinstance(columns, int):
            raise UsageError(
                f"attach_probes.teacher: {self.teacher!r}, {type(teacher).__name__}, has no layers of hidden states. "
                "Expected an encoder of transformers."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "probes"))
            probed = ProbedTeacher(families.describe(teacher), layers + 1, columns, teacher.config.num_labels)
        probed.teacher.load_state_dict(teacher.state_dict())
        probed.to(next(teacher.parameters()).device).eval()
        return replace(work, net=probed)


class FitProbes(Modifier):
    """Train the probes of a probed teacher: the sum of the task's loss over all of them."""

    reads_space = False

    def on_start(self, job: TrainJob) -> None:
        """Check that the network has probes."""
        if not isinstance(job.net, ProbedTeacher):
            raise UsageError(
                f"fit_probes: stage {job.stage!r} trains {type(job.net).__name__}. Expected the network that the "
                "transform attach_probes makes, and 'space: null'."
            )
        job.net.teacher.requires_grad_(False)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the sum over all probes; the loop's loss is that of the last one."""
        for logits in step.outputs.probe_logits.unbind(1)[:-1]:
            loss = loss + step.job.task.loss(ProbeOutput(logits), step.batch)  # (A12)
        net: Any = step.job.net
        # The frozen network has no backward pass, which the loop's ledger assumes.
        macs = step.passes.batch_macs(net.teacher, None, step.batch)
        if macs is not None:
            step.passes.ledger.add("student", backward_macs=-2 * macs * step.passes.share)
        return loss


class ProbeKD(Modifier):
    """Learn from the probes of the teacher's layers: ``(1 − weight) · loss + weight · Σ_k ŷ_k KD_k``.

    KD_k compares the student's outputs after 0, 1 … k cells with k + 1 probes, so that a student of any depth learns
    from the whole teacher. Which probes is tied to the drawn depth k.

    Args:
        teacher: name of the saved network with probes.
        weight: γ, the share of this term in the loss.
        average: ``confidence`` weighs the k + 1 terms of each example by the probability that their probe gives to the
            example's class, as in the paper; ``plain`` takes their mean, as the published code does.
        layers: ``spread`` compares the output after m of k cells with layer m · L / k of a teacher of L layers,
            rounded, so that the last output learns from the last layer; ``published`` with layer m · ⌊L / (k + 1)⌋.
    """

    reads_space = False

    def __init__(
        self,
        teacher: str = "probes",
        weight: Share = 0.8,
        average: Literal["confidence", "plain"] = "confidence",
        layers: Literal["spread", "published"] = "spread",
    ) -> None:
        self.teacher = teacher
        self.weight = weight
        self.average = average
        self.layers = layers
        self.net: nn.Module | None = None  # the probed teacher, once it is needed
        self.remembered: dict[int, torch.Tensor] = {}  # example → its probes' logits

    def validate(self, job: TrainJob) -> None:
        """Check the stage before any work.

        Raises:
            UsageError: its network is not the super-network of ``adabert_cells``.
        """
        if job.net is not None and not isinstance(job.net, AdaBertSupernet):
            raise UsageError(
                f"probe_kd: stage {job.stage!r} trains {type(job.net).__name__}. Expected the super-network of the "
                "space adabert_cells; kd teaches other networks."
            )

    def on_start(self, job: TrainJob) -> None:
        """Check that the probes exist, and that the teacher has a layer for every cell."""
        self.validate(job)
        if not self.weight:
            return
        teacher = saved_model(job, self.teacher)
        if not isinstance(teacher, ProbedTeacher):
            raise UsageError(
                f"probe_kd.teacher: {self.teacher!r} is {type(teacher).__name__}, without probes. Expected a network "
                "that the transform attach_probes made, trained with fit_probes."
            )
        if self.average == "confidence" and not is_categorical(job.task):
            raise UsageError("probe_kd.average: only classes of which one is true have a confidence. Expected plain.")
        net: Any = job.net
        layers = len(teacher.probes) - 1
        if self.layers == "published" and layers < net.most + 1:
            raise UsageError(
                f"probe_kd.layers: published takes every ⌊L / (k + 1)⌋th of the teacher's L = {layers} layers, which "
                f"is layer 0 for k = {net.most} cells. Expected layers: spread."
            )

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with the probes' term."""
        if not self.weight:
            return loss
        teacher = self.probe_logits(step)
        outputs: SuperOutput = step.outputs
        assert outputs.depth_logits is not None
        assert outputs.depth is not None
        kind = output_kind(step.job.task)
        losses = []
        for cells in range(outputs.depth_logits.shape[1]):
            compared = probes_for(cells, teacher.shape[1] - 1, self.layers)
            student = outputs.depth_logits[:, : cells + 1]
            losses.append(probe_loss(student, teacher[:, compared], step.batch.labels, self.average, kind))
        drawn = int(outputs.depth.argmax())
        term = losses[drawn] + depth_gradient(outputs.depth, torch.stack(losses))
        return (1 - self.weight) * loss + self.weight * term  # (A15)

    def probe_logits(self, step: Step) -> torch.Tensor:
        """Return the probes' logits of a batch, ``(batch, probes, classes)``; see the option ``teacher_cache``."""
        if step.job.options.teacher_cache != "run":
            return self._run(step)
        # The loop remembers one row of logits for each example, and a probed teacher has several.
        ids = step.batch.ids.tolist()
        if not self.remembered.keys() >= set(ids):
            self.remembered.update(zip(ids, self._run(step).cpu(), strict=True))
        return torch.stack([self.remembered[number] for number in ids]).to(step.batch.labels.device)

    @torch.no_grad()
    def _run(self, step: Step) -> torch.Tensor:
        """Run the probed teacher on a batch, and add what that costs to the ledger."""
        began = time.perf_counter()
        if self.net is None:
            self.net = saved_model(step.job, self.teacher).to(step.batch.labels.device).eval()
        logits: torch.Tensor = self.net(**step.batch.inputs).probe_logits
        macs = step.passes.batch_macs(self.net, None, step.batch)
        part = step.passes.share
        step.passes.ledger.add(
            "teacher",
            steps=1,
            examples=len(step.batch) * part,
            tokens=step.batch.tokens * part,
            forward_macs=None if macs is None else macs * part,
            seconds=time.perf_counter() - began,
        )
        return logits.float()

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered logits, whose last bits would depend on how batches are padded."""
        if not self.remembered:
            return {}
        return {"ids": torch.tensor(list(self.remembered)), "logits": torch.stack(list(self.remembered.values()))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the logits that :meth:`state_dict` returned."""
        self.remembered = {}
        if state:
            self.remembered = dict(zip(state["ids"].tolist(), state["logits"], strict=True))


def probes_for(cells: int, layers: int, rule: str) -> list[int]:
    """Return the probes that the outputs after 0, 1 … ``cells`` cells are compared with; 0 is that of the embeddings.

    Args:
        cells: k.
        layers: L, the teacher's layers.
        rule: ``spread`` or ``published``.

    >>> probes_for(3, 12, "spread"), probes_for(3, 12, "published"), probes_for(0, 12, "spread")
    ([0, 4, 8, 12], [0, 3, 6, 9], [0])
    """
    if rule == "published":
        stride = layers // (cells + 1)
        return [number * stride for number in range(cells + 1)]  # (A13)
    if cells == 0:
        return [0]
    return [round(number * layers / cells) for number in range(cells + 1)]


def probe_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, average: str, kind: OutputKind = "classes"
) -> torch.Tensor:
    """Return KD_k, the mean over a batch.

    Args:
        student: ``(batch, k + 1, classes)`` logits of the student after 0, 1 … k cells.
        teacher: ``(batch, k + 1, classes)`` logits of the probes; they get no gradient.
        labels: ``(batch,)`` classes, negative for an example without one.
        average: ``confidence`` or ``plain``.
        kind: of the task's outputs; those that are no classes are compared as :func:`nasframe.nn.losses.matching` does.
    """
    teacher = teacher.detach().float()
    student = student.float()
    if kind != "classes":
        return matching(kind, student.flatten(0, 1), teacher.flatten(0, 1))
    log_p = functional.log_softmax(student, dim=-1)
    terms = -(functional.softmax(teacher, dim=-1) * log_p).sum(-1)  # (batch, k + 1)
    if average == "plain":
        return terms.mean()
    return (confidences(teacher, labels) * terms).sum(1).mean()


def confidences(teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the weight of each probe for each example, ``(batch, probes)``; they sum to 1.

    A probe's weight is the softmax, over the probes, of the logarithm of the probability that it gives to the true
    class. Examples without a class weigh all probes alike.

    >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0986]]])
    >>> confidences(logits, torch.tensor([1])).round(decimals=2)
    tensor([[0.4000, 0.6000]])
    """
    log_p = functional.log_softmax(teacher, dim=-1)
    index = labels.clamp(min=0).view(-1, 1, 1).expand(-1, teacher.shape[1], 1)
    log_p_of_truth = log_p.gather(2, index).squeeze(2)
    weights = functional.softmax(log_p_of_truth, dim=1)  # (A14)
    return torch.where((labels >= 0).unsqueeze(1), weights, torch.full_like(weights, 1 / weights.shape[1]))
