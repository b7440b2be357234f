"""What every trainer must do, as checks: subclass :class:`TrainerContract`, say how to make yours, run pytest.

class TestMine(TrainerContract):
    def make(self):
        return MyTrainer()
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob, TrainResult
from nasframe.records import Arch, TrainOptions, Trial
from nasframe.testing.kit import Contract, check, is_plain, require, require_no_global_randomness, stored
from nasframe.testing.nets import apart, outputs_of, same_weights
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net

MOMENTS = ("on_batch", "on_loss", "on_gradients", "on_update")


class Crash(Exception):
    """Raised by :class:`Fuse`."""


class Fuse(Modifier):
    """A modifier that stops training at the end of a step, and counts the moments it was called at."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.moments = at, []  # type: ignore[var-annotated]

    def on_start(self, job: TrainJob) -> None:
        """Note it."""
        self.moments.append(f"on_start {job.total}")

    def on_batch(self, step: Any) -> None:
        """Note it."""
        self.moments.append("on_batch")

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        """Note it."""
        self.moments.append("on_loss")
        return loss

    def on_gradients(self, step: Any) -> None:
        """Note it."""
        self.moments.append("on_gradients")

    def on_update(self, step: Any) -> None:
        """Note it, and stop where it is time."""
        self.moments.append("on_update")
        if step.index == self.at:
            raise Crash

    def on_finish(self, job: TrainJob) -> None:
        """Note it."""
        self.moments.append("on_finish")


class Memory:
    """A checkpoint: what a trainer saved last, having been on disk."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        """Return a copy of the last state."""
        return copy.deepcopy(self.state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state as a run keeps it."""
        self.state = stored(state, "the stage")


class Proposer:
    """A sampler that draws from the domain and remembers what it was told."""

    def __init__(self, domain: Any) -> None:
        self.domain, self.rng = domain, np.random.default_rng(0)
        self.asked: list[Arch] = []
        self.told: list[Trial] = []

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw."""
        archs = [(within or self.domain).sample(self.rng) for _ in range(n)]
        self.asked += copy.deepcopy(archs)
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Remember."""
        self.told += trials

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.rng.bit_generator.state = state["rng"]


