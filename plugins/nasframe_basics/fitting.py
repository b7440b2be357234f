"""The training loop: architectures, forward passes, losses, one optimiser step; then logs, measurements, checkpoints.

:func:`fit` runs one stage. The parts that the loop only calls are in ``nasframe.training``: the data feed, the forward
passes with their ledger of costs, the selection of the best weights, the checkpoints and the optimiser's settings.
"""

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
from nasframe.measures import score_of
from nasframe.notices import Notify
from nasframe.processes import processes
from nasframe.records import Arch, Batch, Trial
from nasframe.seeds import stream_seed
from nasframe.training import optim
from nasframe.training.batches import Feed
from nasframe.training.checkpoints import Checkpoints
from nasframe.training.selection import Selection, mean_metrics, measured_archs
from nasframe.training.step import Ledger, Passes, Step

PATIENCE = 20
"""Steps in a row without a finite loss and gradient after which training has diverged."""
POINTS = 200
"""Points of the loss curve."""


def fit(job: TrainJob, notify: Notify) -> TrainResult:
    """Train ``job.net`` in place, from its checkpoint if there is one; see :class:`nasframe_basics.loop.Loop`.

    Args:
        job: the stage.
        notify: receives notices about steps that did not go as a user would expect.
    """
    device = processes().device
    # The loop seeds torch's generators before every forward pass. Its caller's draws must not depend on that.
    forked_devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked_devices):
        stage = _Fit(job, notify)
        stage.checkpoints.load()
        stage.train()
        return stage.finish()


