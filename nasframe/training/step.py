"""One architecture's share of one optimiser step, as modifiers see it, and the forward passes behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from nasframe.errors import UsageError, listing, suggestion
from nasframe.interfaces import TrainJob
from nasframe.nn.outputs import logits_of
from nasframe.notices import Notify, say
from nasframe.records import Arch, Batch, Forward, LedgerEntry, arch_id, plus, sequence_length
from nasframe.training.macs import MacCounter
from nasframe.training.optim import autocast, finite_outputs
from nasframe.training.teacher_states import TeacherBatch, TeacherStates

COUNTED = frozenset({"steps", "examples", "tokens", "evaluations"})
"""Amounts that are whole numbers; sums of the processes' shares may differ from them by rounding errors."""


class Ledger:
    """Adds up the costs of a stage, by role.

    >>> ledger = Ledger()
    >>> ledger.add("student", examples=32, forward_macs=1e6)
    >>> ledger.entries()[0].examples
    32
    """

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, float | None]] = {}

    def add(self, role: str, **amounts: float | None) -> None:
        """Add amounts, named as the fields of :class:`~nasframe.records.LedgerEntry`, to a role.

        An amount of ``None`` could not be counted, and makes the role's sum unknown.
        """
        row = self.counts.setdefault(role, {})
        for name, amount in amounts.items():
            row[name] = plus(row.get(name, 0), amount)

    def seconds(self, *roles: str) -> float:
        """Return the seconds that these roles have taken so far."""
        total = 0.0
        for role in roles:
            total += self.counts.get(role, {}).get("seconds") or 0.0
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return self.counts

    def load_state_dict(self, state: Mapping[str, Mapping[str, float | None]]) -> None:
        """Go on from these sums."""
        self.counts = {role: dict(row) for role, row in state.items()}

    def entries(self) -> list[LedgerEntry]:
        """Return one entry for each role that cost something."""
        entries = []
        for role, sums in self.counts.items():
            row: dict[str, Any] = dict(sums)
            for name in COUNTED.intersection(row):
                row[name] = round(row[name])
            entries.append(LedgerEntry(role, **row))
        return entries


