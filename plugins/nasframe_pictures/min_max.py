"""GAN Slimming as published (Wang et al., ECCV 2020, arXiv 2008.11062), for the toy generator of this package.

    min over W, γ  max over θ    L_GAN(q(W), γ, θ) + β L_dist(q(W), γ) + ρ ‖γ‖₁

W are the generator's weights, γ the scales of its prunable InstanceNorms, θ the discriminator, q 8-bit rounding. Each
step updates W, γ and θ in turn. The formulas have labels of our own; README.md lists them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob, TrainResult
from nasframe.nn.prox import soft_threshold
from nasframe.processes import processes
from nasframe.records import Batch, LedgerEntry, Natural, NonNegative, Positive, ShareBelowOne
from nasframe.seeds import stream_seed
from nasframe.training import optim
from nasframe.training.batches import Feed
from nasframe.training.checkpoints import Checkpoints
from nasframe.training.step import saved_model
from nasframe_pictures.networks import Discriminator, PicturePair, Rounded, bake, compact

BETAS = (0.5, 0.999)  # of both Adams, as published
POINTS = 100  # of the logged curves


class MinMax:
    """Train a generator against its discriminator, and optionally distil it from a teacher, prune it and round it.

    Without a teacher the task's targets are the real pictures, and the distance is to them: this trains the dense
    networks. A stage with ``rho`` returns an architecture, the channels that are left.

    Args:
        teacher: name of the saved dense networks, whose generator's outputs are then the real pictures.
        rho: ρ; 0 prunes nothing, for fine-tuning the smaller network.
        beta: β, the weight of the distance; published: 20 (as in the code; its help text swaps the two weights).
        distance: ``mse``, the mean squared error of the pictures; or ``features``, the distance of their features in
            the teacher's discriminator: the absolute difference of its first layer's, and the squared difference of all
            Gram matrices (published with VGG16).
        gate_rate: peak learning rate of γ; published: 0.1.
        gate_momentum: momentum of γ; published: 0.5.
        bits: bits of weights and activations, while training and afterwards; null rounds nothing.
        replay: size of the buffer of generated pictures that the discriminator sees again; published: 50.
    """

    def __init__(
        self,
        teacher: str | None = None,
        rho: NonNegative = 0.0,
        beta: NonNegative = 20.0,
        distance: Literal["mse", "features"] = "mse",
        gate_rate: Positive = 0.1,
        gate_momentum: ShareBelowOne = 0.5,
        bits: Literal[8] | None = None,
        replay: Natural = 50,
    ) -> None:
        if rho < 0 or beta < 0 or replay < 0 or not 0 <= gate_momentum < 1:
            raise UsageError("min_max: rho, beta, replay: expected 0 or more; gate_momentum: expected 0 to below 1.")
        if distance == "features" and teacher is None:
            raise UsageError("min_max.distance: features are the teacher's discriminator's. Expected a teacher.")
        self.teacher = teacher
        self.rho = rho
        self.beta = beta
        self.distance = distance
        self.gate_rate = gate_rate
        self.gate_momentum = gate_momentum
        self.bits = bits
        self.replay = replay

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` in place; torch's global generators keep their state.

        Raises:
            UsageError: the network is of another kind, or the stage has options that this trainer does not support.
        """
        if not isinstance(job.net, PicturePair):
            raise UsageError(
                f"stage {job.stage!r}: a {type(job.net).__name__} has no discriminator. Expected pictures."
            )
        if job.sampler is not None or job.modifiers or job.options.keep == "best":
            raise UsageError(f"stage {job.stage!r}: min_max takes no sampler, no modifiers and keeps the last weights.")
        device = processes().device
        optim.keep_freed_memory()
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            fit = _Fit(self, job, job.net.to(device), device)
            fit.checkpoints.load()
            while fit.index < job.total:
                fit.step(next(fit.batches).to(device))
                fit.checkpoints.save_if_due()
            return fit.finish()


