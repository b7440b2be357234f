"""The training loop, in the open: archs, forward passes, losses, one optimiser step, what is told and what is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from nasframe.errors import RunError, UsageError
from nasframe.nn import optim
from nasframe.step import Ledger, Passes, Step
from nasframe.streams import stream_seed
from nasframe.interfaces import Batches
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
        with torch.random.fork_rng():
            fit = _Fit(job)
            fit.load()
            fit.train()
            return fit.finish()


@dataclass
class _Position:
    """How far training is: what a resume needs besides weights and the states of others; JSON-plain."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    ended: bool = False
    skipped: int = 0
    best: float | None = None
    stale: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[list[float]] = field(default_factory=list)


class _Fit:
    """One training stage under way."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.options, self.at = job, job.options, _Position()
        processes = PartialState()
        self.rank, self.world, self.device = processes.process_index, processes.num_processes, processes.device
        epoch = len(self.data(0))
        job.total = _total(job, epoch)
        job.reduce = self.averaged
        measured = self.options.keep == "best" or self.options.early_stop is not None
        self.eval_every = self.options.eval_every or (epoch if measured else job.total + 1)
        job.net.to(self.device).train()
        optim.seed_torch(stream_seed(job.seed, "init", job.stage), self.device)
        for modifier in job.modifiers:
            modifier.on_start(job)
        if job.sampler is not None and hasattr(job.sampler, "start"):
            job.sampler.start(job.stage, job.total)
        claimed = [parameter for modifier in job.modifiers for parameter in modifier.claims(job.net)]
        self.optimizer = optim.make_optimizer(job.net, self.options, without=claimed)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ledger = Ledger()
        self.passes = Passes(job, self.device, self.ledger)
        self.best: dict[str, torch.Tensor] = {}
        self.saved_at, self.save_took = time.monotonic(), 0.0

    def train(self) -> None:
        """Run the steps that are left."""
        for batch in self.batches():
            began, others = time.perf_counter(), self.ledger.seconds("teacher")
            self.step(batch)
            others = self.ledger.seconds("teacher") - others
            self.ledger.add("student", seconds=time.perf_counter() - began - others)
            if self.eval_every <= self.job.total and (self.done or self.at.step % self.eval_every == 0):
                self.measure()
            # a checkpoint of a large network takes a while: never more than a twentieth of the time goes there
            if time.monotonic() - self.saved_at >= max(self.options.checkpoint_every, 20 * self.save_took):
                self.save()

    @property
    def done(self) -> bool:
        return self.at.ended or self.at.step >= self.job.total

    def batches(self) -> Iterator[Batch]:
        while not self.done:
            data = self.data(self.at.epoch)
            while self.at.batch < len(data) and not self.done:
                self.at.batch += 1
                yield data[self.at.batch - 1]
            if self.at.batch == len(data):
                self.at.epoch, self.at.batch = self.at.epoch + 1, 0

    def data(self, epoch: int) -> Batches:
        seed = stream_seed(self.job.seed, "data", self.job.stage)
        return self.job.task.train_batches(seed, epoch, self.options.batch_size)

    def step(self, batch: Batch) -> None:
        """Make one optimiser step on a batch that all processes share."""
        job, at = self.job, self.at
        asked = self.ask()
        if not asked:  # the sampler has nothing left to propose
            at.ended = True
            return
        rate = optim.learning_rate(self.options, at.step, job.total)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(asked), device=self.device)
        count = self.options.accumulate * self.world
        for number in range(self.rank, count, self.world):
            part = batch.part(number, count)
            weight = len(part) * self.world / len(batch)  # so that the processes' mean is the mean over the batch
            part = (part if len(part) else batch.part(0, len(batch))).to(self.device)
            self.passes.share = len(batch) / (self.options.accumulate * len(part))
            for index, arch in enumerate(asked):
                step = Step(job, self.passes, at.step, job.total, rate, part, arch, self.optimizer)
                losses[index] += weight * self.backward(step, number, index, weight / len(asked))
        for modifier in job.modifiers:
            modifier.on_gradients(step)
        optim.average([p.grad for p in self.parameters if p.grad is not None], self.world)
        norm = optim.clip(self.parameters, self.options.max_grad_norm)
        step.skipped = not math.isfinite(norm)
        if not step.skipped:
            self.optimizer.step()
        for modifier in job.modifiers:
            modifier.on_update(step)
        at.step += 1
        self.ledger.add("student", steps=1)
        self.tell(asked, self.averaged(losses).tolist(), step)

    def backward(self, step: Step, part: int, index: int, weight: float) -> torch.Tensor:
        """Run one architecture on one micro-batch; gradients add up."""
        job = self.job
        for modifier in job.modifiers:
            optim.seed_torch(stream_seed(job.seed, "modifier", job.stage, step.index, part, index), self.device)
            modifier.on_batch(step)
        optim.seed_torch(stream_seed(job.seed, "dropout", job.stage, step.index, part, index), self.device)
        step.outputs = self.passes.student(step.arch, step.batch)
        loss = job.task.loss(step.outputs, step.batch)
        for modifier in job.modifiers:
            loss = modifier.on_loss(step, loss)
        (loss * weight).backward()
        return loss.detach()

    def ask(self) -> Sequence[Arch | None]:
        job = self.job
        if job.sampler is None:
            return [job.arch]
        asked = job.sampler.ask(self.options.archs_per_step, within=job.within) if self.rank == 0 else None
        return self.shared(asked)

    def tell(self, asked: Sequence[Arch | None], losses: Sequence[float], step: Step) -> None:
        """Tell sampler, log and terminal what the step came to."""
        job, at = self.job, self.at
        if job.sampler is not None and self.rank == 0:
            job.sampler.tell([_trial(arch, loss) for arch, loss in zip(asked, losses, strict=True) if arch is not None])
        loss = sum(losses) / len(losses)
        at.skipped = at.skipped + 1 if step.skipped else 0
        if at.skipped == PATIENCE:
            hint = "Expected finite gradients; a lower learning_rate or precision: fp32 may help."
            raise RunError(
                f"stage {job.stage!r}: training diverged, {PATIENCE} steps in a row (loss {loss:.3g}). {hint}"
            )
        at.losses.append(loss)
        if self.rank:
            return
        if at.step % max(1, job.total // POINTS) == 0 or self.done:
            job.log(at.step, {"loss": sum(at.losses) / len(at.losses), "learning_rate": step.lr})
            at.losses.clear()
        job.progress(at.step, job.total, f"loss {loss:.3f}")

    def measure(self) -> None:
        """Evaluate on ``select``; remember the best weights, and stop where nothing is gained any more."""
        job, at = self.job, self.at
        rows = [self.passes.evaluated(arch, "select") for arch in self.measured()] if self.rank == 0 else []
        metrics = self.shared({name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else None)
        score = metrics[job.task.primary]
        at.history.append([at.step, score])
        if self.rank == 0:
            job.log(at.step, {f"select_{name}": value for name, value in metrics.items()})
        better = at.best is None or score > at.best
        at.stale = 0 if better else at.stale + 1
        if better:
            at.best = score
            if self.options.keep == "best":
                self.best = {name: tensor.clone() for name, tensor in job.net.state_dict().items()}
        at.ended = at.ended or (self.options.early_stop is not None and at.stale >= self.options.early_stop)

    def measured(self) -> Sequence[Arch | None]:
        domain = self.job.within or getattr(self.job.space, "domain", None)
        if self.job.sampler is None or not hasattr(domain, "largest"):
            return [self.job.arch]
        return [domain.smallest(), domain.largest()]

    def save(self) -> None:
        """Write a checkpoint, from which the rest of training is the same to the last bit."""
        began, job = time.monotonic(), self.job
        if self.rank == 0 and job.checkpoint is not None:
            job.checkpoint.save({
                "net": job.net.state_dict(), "best": self.best, "optimizer": optim.optimizer_state(self.optimizer),
                "sampler": job.sampler.state_dict() if job.sampler is not None else {},
                "modifiers": [modifier.state_dict() for modifier in job.modifiers],
                "ledger": self.ledger.counts, "teachers": self.passes.state_dict(), "position": vars(self.at),
            })  # fmt: skip
        self.saved_at = time.monotonic()
        self.save_took = self.saved_at - began

    def load(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        job = self.job
        state = job.checkpoint.load() if job.checkpoint is not None else None
        if state is None:
            return
        job.net.load_state_dict(state["net"])
        self.best = state["best"]
        optim.load_optimizer_state(self.optimizer, state["optimizer"])
        if job.sampler is not None:
            job.sampler.load_state_dict(state["sampler"])
        for modifier, of_modifier in zip(job.modifiers, state["modifiers"], strict=True):
            modifier.load_state_dict(of_modifier)
        self.ledger.counts.update(state["ledger"])
        self.passes.load_state_dict(state["teachers"])
        self.at = _Position(**state["position"])

    def finish(self) -> TrainResult:
        job = self.job
        self.save()
        if self.best:
            job.net.load_state_dict(self.best)
        if job.sampler is not None and self.world > 1:  # only the first process asked and told
            job.sampler.load_state_dict(self.shared(job.sampler.state_dict()))
        answers = [modifier.on_finish(job) for modifier in reversed(job.modifiers)]
        archs = [arch for arch in answers if arch is not None]
        if len(archs) > 1:
            raise UsageError(f"stage {job.stage!r}: {len(archs)} modifiers answer with an architecture. Expected one.")
        job.net.eval()
        return TrainResult(job.net, archs[0] if archs else None, self.ledger.entries())

    def shared(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def averaged(self, tensor: torch.Tensor) -> torch.Tensor:
        optim.average([tensor], self.world)
        return tensor


def _total(job: TrainJob, epoch: int) -> int:
    if epoch == 0:
        raise RunError(f"stage {job.stage!r}: the task has no training data. Expected at least one batch.")
    if job.options.max_steps is not None:
        return job.options.max_steps
    if job.options.epochs is None:
        raise UsageError(f"stage {job.stage!r}: how long to train is not said. Expected epochs or max_steps.")
    return max(1, round(job.options.epochs * epoch))


def _trial(arch: Arch, loss: float) -> Trial:
    if math.isfinite(loss):
        return Trial(arch, -loss, origin="train")
    return Trial(arch, None, state="failed", origin="train")
