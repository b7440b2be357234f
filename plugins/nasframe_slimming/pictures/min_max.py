"""GAN Slimming as published (Wang et al., ECCV 2020, arXiv 2008.11062), for the toy generator of this package.

    min over W, γ  max over θ    L_GAN(q(W), γ, θ) + β L_dist(q(W), γ) + ρ ‖γ‖₁

W are the generator's weights, γ the scales of its prunable InstanceNorms, θ the discriminator, q 8-bit rounding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.utils import parametrize

from nasframe.errors import UsageError
from nasframe.nn import optim
from nasframe.nn.checkpoints import Checkpoints
from nasframe.nn.feed import Feed
from nasframe.nn.prox import soft_threshold
from nasframe.running.processes import processes
from nasframe.step import saved_model
from nasframe.streams import stream_seed
from nasframe.types import Batch, LedgerEntry, Natural, NonNegative, Positive, ShareBelowOne, TrainJob, TrainResult
from nasframe_slimming.pictures.networks import Discriminator, PicturePair, Rounded, bake, compact

BETAS = (0.5, 0.999)


class MinMax:
    """Train a generator against its discriminator; a teacher distils it, ``rho`` prunes it, ``bits`` round it.

    Without a teacher the real pictures are the task's, and the distance is to them: that is how the dense networks
    are made. A stage with ``rho`` answers with the channels that are left.

    Args:
        teacher: the dense networks' name: its generator's outputs are then the real pictures.
        rho: ρ; 0 prunes nothing, which is how the smaller network is fine-tuned.
        beta: β of the distance; published: 20 (the code's value, on the distance; its help text has it on the other).
        distance: mean squared error of the pictures (``mse``), or of what the teacher's discriminator sees in them:
            absolute difference of its first layer and squared difference of all its Gram matrices (``features``; the
            published one is VGG16's).
        gate_rate: peak rate of γ; published: 0.1.
        gate_momentum: of γ; published: 0.5.
        bits: of weights and activations while training and after; null rounds nothing.
        replay: made pictures that the discriminator is shown again; published: 50.
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
        self.teacher, self.rho, self.beta, self.distance = teacher, rho, beta, distance
        self.gate_rate, self.gate_momentum, self.bits, self.replay = gate_rate, gate_momentum, bits, replay

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` in place; torch's global generators are left as they were.

        Raises:
            UsageError: the network is of another kind, or the stage wants what this trainer does not do.
        """
        if not isinstance(job.net, PicturePair):
            raise UsageError(
                f"stage {job.stage!r}: a {type(job.net).__name__} has no discriminator. Expected pictures."
            )
        if job.sampler is not None or job.modifiers or job.options.keep == "best":
            raise UsageError(f"stage {job.stage!r}: min_max takes no sampler, no modifiers and keeps the last weights.")
        device = processes().device
        optim.keep_freed_memory()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            fit = _Fit(self, job, job.net.to(device), device)
            fit.checkpoints.load()
            while fit.at["step"] < job.total:
                fit.step(next(fit.feed).to(device))
                fit.checkpoints.save_if_due()
            return fit.finish()


class _Fit:
    """One stage under way."""

    def __init__(self, how: MinMax, job: TrainJob, net: PicturePair, device: torch.device) -> None:
        self.how, self.job, self.net, self.device = how, job, net.train(), device
        self.feed, self.at, self.began = Feed(job), {"step": 0}, time.perf_counter()
        job.total = optim.total_steps(job, self.feed.epoch_length)
        teacher: Any = None if how.teacher is None else saved_model(job, how.teacher).to(device).eval()
        self.teacher: PicturePair | None = teacher
        if how.bits:
            net.generator.activations = how.bits
            for module in net.generator.convolutions():
                parametrize.register_parametrization(module, "weight", Rounded(how.bits))
        self.gamma = [part.norm.weight for part in net.generator.prunable()] if how.rho else []
        gates = {id(gamma) for gamma in self.gamma}
        weights = [p for p in net.generator.parameters() if id(p) not in gates]
        decay = job.options.weight_decay
        self.w = torch.optim.Adam(weights, job.options.learning_rate, BETAS, weight_decay=decay)
        self.theta = torch.optim.Adam(
            net.discriminator.parameters(), job.options.learning_rate, BETAS, weight_decay=decay
        )
        self.momentum = [torch.zeros_like(gamma) for gamma in self.gamma]
        self.shown = torch.zeros(0, 3, 1, 1, device=device)  # the replay buffer
        parts = {"net": net, "w": self.w, "theta": self.theta, "feed": self.feed, "fit": self}
        self.checkpoints = Checkpoints(job, parts)

    def step(self, batch: Batch) -> None:
        """W, γ and θ in turn."""
        job, how, t = self.job, self.how, self.at["step"]
        optim.seed_torch(stream_seed(job.seed, "dropout", job.stage, t), self.device)
        rate = optim.learning_rate(job.options, t, job.total)
        share = rate / job.options.learning_rate
        for optimizer in (self.w, self.theta):
            optim.set_learning_rate(optimizer, rate)
        pictures, real = batch.inputs["pictures"], batch.labels
        if self.teacher is not None:
            with torch.no_grad():
                real = self.teacher.generator(pictures)

        self.net.zero_grad()
        made, d = self.net.generator(pictures), self.net.discriminator
        l_dist, l_gan = self.l_dist(made, real), (d(made) - 1).square().mean()
        (l_gan + how.beta * l_dist).backward()
        self.w.step()
        with torch.no_grad():
            for gamma, m in zip(self.gamma, self.momentum, strict=True):
                m.mul_(how.gate_momentum).add_(gamma.grad)  # type: ignore[arg-type]
                gamma.copy_(soft_threshold(gamma - share * how.gate_rate * m, how.rho * share * how.gate_rate))

        self.theta.zero_grad()
        again = self.replayed(made.detach())
        l_d = ((d(real) - 1).square().mean() + d(again).square().mean()) / 2
        l_d.backward()
        self.theta.step()
        self.at["step"] = t + 1
        if (t + 1) % max(1, job.total // 100) == 0:
            left = sum(int((gamma != 0).sum()) for gamma in self.gamma)
            losses = {"loss": l_gan + how.beta * l_dist, "distance": l_dist, "discriminator": l_d}
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            job.log(t + 1, values | ({"channels": float(left)} if self.gamma else {}))
        job.progress(t + 1, job.total, "")

    def l_dist(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return how far made pictures are from the teacher's."""
        if self.how.distance == "mse":
            return functional.mse_loss(made, real)
        assert self.teacher is not None
        d: Discriminator = self.teacher.discriminator
        mine, its = d.features(made), d.features(real)
        grams = [(gram(a) - gram(b)).square().mean() for a, b in zip(mine, its, strict=True)]
        return (mine[0] - its[0]).abs().mean() + torch.stack(grams).sum()

    def replayed(self, made: torch.Tensor) -> torch.Tensor:
        """Return a batch for θ: half of it, on average, made earlier (Shrivastava et al., arXiv 1612.07828)."""
        batch = []
        for picture in made if self.how.replay else ():
            if len(self.shown) < self.how.replay:
                self.shown = picture[None].clone() if not len(self.shown) else torch.cat([self.shown, picture[None]])
                batch.append(picture)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.how.replay, ()))
                batch.append(self.shown[place].clone())
                self.shown[place] = picture
            else:
                batch.append(picture)
        return torch.stack(batch) if batch else made

    def finish(self) -> TrainResult:
        """Bake what was rounded, bring the channels that are left to the front, say what it cost."""
        job, net = self.job, self.net
        self.checkpoints.save()
        bake(net)
        arch = compact(net) if self.how.rho else None
        examples = job.total * job.options.batch_size
        forward = net.forward_macs(examples)
        seconds = time.perf_counter() - self.began
        entry = LedgerEntry("student", job.total, examples, examples, forward, 2 * forward, 0, seconds)
        net.eval().zero_grad()
        return TrainResult(net, arch, [entry])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside weights and optimisers."""
        return {"at": dict(self.at), "momentum": self.momentum, "shown": self.shown}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self.at, self.shown = dict(state["at"]), state["shown"]
        self.momentum = [tensor.clone() for tensor in state["momentum"]]


def gram(features: torch.Tensor) -> torch.Tensor:
    """Return how channels occur together, ``(batch, channels, channels)``, per place and channel."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])