class _Fit:
    """The state of one stage while it trains."""

    def __init__(self, options: MinMax, job: TrainJob, net: PicturePair, device: torch.device) -> None:
        self.options = options
        self.job = job
        self.net = net.train()
        self.device = device
        self.batches = Feed(job)
        self.index = 0  # the next step
        self.began = time.perf_counter()
        job.total = optim.total_steps(job, self.batches.epoch_length)
        self.teacher: PicturePair | None = None
        if options.teacher is not None:
            teacher: Any = saved_model(job, options.teacher)
            self.teacher = teacher.to(device).eval()
        if options.bits:  # weights are rounded at every use, the optimiser steps the full ones
            net.generator.activations = options.bits
            for module in net.generator.convolutions():
                parametrize.register_parametrization(module, "weight", Rounded(options.bits))

        self.gammas: list[nn.Parameter] = []
        if options.rho:
            self.gammas = [part.norm.weight for part in net.generator.prunable()]
        self.momenta = [torch.zeros_like(gamma) for gamma in self.gammas]
        # γ has a step of its own, and no weight decay: Adam must not touch it.
        gate_ids = set(map(id, self.gammas))
        weights = [parameter for parameter in net.generator.parameters() if id(parameter) not in gate_ids]
        self.w_optimizer = self._adam(weights)
        self.theta_optimizer = self._adam(net.discriminator.parameters())
        self.buffer = torch.zeros(0, 3, 1, 1, device=device)  # generated pictures to be shown again
        parts = {
            "net": net,
            "w": self.w_optimizer,
            "theta": self.theta_optimizer,
            "feed": self.batches,
            "fit": self,
        }
        self.checkpoints = Checkpoints(job, parts)

    def step(self, batch: Batch) -> None:
        """Update W, γ and θ, each once."""
        job = self.job
        # A seed for each step, so that a resumed stage draws the same replayed pictures.
        seed = stream_seed(job.seed, "dropout", job.stage, self.index)
        optim.seed_torch(seed, self.device)
        rate = optim.learning_rate(job.options, self.index, job.total)
        for optimizer in (self.w_optimizer, self.theta_optimizer):
            optim.set_learning_rate(optimizer, rate)

        pictures = batch.inputs["pictures"]
        real = batch.labels
        if self.teacher is not None:
            with torch.no_grad():
                real = self.teacher.generator(pictures)

        self.net.zero_grad()
        generated = self.net.generator(pictures)
        l_dist = self.l_dist(generated, real)
        l_gan = squared_distance(self.net.discriminator(generated), 1)
        loss = l_gan + self.options.beta * l_dist  # (P1)
        loss.backward()
        self.w_optimizer.step()
        self.step_gates(rate / job.options.learning_rate)
        l_theta = self.step_discriminator(real, generated.detach())

        self.index += 1
        log_every = max(1, job.total // POINTS)
        if self.index % log_every == 0:
            self.log({"loss": loss, "distance": l_dist, "discriminator": l_theta})
        job.progress(self.index, job.total, "")

    @torch.no_grad()
    def step_gates(self, schedule: float) -> None:
        """Take γ's step: momentum SGD on the loss, then the proximal step of the penalty.

        Args:
            schedule: the share of the peak learning rate that the stage's schedule allows now.
        """
        options = self.options
        alpha = schedule * options.gate_rate
        threshold = options.rho * schedule * options.gate_rate
        for gamma, m in zip(self.gammas, self.momenta, strict=True):
            m.mul_(options.gate_momentum).add_(gamma.grad)  # type: ignore[arg-type]
            stepped = gamma - alpha * m
            gamma.copy_(soft_threshold(stepped, threshold))  # (P2)

    def step_discriminator(self, real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Take θ's step; return its loss."""
        discriminator = self.net.discriminator
        self.theta_optimizer.zero_grad()
        shown = self.replayed(generated)  # older pictures keep θ from forgetting
        l_real = squared_distance(discriminator(real), 1)
        l_generated = squared_distance(discriminator(shown), 0)
        l_theta = (l_real + l_generated) / 2  # (P3)
        l_theta.backward()
        self.theta_optimizer.step()
        return l_theta

    def l_dist(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return how far generated pictures are from the real ones."""
        if self.options.distance == "mse":
            return functional.mse_loss(generated, real)
        assert self.teacher is not None
        discriminator: Discriminator = self.teacher.discriminator
        features = discriminator.features(generated)
        targets = discriminator.features(real)
        grams = []
        for feature, target in zip(features, targets, strict=True):
            grams.append(squared_distance(gram(feature), gram(target)))
        content = functional.l1_loss(features[0], targets[0])
        style = torch.stack(grams).sum()
        return content + style

    def replayed(self, generated: torch.Tensor) -> torch.Tensor:
        """Return a batch for θ: half of it, on average, generated earlier (Shrivastava et al., arXiv 1612.07828)."""
        capacity = self.options.replay
        if capacity == 0:
            return generated
        batch = []
        for picture in generated:
            if len(self.buffer) < capacity:  # fill it first
                self._remember(picture)
                batch.append(picture)
            elif torch.rand(()) < 0.5:  # swap with an earlier one
                place = int(torch.randint(capacity, ()))
                batch.append(self.buffer[place].clone())
                self.buffer[place] = picture
            else:
                batch.append(picture)
        return torch.stack(batch)

    def _remember(self, picture: torch.Tensor) -> None:
        """Append a picture to the buffer."""
        earlier = list(self.buffer)  # an empty buffer does not have the shape of pictures yet
        self.buffer = torch.stack([*earlier, picture])

    def log(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Log losses and, while γ is pruned, how many channels are left."""
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if self.gammas:
            left = sum(int(gamma.count_nonzero()) for gamma in self.gammas)
            values["channels"] = float(left)
        self.job.log(self.index, values)

    def finish(self) -> TrainResult:
        """Leave rounded weights in the network, move its live channels to the front, and count the costs."""
        job = self.job
        net = self.net
        self.checkpoints.save()
        bake(net)  # first, because channels are moved in the weights themselves
        arch = None
        if self.options.rho:
            arch = compact(net)
        examples = job.total * job.options.batch_size
        forward = net.forward_macs(examples)
        seconds = time.perf_counter() - self.began
        backward = 2 * forward  # a backward pass counts as two forward passes
        entry = LedgerEntry("student", job.total, examples, examples, forward, backward, 0, seconds)
        net.eval().zero_grad()
        return TrainResult(net, arch, [entry])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs in addition to weights and optimisers."""
        return {"at": {"step": self.index}, "momentum": self.momenta, "shown": self.buffer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.index = state["at"]["step"]
        self.buffer = state["shown"]
        self.momenta = [tensor.clone() for tensor in state["momentum"]]

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        options = self.job.options
        return torch.optim.Adam(parameters, options.learning_rate, BETAS, weight_decay=options.weight_decay)


def gram(features: torch.Tensor) -> torch.Tensor:
    """Return the products of channels, ``(batch, channels, channels)``, averaged over places and channels."""
    flat = features.flatten(2)
    _, channels, places = flat.shape
    products = flat @ flat.transpose(1, 2)
    return products / (channels * places)


def squared_distance(values: torch.Tensor, target: torch.Tensor | float) -> torch.Tensor:
    """Return the mean squared difference."""
    return (values - target).square().mean()
