"""The training loop, in the open: archs, forward passes, losses, one optimiser step, what is told and what is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from nasframe.errors import DivergedError, RunError, UsageError
from nasframe.interfaces import TrainJob, TrainResult, start_sampler
from nasframe.notices import Notify
from nasframe.processes import processes
from nasframe.records import Arch, Batch, Trial
from nasframe.seeds import stream_seed
from nasframe.training import optim
from nasframe.training.batches import Feed
from nasframe.training.checkpoints import Checkpoints
from nasframe.training.selection import Selection, mean_metrics, measured_archs
from nasframe.training.step import Ledger, Passes, Step

PATIENCE = 20  # steps in a row without a finite loss and gradient before training is called diverged
POINTS = 200  # of the loss curve


def fit(job: TrainJob, notify: Notify) -> TrainResult:
    """Train ``job.net`` in place, from its checkpoint if there is one; see :class:`nasframe_basics.loop.Loop`.

    Args:
        job: the stage.
        notify: hears what a user would not expect of the training.
    """
    device = processes().device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        stage = _Fit(job, notify)
        stage.checkpoints.load()
        stage.train()
        return stage.finish()


@dataclass
class _Position:
    """How far training is: what a resume needs besides weights and the states of others; JSON-plain.

    Args:
        step: optimiser steps so far, skipped ones too.
        ended: whether training is over before its last step.
        skipped: how many steps without a finite loss and gradient came last, in a row.
        skipped_in_all: how many there were.
        last_loss: the last finite loss.
        last_loss_step: its step, from 1.
        short: steps for which the sampler proposed fewer sub-networks than it was asked for.
        exhausted: whether the sampler had nothing left to propose.
        losses: those since the last point of the loss curve.
    """

    step: int = 0
    ended: bool = False
    skipped: int = 0
    skipped_in_all: int = 0
    last_loss: float | None = None
    last_loss_step: int = 0
    short: int = 0
    exhausted: bool = False
    losses: list[float] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class _Fit:
    """One training stage under way."""

    def __init__(self, job: TrainJob, notify: Notify) -> None:
        self.job, self.options, self.at, self.notify = job, job.options, _Position(), notify
        here = processes()
        self.rank, self.world, self.device = here.process_index, here.num_processes, here.device
        self.feed = Feed(job)
        job.total = optim.total_steps(job, self.feed.epoch_length)
        job.reduce = self.averaged
        optim.keep_freed_memory()
        job.net.to(self.device).train()
        optim.seed_torch(stream_seed(job.seed, "init", job.stage), self.device)
        for modifier in job.modifiers:
            modifier.on_start(job)
        if job.sampler is not None:
            start_sampler(job.sampler, job.stage, job.total, "train")
        claimed = [parameter for modifier in job.modifiers for parameter in modifier.claims(job.net)]
        self.optimizer = optim.make_optimizer(job.net, self.options, without=claimed)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ledger, self.selection = Ledger(), Selection(job, self.feed.epoch_length)
        self.passes = Passes(job, self.device, self.ledger)
        parts: dict[str, Any] = {"net": job.net, "optimizer": self.optimizer, "at": self.at, "feed": self.feed}
        parts |= {"selection": self.selection, "passes": self.passes, "ledger": self.ledger}
        parts |= {f"modifier {number}": modifier for number, modifier in enumerate(job.modifiers)}
        if job.sampler is not None:
            parts["sampler"] = job.sampler
        self.checkpoints = Checkpoints(job, parts, writes=self.rank == 0)

    @property
    def done(self) -> bool:
        return self.at.ended or self.at.step >= self.job.total

    def train(self) -> None:
        while not self.done:
            began, teachers = time.perf_counter(), self.ledger.seconds("teacher")
            self.step(next(self.feed))
            teachers = self.ledger.seconds("teacher") - teachers
            self.ledger.add("student", seconds=time.perf_counter() - began - teachers)
            if self.selection.due(self.at.step, self.done):
                self.require_finite_weights()
                self.measure()
            # Each process has its own clock, so none may raise here alone: bad weights are only not saved.
            if not self.at.skipped and self.checkpoints.due() and not optim.non_finite(self.job.net):
                self.checkpoints.save()

    def step(self, batch: Batch) -> None:
        """Make one optimiser step on a batch that all processes share."""
        job, at = self.job, self.at
        asked = self.ask()
        if not asked:
            if at.step == 0:
                raise RunError(f"stage {job.stage!r}: the sampler proposed no sub-network. Expected at least one.")
            at.ended = at.exhausted = True
            return
        if job.sampler is not None and len(asked) < self.options.archs_per_step:
            at.short += 1
        rate = optim.learning_rate(self.options, at.step, job.total)
        optim.set_learning_rate(self.optimizer, rate)
        self.job.net.zero_grad()
        losses = torch.zeros(len(asked), device=self.device)
        count = self.options.accumulate * self.world
        for number in range(self.rank, count, self.world):
            part = batch.part(number, count)
            weight = len(part) * self.world / len(batch)  # the processes' mean is then the mean over the batch
            part = (part if len(part) else batch.part(0, len(batch))).to(self.device)
            self.passes.share = len(batch) / (self.options.accumulate * len(part))
            for index, arch in enumerate(asked):
                step = Step(job, self.passes, at.step, job.total, rate, part, arch, self.optimizer)
                losses[index] += weight * self.backward(step, number, index, weight / len(asked))
        for modifier in job.modifiers:
            modifier.on_gradients(step)
        optim.average([p.grad for p in self.parameters if p.grad is not None], self.world)
        norm = optim.clip(self.parameters, self.options.max_grad_norm)
        values = self.averaged(losses).tolist()
        step.skipped = not all(map(math.isfinite, [norm, *values]))
        if not step.skipped:
            self.optimizer.step()
        for modifier in job.modifiers:
            modifier.on_update(step)
        at.step += 1
        self.ledger.add("student", steps=1)
        self.tell(asked, values, step)

    def backward(self, step: Step, part: int, index: int, weight: float) -> torch.Tensor:
        """Run one architecture on one micro-batch; gradients add up."""
        job, names = self.job, (self.job.stage, step.index, part, index)
        optim.seed_torch(stream_seed(job.seed, "modifiers", *names), self.device)
        for modifier in job.modifiers:
            modifier.on_batch(step)
        optim.seed_torch(stream_seed(job.seed, "dropout", *names), self.device)
        step.outputs = self.passes.student(step.arch, step.batch)
        loss = job.task.loss(step.outputs, step.batch)
        for modifier in job.modifiers:
            loss = modifier.on_loss(step, loss)
        (loss * weight).backward()
        return loss.detach()

    def ask(self) -> Sequence[Arch | None]:
        if self.job.sampler is None:
            return [self.job.arch]
        if self.rank > 0:
            return self.shared(None)
        return self.shared(self.job.sampler.ask(self.options.archs_per_step, within=self.job.within))

    def tell(self, asked: Sequence[Arch | None], losses: Sequence[float], step: Step) -> None:
        """Tell sampler, log and terminal what the step came to."""
        job, at, loss = self.job, self.at, sum(losses) / len(losses)
        if job.sampler is not None and self.rank == 0:
            job.sampler.tell([_trial(arch, its) for arch, its in zip(asked, losses, strict=True) if arch is not None])
        if step.skipped:
            at.skipped, at.skipped_in_all = at.skipped + 1, at.skipped_in_all + 1
            if at.skipped == PATIENCE or self.done:
                raise self.diverged(self.fault(asked, losses))
        else:
            at.skipped, at.last_loss, at.last_loss_step = 0, loss, at.step
            at.losses.append(loss)
        due = at.step % max(1, job.total // POINTS) == 0 or self.done
        if due and at.losses:
            values = {"loss": sum(at.losses) / len(at.losses), "learning_rate": step.lr}
            at.losses.clear()
            if self.rank == 0:
                job.log(at.step, values)
        if self.rank == 0:
            job.progress(at.step, job.total, f"loss {loss:.3f}")

    def fault(self, asked: Sequence[Arch | None], losses: Sequence[float]) -> str:
        """Say of a skipped step what in it was not finite."""
        spoilt = [(arch, loss) for arch, loss in zip(asked, losses, strict=True) if not math.isfinite(loss)]
        if not spoilt:
            return f"the gradients are not finite, at a loss of {sum(losses) / len(losses):.3g}"
        arch, loss = spoilt[0]
        where = f" of sub-network {dict(arch)}" if arch is not None and self.job.sampler is not None else ""
        return f"the loss{where} is {loss}"

    def diverged(self, fault: str) -> DivergedError:
        """Describe a divergence: the step where it began, and the last loss that was finite."""
        at, total = self.at, self.job.total
        first = at.step - max(at.skipped - 1, 0)
        span = f"steps {first} to {at.step} of {total}" if at.skipped > 1 else f"step {first} of {total}"
        last = "No loss before was finite"
        if at.last_loss is not None:
            last = f"The last finite loss is {at.last_loss:.4g}, of step {at.last_loss_step}"
        return DivergedError(
            f"stage {self.job.stage!r}: training diverged at {span}: {fault}. {last}. Its network is not kept. A lower "
            "learning_rate, a longer warm-up, max_grad_norm, or precision: fp32 may help."
        )

    def require_finite_weights(self) -> None:
        """Make sure that what is measured, kept or handed on is a network."""
        names = optim.non_finite(self.job.net)
        if names:
            more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise self.diverged(f"weights are not finite ({names[0]}{more})")

    def measure(self) -> None:
        """Evaluate on ``select`` in the first process."""
        metrics = None
        if self.rank == 0:
            metrics = mean_metrics([self.passes.evaluated(arch, "select") for arch in measured_archs(self.job)])
            self.job.log(self.at.step, {f"select_{name}": value for name, value in metrics.items()})
        self.at.ended |= self.selection.add(self.shared(metrics)[self.job.task.primary])

    def finish(self) -> TrainResult:
        job = self.job
        if self.at.skipped:  # stopped early, in the middle of such steps
            raise self.diverged("the last loss or gradient is not finite")
        self.require_finite_weights()
        self.checkpoints.save()
        self.selection.finish()
        if job.sampler is not None and self.world > 1:  # only the first process asked and told
            job.sampler.load_state_dict(self.shared(job.sampler.state_dict()))
        answers = [modifier.on_finish(job) for modifier in reversed(job.modifiers)]
        archs = [arch for arch in answers if arch is not None]
        if len(archs) > 1:
            raise UsageError(f"stage {job.stage!r}: {len(archs)} modifiers answer with an architecture. Expected one.")
        job.net.eval().zero_grad()
        self.report()
        return TrainResult(job.net, archs[0] if archs else None, self.ledger.entries())

    def report(self) -> None:
        """Pass on what a user would not expect of the stage."""
        job, at, options = self.job, self.at, self.options
        place, steps = f"stages.{job.stage}", f"{at.step} of {job.total} steps"
        if at.skipped_in_all:
            text = f"{at.skipped_in_all} of {at.step} steps had no finite loss or gradient. They changed no weights."
            self.notify(place, text)
        if at.short:
            fewer = f"the sampler proposed fewer than {options.archs_per_step} sub-networks"
            self.notify(f"{place}.archs_per_step", f"In {at.short} of {at.step} steps {fewer}.")
        if at.exhausted:
            text = f"It had nothing left to propose, so training ended after {steps}."
            self.notify(f"{place}.sampler", text)

    def shared(self, value: Any) -> Any:
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def averaged(self, tensor: torch.Tensor) -> torch.Tensor:
        optim.average([tensor], self.world)
        return tensor


def _trial(arch: Arch, loss: float) -> Trial:
    if math.isfinite(loss):
        return Trial(arch, -loss, origin="train")
    return Trial(arch, None, state="failed", origin="train")