def toy_job(net: Any = None, **fields: Any) -> TrainJob:
    """Make a short training stage on the toy task, in fp32; fields of ``TrainOptions`` may be given too."""
    options = {"precision": "fp32", "max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 0.0}
    names = TrainOptions.__dataclass_fields__
    options |= {name: fields.pop(name) for name in list(fields) if name in names}
    job: dict[str, Any] = {"net": net or tiny_net(), "task": ToyTask(), "tokenizer": None, "seed": 0, "stage": "toy"}
    job |= {"models": {"teacher": tiny_net(seed=1)}} | fields
    return TrainJob(options=TrainOptions(**options), **job)  # type: ignore[arg-type]


class TrainerContract(Contract):
    """The checks, on a tiny network, the toy task and the toy space."""

    kind = "trainer"

    def make(self) -> Any:
        """Make the trainer under test."""
        return self.registered()

    def job(self, **fields: Any) -> TrainJob:
        """Make a short stage with sub-networks; override where the trainer needs another."""
        space = fields.setdefault("space", ToySpace())
        fields.setdefault("sampler", Proposer(space.domain))
        return toy_job(**{"archs_per_step": 2, **fields})

    @check
    def test_it_trains(self) -> None:
        """The network's weights change, it comes back in eval mode, and the costs are written down."""
        job = self.job()
        before = copy.deepcopy(job.net)
        result = self.make().fit(job)
        require(isinstance(result, TrainResult), f"fit gave {type(result).__name__}; return a TrainResult")
        require(not same_weights(before, result.net), "no weight changed")
        require(not result.net.training, "the network comes back in train mode; call net.eval()")
        require(all(bool(torch.isfinite(p).all()) for p in result.net.parameters()), "weights are not finite")
        student = [entry for entry in result.ledger if entry.role == "student"]
        require(len(student) == 1, "the ledger has no row 'student'; return LedgerEntry('student', steps, examples, …)")
        entry = student[0]
        counted = min(entry.steps, entry.examples, entry.tokens, entry.forward_macs, entry.backward_macs) > 0
        require(counted, f"the ledger's student row is {entry}; count steps, examples, tokens and MACs")
        require(entry.steps == 6, f"the ledger counts {entry.steps} steps, max_steps was 6")

    @check
    def test_the_same_job_gives_the_same_weights(self) -> None:
        """Training can be repeated, whatever the global generators hold, and leaves them alone."""

        def result() -> Any:
            return self.make().fit(self.job()).net

        own = "torch.random.fork_rng and nasframe.seeds.stream_seed"
        require_no_global_randomness(result, same_weights, own)

    @check
    def test_an_interrupted_stage_ends_the_same(self) -> None:
        """A crash at any step and a resume give the weights of a stage that was not interrupted."""
        whole = self.make().fit(self.job(modifiers=[Fuse()])).net
        for at in (0, 3, 5):
            memory, crashed = Memory(), False
            try:
                self.make().fit(self.job(modifiers=[Fuse(at)], checkpoint=memory))
            except Crash:
                crashed = True
            require(crashed, "an exception of a modifier was swallowed; let it through")
            if at > 1:
                require(
                    memory.state is not None, "nothing was saved although checkpoint_every is 0; call save each step"
                )
            net = self.make().fit(self.job(modifiers=[Fuse()], checkpoint=memory)).net
            require(
                same_weights(whole, net),
                f"resumed after a crash in step {at}, the weights are others; save weights, optimiser, position, "
                "sampler and modifiers, and seed noise by step (nasframe.seeds)",
            )

    @check
    def test_the_sampler_hears_of_every_proposal(self) -> None:
        """Each is told once, in order, with minus its loss, as training; proposals are from ``within``."""
        space = ToySpace()
        sampler = Proposer(space.domain)
        within = space.domain.restrict({"ffn": [16]})
        self.make().fit(self.job(space=space, sampler=sampler, within=within))
        require(sampler.asked, "the sampler was never asked; ask(options.archs_per_step, within=job.within)")
        inside = all(within.contains(arch) for arch in sampler.asked)
        require(inside, "the sampler was asked without job.within; pass it on")
        told = [dict(trial.arch) for trial in sampler.told]
        require(told == sampler.asked, f"{len(sampler.asked)} archs were proposed, {len(told)} told, or out of order")
        fine = all(t.origin == "train" and t.score is not None and math.isfinite(t.score) for t in sampler.told)
        require(fine, "a trial of training has origin='train' and minus the loss as score")

    @check
    def test_modifiers_are_called_at_their_moments(self) -> None:
        """Start once, then batch and loss for each architecture, gradients and update for each step, finish once."""
        fuse = Fuse()
        self.make().fit(self.job(modifiers=[fuse], archs_per_step=1, max_steps=2))
        expected = ["on_start 2", *MOMENTS * 2, "on_finish"]
        require(fuse.moments == expected, f"a modifier was called at {fuse.moments}; expected {expected}")

    @check
    def test_what_modifiers_claim_is_left_alone(self) -> None:
        """Parameters that a modifier optimises itself are not in the trainer's optimiser."""

        class Claims(Modifier):
            def claims(self, net: Any) -> list[Any]:
                return [net.classifier.weight]

        job = self.job(modifiers=[Claims()])
        before = job.net.get_parameter("classifier.weight").detach().clone()
        net = self.make().fit(job).net
        require(
            torch.equal(net.get_parameter("classifier.weight"), before),
            "a claimed parameter changed; leave modifier.claims(net) out",
        )

    @check
    def test_a_modifier_may_answer_with_an_architecture(self) -> None:
        """It is in the result, and two answers are one too many."""

        class Answers(Modifier):
            returns_arch = True

            def on_finish(self, job: TrainJob) -> Arch:
                return {"layers": [0]}

        result = self.make().fit(self.job(modifiers=[Answers()]))
        require(
            result.arch == {"layers": [0]}, f"a modifier answered with an architecture, the result has {result.arch}"
        )
        require(is_plain(result.arch), "the result's architecture is not JSON-plain")
        try:
            self.make().fit(self.job(modifiers=[Answers(), Answers()]))
        except UsageError:
            return
        require(False, "two modifiers answered and nothing was said; raise UsageError")

    @check
    def test_sizes_stay_as_they_are(self) -> None:
        """Shapes never change inside a stage; sub-networks are views."""
        job = self.job()
        shapes = {name: tensor.shape for name, tensor in job.net.state_dict().items()}
        net = self.make().fit(job).net
        require(
            {n: t.shape for n, t in net.state_dict().items()} == shapes, "shapes changed; train views of the network"
        )
        require(math.isfinite(apart(outputs_of(net, tiny_inputs()), outputs_of(net, tiny_inputs()))), "no output")