@dataclass
class _Position:
    """The progress of training: what a resume needs besides weights and the states of other parts; JSON-plain.

    Args:
        step: optimiser steps so far, skipped ones too.
        ended: whether training is over before its last step.
        skipped: how many of the last steps, in a row, had no finite loss and gradient.
        skipped_in_all: how many such steps there were.
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
        vars(self).update(state)  # in place: the loop and its checkpoints hold one object


class _Fit:
    """One training stage in progress."""

    def __init__(self, job: TrainJob, notify: Notify) -> None:
        self.job = job
        self.options = job.options
        self.notify = notify
        self.at = _Position()
        here = processes()
        self.rank = here.process_index
        self.world = here.num_processes
        self.device = here.device
        self.feed = Feed(job)
        # Modifiers read these two, so they come before on_start.
        job.total = optim.total_steps(job, self.feed.epoch_length)
        job.reduce = self.averaged
        optim.keep_freed_memory()
        job.net.to(self.device).train()
        # What modifiers draw at the start is the same, whatever was drawn before this stage.
        init_seed = stream_seed(job.seed, "init", job.stage)
        optim.seed_torch(init_seed, self.device)
        for modifier in job.modifiers:
            modifier.on_start(job)
        if job.sampler is not None:
            start_sampler(job.sampler, job.stage, job.total, "train")
        # The optimiser comes after on_start, in which modifiers may have replaced parameters, as fake_quant does. It
        # leaves out those that modifiers update themselves.
        claimed: list[torch.nn.Parameter] = []
        for modifier in job.modifiers:
            claimed += modifier.claims(job.net)
        self.optimizer = optim.make_optimizer(job.net, self.options, without=claimed)
        self.parameters: list[torch.nn.Parameter] = []
        for group in self.optimizer.param_groups:
            self.parameters += group["params"]
        self.ledger = Ledger()
        self.selection = Selection(job, self.feed.epoch_length)
        self.passes = Passes(job, self.device, self.ledger, notify)
        self.checkpoints = Checkpoints(job, self._parts(), writes=self.rank == 0)

    def _parts(self) -> dict[str, Any]:
        """Return everything that has a state, by its name in checkpoints."""
        job = self.job
        parts: dict[str, Any] = {
            "net": job.net,
            "optimizer": self.optimizer,
            "at": self.at,
            "feed": self.feed,
            "selection": self.selection,
            "passes": self.passes,
            "ledger": self.ledger,
        }
        for number, modifier in enumerate(job.modifiers):
            parts[f"modifier {number}"] = modifier
        if job.sampler is not None:
            parts["sampler"] = job.sampler
        return parts

    @property
    def done(self) -> bool:
        return self.at.ended or self.at.step >= self.job.total

    def train(self) -> None:
        """Make the steps that are left."""
        while not self.done:
            # Teachers run inside of a step and book their own seconds; the rest of it is the student's.
            began = time.perf_counter()
            teachers_before = self.ledger.seconds("teacher")
            self.step(next(self.feed))
            teachers = self.ledger.seconds("teacher") - teachers_before
            seconds = time.perf_counter() - began
            self.ledger.add("student", seconds=seconds - teachers)
            if self.selection.due(self.at.step, self.done):
                self.require_finite_weights()
                self.measure()
            # Each process has its own clock, so only some may be here: none of them may raise. Bad weights are just
            # not saved.
            is_due = not self.at.skipped and self.checkpoints.due()
            if is_due and not optim.non_finite(self.job.net):
                self.checkpoints.save()

    def step(self, batch: Batch) -> None:
        """Make one optimiser step on a batch that all processes share."""
        job, at = self.job, self.at
        archs = self.ask()
        if not archs:
            if at.step == 0:
                raise RunError(f"stage {job.stage!r}: the sampler proposed no sub-network. Expected at least one.")
            at.ended = True
            at.exhausted = True
            return
        if job.sampler is not None and len(archs) < self.options.archs_per_step:
            at.short += 1
        rate = optim.learning_rate(self.options, at.step, job.total)
        optim.set_learning_rate(self.optimizer, rate)
        job.net.zero_grad()
        # The batch is cut into micro-batches, which the processes take in turn. Each one's gradients are added up with
        # a weight that makes the result the gradient of the mean loss over the batch, however uneven the parts are.
        losses = torch.zeros(len(archs), device=self.device)
        parts = self.options.accumulate * self.world
        for number in range(self.rank, parts, self.world):
            part = batch.part(number, parts)
            weight = len(part) * self.world / len(batch)  # the processes' mean is then the mean over the batch
            if not len(part):  # every process needs a forward pass, so it takes one example, with weight 0
                part = batch.part(0, len(batch))
            part = part.to(self.device)
            counted = self.options.accumulate * len(part)  # examples that this process would count
            self.passes.share = len(batch) / counted
            for index, arch in enumerate(archs):
                step = Step(job, self.passes, at.step, job.total, rate, part, arch, self.optimizer)
                loss = self.backward(step, number, index, weight / len(archs))
                losses[index] += weight * loss
        self.update(step, archs, losses)

    def update(self, step: Step, archs: Sequence[Arch | None], losses: torch.Tensor) -> None:
        """Let the optimiser make its step with the summed gradients, unless they or the losses are not finite.

        Args:
            step: the last of the step's forward passes.
            archs: the architectures.
            losses: ``(archs,)`` their losses in this process.
        """
        for modifier in self.job.modifiers:
            modifier.on_gradients(step)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        optim.average(gradients, self.world)
        norm = optim.clip(self.parameters, self.options.max_grad_norm)
        # Judged after averaging, so that all processes skip the same steps and their weights stay equal.
        values = self.averaged(losses).tolist()
        is_finite = all(math.isfinite(value) for value in [norm, *values])
        step.skipped = not is_finite
        if not step.skipped:
            self.optimizer.step()
        for modifier in self.job.modifiers:
            modifier.on_update(step)
        self.at.step += 1
        self.ledger.add("student", steps=1)
        self.tell(archs, values, step)

    def backward(self, step: Step, part: int, index: int, weight: float) -> torch.Tensor:
        """Run one architecture on one micro-batch; gradients add up.

        Args:
            step: the step, whose micro-batch and architecture it is.
            part: the micro-batch's number.
            index: the architecture's number.
            weight: of its loss in the gradients.

        Returns:
            The loss.
        """
        job = self.job
        # Modifiers and dropout have seeds of their own, so that a modifier that draws does not change the dropout.
        names = (job.stage, step.index, part, index)
        modifier_seed = stream_seed(job.seed, "modifiers", *names)
        dropout_seed = stream_seed(job.seed, "dropout", *names)
        optim.seed_torch(modifier_seed, self.device)
        for modifier in job.modifiers:
            modifier.on_batch(step)
        optim.seed_torch(dropout_seed, self.device)
        step.outputs = self.passes.student(step.arch, step.batch)
        loss = job.task.loss(step.outputs, step.batch)
        for modifier in job.modifiers:
            loss = modifier.on_loss(step, loss)
        (loss * weight).backward()
        return loss.detach()

    def ask(self) -> Sequence[Arch | None]:
        """Return the architectures of a step, the same in all processes."""
        if self.job.sampler is None:
            return [self.job.arch]
        if self.rank > 0:
            return self.shared(None)  # the first process asks for all: only its sampler learns
        count = self.options.archs_per_step
        proposed = self.job.sampler.ask(count, within=self.job.within)
        return self.shared(proposed)

    def tell(self, archs: Sequence[Arch | None], losses: Sequence[float], step: Step) -> None:
        """Report a step's losses to the sampler, the log and the terminal.

        Raises:
            DivergedError: too many steps in a row were skipped, or the last one was.
        """
        job, at = self.job, self.at
        loss = sum(losses) / len(losses)
        if job.sampler is not None and self.rank == 0:
            trials = []
            for arch, value in zip(archs, losses, strict=True):
                if arch is not None:
                    trials.append(_trial(arch, value))
            job.sampler.tell(trials)
        if step.skipped:
            at.skipped += 1
            at.skipped_in_all += 1
            if at.skipped == PATIENCE or self.done:
                raise self.diverged(self.fault(archs, losses))
        else:
            at.skipped = 0
            at.last_loss = loss
            at.last_loss_step = at.step
            at.losses.append(loss)
        self.log_point(step.lr)
        if self.rank == 0:
            job.progress(at.step, job.total, f"loss {loss:.3f}")

    def log_point(self, rate: float) -> None:
        """Log a point of the loss curve when one is due: the mean loss since the last one."""
        at = self.at
        interval = max(1, self.job.total // POINTS)
        is_due = at.step % interval == 0 or self.done
        if not is_due or not at.losses:
            return
        mean = sum(at.losses) / len(at.losses)
        at.losses.clear()
        if self.rank == 0:
            self.job.log(at.step, {"loss": mean, "learning_rate": rate})

    def fault(self, archs: Sequence[Arch | None], losses: Sequence[float]) -> str:
        """Describe what was not finite in a skipped step."""
        for arch, loss in zip(archs, losses, strict=True):
            if not math.isfinite(loss):
                of_arch = ""
                if arch is not None and self.job.sampler is not None:
                    of_arch = f" of sub-network {dict(arch)}"
                return f"the loss{of_arch} is {loss}"
        return f"the gradients are not finite, at a loss of {sum(losses) / len(losses):.3g}"

    def diverged(self, fault: str) -> DivergedError:
        """Return an error that names the step where the divergence began, and the last loss that was finite."""
        at, total = self.at, self.job.total
        span = f"step {at.step} of {total}"
        if at.skipped > 1:
            first = at.step - at.skipped + 1
            span = f"steps {first} to {at.step} of {total}"
        last = "No loss before was finite"
        if at.last_loss is not None:
            last = f"The last finite loss is {at.last_loss:.4g}, of step {at.last_loss_step}"
        return DivergedError(
            f"stage {self.job.stage!r}: training diverged at {span}: {fault}. {last}. Its network is not kept. A lower "
            "learning_rate, a longer warm-up, max_grad_norm, or precision: fp32 may help."
        )

    def require_finite_weights(self) -> None:
        """Make sure that only a network with finite weights is measured, kept or passed on."""
        names = optim.non_finite(self.job.net)
        if names:
            examples = names[0]
            if len(names) > 1:
                examples += f" and {len(names) - 1} more tensors"
            raise self.diverged(f"weights are not finite ({examples})")

    def measure(self) -> None:
        """Evaluate on ``select`` in the first process."""
        metrics = None
        if self.rank == 0:
            evaluations = []
            for arch in measured_archs(self.job):
                evaluations.append(self.passes.evaluated(arch, "select"))
            metrics = mean_metrics(evaluations)
            log = {}
            for name, value in metrics.items():
                log[f"select_{name}"] = value
            self.job.log(self.at.step, log)
        metrics = self.shared(metrics)
        score = score_of(self.job.task, metrics)
        stops_early = self.selection.add(score)
        self.at.ended = self.at.ended or stops_early

    def finish(self) -> TrainResult:
        """Return the stage's result, after all its modifiers have finished.

        Raises:
            DivergedError: the network is not finite.
            UsageError: several modifiers return an architecture.
        """
        job = self.job
        if self.at.skipped:  # training ended early, while steps were being skipped
            raise self.diverged("the last loss or gradient is not finite")
        self.require_finite_weights()
        # Saved before the best weights come back and modifiers finish: a resume from here then does both again.
        self.checkpoints.save()
        self.selection.finish()
        if job.sampler is not None and self.world > 1:  # only the first process has used its sampler
            sampler: Any = job.sampler  # the framework gives every sampler a state
            state = self.shared(sampler.state_dict())
            sampler.load_state_dict(state)
        archs = []
        # In reverse, since modifiers are nested: the last to parametrise a weight is the first to be removed.
        for modifier in reversed(job.modifiers):
            arch = modifier.on_finish(job)
            if arch is not None:
                archs.append(arch)
        if len(archs) > 1:
            raise UsageError(f"stage {job.stage!r}: {len(archs)} modifiers answer with an architecture. Expected one.")
        job.net.eval().zero_grad()
        self.report()
        arch = archs[0] if archs else None
        return TrainResult(job.net, arch, self.ledger.entries())

    def report(self) -> None:
        """Notify about steps that did not go as a user would expect."""
        job, at = self.job, self.at
        place = f"stages.{job.stage}"
        if at.skipped_in_all:
            text = f"{at.skipped_in_all} of {at.step} steps had no finite loss or gradient. They changed no weights."
            self.notify(place, text)
        if at.short:
            fewer = f"the sampler proposed fewer than {self.options.archs_per_step} sub-networks"
            self.notify(f"{place}.archs_per_step", f"In {at.short} of {at.step} steps {fewer}.")
        if at.exhausted:
            text = f"It had nothing left to propose, so training ended after {at.step} of {job.total} steps."
            self.notify(f"{place}.sampler", text)

    def shared(self, value: Any) -> Any:
        """Return the first process's value in all processes."""
        if self.world == 1:
            return value
        return broadcast_object_list([value])[0]

    def averaged(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its mean over the processes."""
        optim.average([tensor], self.world)
        return tensor


def _trial(arch: Arch, loss: float) -> Trial:
    """Return a training loss as a trial; samplers maximise scores."""
    if math.isfinite(loss):
        return Trial(arch, -loss, origin="train")
    return Trial(arch, None, state="failed", origin="train")