class Passes:
    """Runs networks for a training stage: in its precision, with the outputs its modifiers need, counted.

    Args:
        job: the stage.
        device: where networks and batches lie.
        ledger: where costs go.
        notify: told once if a forward pass cannot be counted.
    """

    def __init__(self, job: TrainJob, device: torch.device, ledger: Ledger, notify: Notify = say) -> None:
        self.job = job
        self.device = device
        self.ledger = ledger
        self.share = 1.0  # examples of the whole batch that one of this process counts for in the ledger
        needs: set[str] = set()
        for modifier in job.modifiers:
            needs.update(modifier.needs)
        self.outputs = {f"output_{name}": True for name in sorted(needs)}
        self.logits: dict[str, dict[int, torch.Tensor]] = {}  # teacher → example → logits, for teacher_cache: run
        self.states = kept_states(job, needs)
        self._counter = MacCounter(job.task, job.space, notify, f"stages.{job.stage}")
        self._teachers: dict[str, nn.Module] = {}
        self._answered_batch: Batch | None = None
        self._answers: dict[str, Any] = {}  # the teachers' outputs for that batch

    def student(self, arch: Arch | None, batch: Batch, **inputs: Any) -> Any:
        """Run the network being trained, or its sub-network ``arch``."""
        net = self.job.net
        self._count("student", net, arch, batch)
        return self._run(net, arch, {**batch.inputs, **self.outputs, **inputs})

    def teacher(self, name: str, arch: Arch | None, batch: Batch) -> Any:
        """Run a saved network on a batch once; its outputs are remembered until another batch comes."""
        # Several modifiers and several sub-networks of one step may ask for the same teacher.
        key = name if arch is None else f"{name} {arch_id(arch)}"
        if self._answered_batch is not batch:
            self._answered_batch = batch
            self._answers = {}
        if key in self._answers:
            return self._answers[key]
        # Hidden states of all examples may not fit in memory. If they are needed, and the recipe does not ask to keep
        # them, too, only the current batch is remembered.
        keeps_all_outputs = not self.outputs or self.states is not None
        if self.job.options.teacher_cache == "run" and keeps_all_outputs:
            outputs = self._remembered(key, name, arch, batch)
        else:
            outputs = self._run_teacher(name, arch, batch)
        self._answers[key] = outputs
        return outputs

    def evaluated(self, arch: Arch | None, split: str, examples: int | None = None) -> Mapping[str, float]:
        """Measure the network, or its sub-network ``arch``, on a split; all NaN if its outputs are not finite.

        Args:
            arch: the sub-network.
            split: ``select`` or ``dev``.
            examples: the size of a fixed subset of it; ``None`` for all of it.
        """
        net = self.job.net
        finite = True

        def forward(**inputs: torch.Tensor) -> Any:
            nonlocal finite
            inputs_on_device = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            outputs = self._run(net, arch, inputs_on_device)
            finite = finite and finite_outputs(outputs)
            return outputs

        began = time.perf_counter()
        net.eval()
        result = self.job.task.evaluate(forward, split, examples)
        net.train()
        macs = self._counter.evaluation(net, arch, result)
        self.ledger.add(
            "evaluation",
            evaluations=1,
            examples=result.examples,
            tokens=result.tokens,
            forward_macs=macs,
            seconds=time.perf_counter() - began,
        )
        if finite:
            return result.metrics
        return dict.fromkeys(result.metrics, math.nan)  # NaN has a largest entry too, and so a class

    def batch_macs(self, net: nn.Module, arch: Arch | None, batch: Batch) -> float | None:
        """Count the multiply-adds of one forward pass over a batch; ``None`` if they cannot be counted."""
        return self._counter.macs(net, arch, len(batch), sequence_length(batch.inputs))

    def macs(self, net: nn.Module, arch: Arch | None, batch: int, length: int) -> float | None:
        """Count the multiply-adds of one forward pass over ``(batch, length)`` tokens, as :meth:`batch_macs` does."""
        return self._counter.macs(net, arch, batch, length)

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered logits: a resumed run pads batches elsewhere and would not get the same last bits."""
        state: dict[str, Any] = {}
        for key, logits_by_id in self.logits.items():
            ids = torch.tensor(list(logits_by_id))
            state[key] = {"ids": ids, "logits": torch.stack(list(logits_by_id.values()))}
        if self.states is not None:
            return {"logits": state, "states": self.states.state_dict()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the logits that ``state_dict`` returned; teachers' hidden states are computed again."""
        if self.states is not None:
            # Not counted: the stage paid for these passes before it was interrupted.
            self.states.load_state_dict(state["states"], lambda run: self._outputs(run).hidden_states)
            state = state["logits"]
        self.logits = {}
        for key, kept in state.items():
            self.logits[key] = dict(zip(kept["ids"].tolist(), kept["logits"], strict=True))

    def _remembered(self, key: str, name: str, arch: Arch | None, batch: Batch) -> Any:
        """Return a teacher's outputs for a batch; examples it has not seen yet are run and kept for the whole stage."""
        logits_by_id = self.logits.setdefault(key, {})
        ids = batch.ids.tolist()
        if not logits_by_id.keys() >= set(ids):
            fresh = self._run_teacher(name, arch, batch)
            logits = logits_of(fresh, f"teacher_cache: run, of the teacher {name!r}")
            logits_by_id.update(zip(ids, logits.cpu(), strict=True))
            if self.states is not None:
                self.states.keep(TeacherBatch(key, name, arch, batch), fresh.hidden_states)
        logits = torch.stack([logits_by_id[number] for number in ids])
        # The states, too, are read back on the first use, so that every epoch learns from the same numbers.
        hidden_states = None if self.states is None else self.states.of(key, batch)
        return SequenceClassifierOutput(logits=logits.to(self.device), hidden_states=hidden_states)

    @torch.no_grad()
    def _run_teacher(self, name: str, arch: Arch | None, batch: Batch) -> Any:
        """Run a saved network on a batch, and count what that costs."""
        began = time.perf_counter()
        net = self._loaded(name)
        self._count("teacher", net, arch, batch)
        outputs = self._run(net, arch, {**batch.inputs, **self.outputs})
        self.ledger.add("teacher", steps=1, seconds=time.perf_counter() - began)
        return outputs

    @torch.no_grad()
    def _outputs(self, run: TeacherBatch) -> Any:
        """Run a teacher on a batch again, as a resume does."""
        inputs = run.batch.to(self.device).inputs
        return self._run(self._loaded(run.teacher), run.arch, {**inputs, **self.outputs})

    def _loaded(self, name: str) -> nn.Module:
        if name not in self._teachers:  # only now, so that a teacher that nobody asks for takes no memory
            self._teachers[name] = saved_model(self.job, name).to(self.device).eval()
        return self._teachers[name]

    def _run(self, net: nn.Module, arch: Arch | None, inputs: Mapping[str, Any]) -> Any:
        forward: Forward = net
        if arch is not None and self.job.space is not None:
            forward = self.job.space.view(net, arch)
        with autocast(self.job.options.precision, self.device):
            return forward(**inputs)

    def _count(self, role: str, net: nn.Module, arch: Arch | None, batch: Batch) -> None:
        """Add a forward pass to the ledger, and the backward pass that follows it if gradients are on."""
        macs = self.batch_macs(net, arch, batch)
        backward_macs: float | None = 0.0
        if macs is not None:
            macs *= self.share
        if torch.is_grad_enabled():
            # One product for the gradient of the inputs, one for that of the weights.
            backward_macs = None if macs is None else 2 * macs
        self.ledger.add(
            role,
            examples=len(batch) * self.share,
            tokens=batch.tokens * self.share,
            forward_macs=macs,
            backward_macs=backward_macs,
        )


