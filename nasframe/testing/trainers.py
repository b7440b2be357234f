"""What every trainer must do, as checks: subclass :class:`TrainerContract`, define ``make``, run pytest.

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
from nasframe.interfaces import Modifier, TrainerTraits, TrainJob, TrainResult, traits_of
from nasframe.records import Arch, TrainOptions, Trial
from nasframe.testing.kit import Contract, check, is_plain, require, require_no_global_randomness, stored
from nasframe.testing.nets import listed, outputs_of, same_weights, shapes_of
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net

MOMENTS = ("on_batch", "on_loss", "on_gradients", "on_update")
STEPS = 6
"""Optimiser steps of a toy stage."""


class Crash(Exception):
    """Raised by :class:`Fuse`."""


class Fuse(Modifier):
    """A modifier that raises :class:`Crash` at the end of a step, and records the moments at which it was called.

    Args:
        at: the step; -1 never crashes.
    """

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.moments: list[str] = []

    def on_start(self, job: TrainJob) -> None:
        """Record the call and the stage's number of steps."""
        self.moments.append(f"on_start {job.total}")

    def on_batch(self, step: Any) -> None:
        """Record the call."""
        self.moments.append("on_batch")

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        """Record the call."""
        self.moments.append("on_loss")
        return loss

    def on_gradients(self, step: Any) -> None:
        """Record the call."""
        self.moments.append("on_gradients")

    def on_update(self, step: Any) -> None:
        """Record the call, and crash if this is the step to crash at."""
        self.moments.append("on_update")
        if step.index == self.at:
            raise Crash

    def on_finish(self, job: TrainJob) -> None:
        """Record the call."""
        self.moments.append("on_finish")


class Memory:
    """A checkpoint that holds the state a trainer saved last, as it comes back from a file."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        """Return a copy of the last state."""
        return copy.deepcopy(self.state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state to disk and read it again, as a run does."""
        self.state = stored(state, "the stage")


class Proposer:
    """A sampler that draws at random and records what was proposed and told."""

    def __init__(self, domain: Any) -> None:
        self.domain = domain
        self.rng = np.random.default_rng(0)
        self.asked: list[Arch] = []
        self.told: list[Trial] = []

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw from the domain, or from the part of it that the stage may use."""
        domain = within or self.domain
        archs = [domain.sample(self.rng) for _ in range(n)]
        self.asked += copy.deepcopy(archs)  # the trainer might change its own
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record the trials."""
        self.told += trials

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]


def toy_job(net: Any = None, **fields: Any) -> TrainJob:
    """Return a short training stage on the toy task, in fp32.

    Args:
        net: the network; by default a tiny encoder.
        fields: fields of ``TrainJob`` and of ``TrainOptions`` that differ from the toy's.
    """
    options: dict[str, Any] = {
        "precision": "fp32",
        "max_steps": STEPS,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "checkpoint_every": 0.0,  # after every step
    }
    job_fields: dict[str, Any] = {}
    for name, value in fields.items():  # the two records have no field in common
        if name in TrainOptions.__dataclass_fields__:
            options[name] = value
        else:
            job_fields[name] = value
    if "models" not in job_fields:
        job_fields["models"] = {"teacher": tiny_net(seed=1)}
    defaults: dict[str, Any] = {"task": ToyTask(), "tokenizer": None, "seed": 0, "stage": "toy"}
    return TrainJob(net=net or tiny_net(), options=TrainOptions(**options), **{**defaults, **job_fields})


