"""The training loop, in the open: archs, forward passes, losses, one optimiser step, what is told and what is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import start_sampler
from nasframe.nn import optim
from nasframe.nn.checkpoints import Checkpoints
from nasframe.nn.feed import Feed
from nasframe.nn.selection import Selection, mean_metrics, measured_archs
from nasframe.running.processes import processes
from nasframe.step import Ledger, Passes, Step
from nasframe.streams import stream_seed
from nasframe.types import Arch, Batch, TrainJob, TrainResult, Trial

PATIENCE = 20  # steps in a row without a finite gradient before training is called diverged
POINTS = 200  # of the loss curve


class Loop:
    """Trains a network, or the sub-networks that a sampler proposes.

    In each step the sampler proposes ``archs_per_step`` architectures (it may answer with more: all are used). Each
    gets a forward and a backward pass on each micro-batch, then gradients are averaged over the processes, clipped,
    and one optimiser step is made. With ``eval_every``, ``keep: best`` or ``early_stop`` the ``select`` split is
    measured: with the whole network, with ``arch``, or, where a sampler proposes, as the mean of the smallest and the
    largest sub-network of the stage's domain, so that neither end is bought with the other. ``max_steps`` goes
    before ``epochs`` where both are given.
    """

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` in place; torch's global generators are left as they were.

        Raises:
            UsageError: the options do not say how long to train.
            RunError: training diverged, or there is no training data.
        """
        device = processes().device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            fit = _Fit(job)
            fit.checkpoints.load()
            fit.train()
            return fit.finish()


@dataclass
class _Position:
    """How far training is: what a resume needs besides weights and the states of others; JSON-plain."""

    step: int = 0
    ended: bool = False
    skipped: int = 0
    losses: list[float] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class _Fit:
    """One training stage under way."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.options, self.at = job, job.options, _Position()
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
                self.measure()
            self.checkpoints.save_if_due()

    def step(self, batch: Batch) -> None:
        """Make one optimiser step on a batch that all processes share."""
        job, at = self.job, self.at
        asked = self.ask()
        if not asked:  # the sampler has nothing left to propose
            at.ended = True
            return
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
        step.skipped = not math.isfinite(optim.clip(self.parameters, self.options.max_grad_norm))
        if not step.skipped:
            self.optimizer.step()
        for modifier in job.modifiers:
            modifier.on_update(step)
        at.step += 1
        self.ledger.add("student", steps=1)
        self.tell(asked, self.averaged(losses).tolist(), step)

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
        at.skipped = at.skipped + 1 if step.skipped else 0
        if at.skipped == PATIENCE:
            raise RunError(
                f"stage {job.stage!r}: training diverged: {PATIENCE} steps in a row without a finite gradient, loss "
                f"{loss:.3g}. A lower learning_rate, or precision: fp32, may help."
            )
        at.losses.append(loss)
        if at.step % max(1, job.total // POINTS) == 0 or self.done:
            values = {"loss": sum(at.losses) / len(at.losses), "learning_rate": step.lr}
            at.losses.clear()
            if self.rank == 0:
                job.log(at.step, values)
        if self.rank == 0:
            job.progress(at.step, job.total, f"loss {loss:.3f}")

    def measure(self) -> None:
        """Evaluate on ``select`` in the first process."""
        metrics = None
        if self.rank == 0:
            metrics = mean_metrics([self.passes.evaluated(arch, "select") for arch in measured_archs(self.job)])
            self.job.log(self.at.step, {f"select_{name}": value for name, value in metrics.items()})
        self.at.ended |= self.selection.add(self.shared(metrics)[self.job.task.primary])

    def finish(self) -> TrainResult:
        job = self.job
        self.checkpoints.save()
        self.selection.finish()
        if job.sampler is not None and self.world > 1:  # only the first process asked and told
            job.sampler.load_state_dict(self.shared(job.sampler.state_dict()))
        answers = [modifier.on_finish(job) for modifier in reversed(job.modifiers)]
        archs = [arch for arch in answers if arch is not None]
        if len(archs) > 1:
            raise UsageError(f"stage {job.stage!r}: {len(archs)} modifiers answer with an architecture. Expected one.")
        job.net.eval().zero_grad()
        return TrainResult(job.net, archs[0] if archs else None, self.ledger.entries())

    def shared(self, value: Any) -> Any:
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def averaged(self, tensor: torch.Tensor) -> torch.Tensor:
        optim.average([tensor], self.world)
        return tensor


def _trial(arch: Arch, loss: float) -> Trial:
    if math.isfinite(loss):
        return Trial(arch, -loss, origin="train")
    return Trial(arch, None, state="failed", origin="train")