def kept_states(job: TrainJob, needs: Set[str]) -> TeacherStates | None:
    """Return where a stage keeps its teachers' hidden states, ``None`` if it keeps none.

    Args:
        job: the stage.
        needs: the outputs that its modifiers need.

    Raises:
        UsageError: hidden states are to be kept, but a modifier needs other outputs.
    """
    options = job.options
    if options.teacher_cache != "run" or options.teacher_states is None or not needs:
        return None
    others = needs - {"hidden_states"}
    if others:
        raise UsageError(
            f"stage {job.stage!r}: teacher_states keeps hidden states, but a modifier also needs {listing(others)}. "
            "Expected no teacher_states."
        )
    # Next to the checkpoint, in the run directory: the system's folder for temporary files may itself be memory.
    checkpoint_path = getattr(job.checkpoint, "path", None)
    folder = None if checkpoint_path is None else checkpoint_path.parent
    return TeacherStates(options.teacher_states, folder)


def saved_model(job: TrainJob, name: str) -> nn.Module:
    """Return a saved network of the run.

    Raises:
        UsageError: none was saved under that name.
    """
    if name not in job.models:
        raise UsageError(
            f"stage {job.stage!r}: no network was saved as {name!r}. Expected one that a stage names with save_as: "
            f"{listing(job.models)}.{suggestion(name, job.models)}"
        )
    return job.models[name]


@dataclass
class Step:
    """The step of the built-in loops; :class:`nasframe.interfaces.Step` describes its fields."""

    job: TrainJob
    passes: Passes
    index: int
    total: int
    lr: float
    batch: Batch
    arch: Arch | None
    optimizer: torch.optim.Optimizer
    outputs: Any = None
    skipped: bool = False

    def forward(self, arch: Arch | None = None, batch: Batch | None = None, **inputs: Any) -> Any:
        """Run the network once more; see :class:`nasframe.interfaces.Step`."""
        if arch is None:
            arch = self.arch
        return self.passes.student(arch, batch or self.batch, **inputs)

    def teacher(self, name: str = "teacher", arch: Arch | None = None) -> Any:
        """Run a saved network on this batch; see :class:`nasframe.interfaces.Step`."""
        return self.passes.teacher(name, arch, self.batch)