class TrainerContract(Contract):
    """The checks, on a tiny network, the toy task and the toy space."""

    kind = "trainer"

    def make(self) -> Any:
        """Make the trainer under test."""
        return self.registered()

    def takes_modifiers(self) -> bool:
        """Tell whether modifiers and a sampler have a place in the trainer's loop."""
        return traits_of(TrainerTraits, self.make()).takes_modifiers

    def watched(self, at: int) -> dict[str, Any]:
        """Return fields of a job that raises :class:`Crash` at the end of a step; -1 never crashes."""
        if self.takes_modifiers():
            return {"modifiers": [Fuse(at)]}

        def progress(done: int, total: int, note: str) -> None:
            if done == at + 1:
                raise Crash

        return {"progress": progress}

    def job(self, **fields: Any) -> TrainJob:
        """Return a short stage that trains sub-networks; override it if your trainer needs another one."""
        space = fields.setdefault("space", ToySpace())
        fields.setdefault("sampler", Proposer(space.domain))
        fields.setdefault("archs_per_step", 2)
        return toy_job(**fields)

    @check
    def test_it_trains(self) -> None:
        """The weights change, the network returns in eval mode, and the ledger has the costs."""
        job = self.job()
        before = copy.deepcopy(job.net)  # training is in place
        result = self.make().fit(job)
        require(isinstance(result, TrainResult), f"fit returned a {type(result).__name__}; return a TrainResult")
        require(not same_weights(before, result.net), "no weight changed; step an optimiser over job.net.parameters()")
        require(not result.net.training, "the network returns in train mode; call net.eval() at the end")
        is_finite = all(bool(torch.isfinite(parameter).all()) for parameter in result.net.parameters())
        require(is_finite, "some weights are not finite after the stage; check the loss and the learning rate")
        # Studies compare methods at equal cost, which they read from the ledger.
        rows = [entry for entry in result.ledger if entry.role == "student"]
        require(
            len(rows) == 1,
            f"the ledger has {len(rows)} rows 'student'; return one LedgerEntry('student', steps, examples, …)",
        )
        row = rows[0]
        least = min(row.steps, row.examples, row.tokens, row.forward_macs, row.backward_macs)
        require(least > 0, f"the ledger's student row is {row}; count steps, examples, tokens and MACs")
        require(
            row.steps == STEPS, f"the ledger has {row.steps} steps, but max_steps was {STEPS}; count optimiser steps"
        )

    @check
    def test_the_same_job_gives_the_same_weights(self) -> None:
        """Training can be repeated: it neither reads nor changes the global random generators."""

        def net() -> Any:
            return self.make().fit(self.job()).net

        source = "torch.random.fork_rng and nasframe.seeds.stream_seed"
        require_no_global_randomness(net, same_weights, source)

    @check
    def test_an_interrupted_stage_ends_the_same(self) -> None:
        """A stage that is resumed after a crash ends with the weights of an uninterrupted one."""
        whole = self.make().fit(self.job(**self.watched(-1))).net
        for crash_step in (0, 3, STEPS - 1):  # before the first checkpoint, in the middle, and in the last step
            memory = Memory()
            has_crashed = False
            try:
                self.make().fit(self.job(**self.watched(crash_step), checkpoint=memory))
            except Crash:
                has_crashed = True
            require(has_crashed, "a modifier's exception was swallowed; let it through")
            has_saved = memory.state is not None or crash_step <= 1  # nothing may be saved before the first step ends
            require(has_saved, "nothing was saved although checkpoint_every is 0; call checkpoint.save after each step")
            net = self.make().fit(self.job(**self.watched(-1), checkpoint=memory)).net
            require(
                same_weights(whole, net),
                f"after a crash in step {crash_step} and a resume, the weights differ; save weights, optimiser, "
                "position, sampler and modifiers, and seed noise by step (nasframe.seeds)",
            )

    @check
    def test_the_sampler_hears_of_every_proposal(self) -> None:
        """The sampler hears the loss of every proposal once and in order, and is asked ``within`` the stage's part."""
        if not self.takes_modifiers():
            return
        space = ToySpace()
        sampler = Proposer(space.domain)
        within = space.domain.restrict({"ffn": [16]})  # draws from the whole domain would rarely be in it
        self.make().fit(self.job(space=space, sampler=sampler, within=within))
        require(sampler.asked, "the sampler was never asked; call ask(options.archs_per_step, within=job.within)")
        is_inside = all(within.contains(arch) for arch in sampler.asked)
        require(is_inside, "the sampler was asked without job.within; pass it on")
        told = [dict(trial.arch) for trial in sampler.told]
        require(
            told == sampler.asked,
            f"{len(sampler.asked)} archs were proposed, but {len(told)} told, or in another order; tell each once",
        )
        for trial in sampler.told:
            is_score = trial.score is not None and math.isfinite(trial.score)
            require(
                is_score and trial.origin == "train",
                f"the sampler was told {trial}; tell trials with origin='train' and the negative loss as score",
            )

    @check
    def test_modifiers_are_called_at_their_moments(self) -> None:
        """A modifier is called at the start, four times in each step of one architecture, and at the end."""
        if not self.takes_modifiers():
            return
        fuse = Fuse()
        # With one architecture, every step has each moment once.
        self.make().fit(self.job(modifiers=[fuse], archs_per_step=1, max_steps=2))
        expected = ["on_start 2", *MOMENTS, *MOMENTS, "on_finish"]
        require(fuse.moments == expected, f"a modifier was called at {fuse.moments}; call it at {expected}")

    @check
    def test_what_modifiers_claim_is_left_alone(self) -> None:
        """The trainer's optimiser leaves out the parameters that a modifier optimises itself."""
        if not self.takes_modifiers():
            return

        class Claims(Modifier):
            def claims(self, net: Any) -> list[Any]:
                return [net.classifier.weight]

        # The classifier, because every sub-network uses it: a trainer that ignores claims is sure to change it.
        job = self.job(modifiers=[Claims()])
        before = job.net.get_parameter("classifier.weight").detach().clone()
        net = self.make().fit(job).net
        after = net.get_parameter("classifier.weight")
        require(
            torch.equal(after, before),
            "a claimed parameter changed; leave modifier.claims(net) out of the optimiser",
        )

    @check
    def test_a_modifier_may_answer_with_an_architecture(self) -> None:
        """The result has the architecture that a modifier returns; two such modifiers are an error."""
        if not self.takes_modifiers():
            return

        class ReturnsArch(Modifier):
            returns_arch = True

            def on_finish(self, job: TrainJob) -> Arch:
                return {"layers": [0]}

        result = self.make().fit(self.job(modifiers=[ReturnsArch()]))
        require(
            result.arch == {"layers": [0]},
            f"a modifier returned an architecture, but the result has {result.arch}; return TrainResult(arch=…)",
        )
        require(is_plain(result.arch), "the result's architecture is not JSON-plain; return it as the modifier did")
        try:
            self.make().fit(self.job(modifiers=[ReturnsArch(), ReturnsArch()]))
        except UsageError:
            return
        require(False, "two modifiers returned an architecture, and there was no error; raise UsageError")

    @check
    def test_sizes_stay_as_they_are(self) -> None:
        """Shapes never change inside a stage, because sub-networks are views."""
        job = self.job()
        before = shapes_of(job.net)
        net = self.make().fit(job).net
        after = shapes_of(net)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        require(not changed, f"shapes changed ({listed(changed)}); train views of the network")
        logits = outputs_of(net, tiny_inputs())
        require(bool(torch.isfinite(logits).all()), "the trained network's outputs are not finite")
