"""What every modifier must do, as checks: subclass :class:`ModifierContract`, say how to make yours, run pytest.

class TestMine(ModifierContract):
    def make(self):
        return MyModifier()
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from nasframe import registry
from nasframe.errors import DivergedError, UsageError
from nasframe.interfaces import Modifier, TrainJob, member
from nasframe.testing.kit import (
    Contract,
    check,
    is_plain,
    require,
    require_no_global_randomness,
    stored,
)
from nasframe.testing.nets import Snapshot, listed, outputs_of, require_no_hooks_left, same_weights
from nasframe.testing.toy import ToySpace, tiny_inputs
from nasframe.testing.trainers import Crash, Fuse, Memory, Proposer, toy_job


class Watch(Modifier):
    """Stands behind the modifier under test and looks at what it did; shapes by name are those at the start."""

    def __init__(self, shapes: Any) -> None:
        self.shapes, self.changed = shapes, set[str]()
        self.losses: list[Any] = []

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        """Look at the loss that was made."""
        self.losses.append(loss)
        return loss

    def on_update(self, step: Any) -> None:
        """Look at the shapes of the tensors that act."""
        for name, module in step.job.net.named_modules():
            for kind in ("weight", "bias"):
                tensor = getattr(module, kind, None)
                path = f"{name}.{kind}"
                if isinstance(tensor, torch.Tensor) and tensor.shape != self.shapes.get(path, tensor.shape):
                    self.changed.add(path)


@dataclass(frozen=True)
class Trained:
    """A stage that was trained: the job, what came out, and what was seen on the way."""

    job: Any
    result: Any
    watch: Watch


class ModifierContract(Contract):
    """The checks: short trainings of a tiny network by the trainer ``loop``, with a teacher saved as ``teacher``.

    A modifier may refuse a kind of stage with ``UsageError``; it is then checked on the others.
    """

    kind = "modifier"

    def make(self) -> Any:
        """Make the modifier under test."""
        return self.registered()

    def job(self, **fields: Any) -> TrainJob:
        """Make a short training stage; override where the modifier needs another network, task or space."""
        return toy_job(**{"max_steps": 4, **fields})

    def shapes(self) -> list[dict[str, Any]]:
        """List stages: the largest, the smallest and another sub-network; the network in micro-batches; one arch."""
        space: Any = ToySpace()
        sampler = registry.make("sampler", "sandwich", inject={"domain": space.domain, "seed": 0})
        return [
            {"space": space, "sampler": sampler, "archs_per_step": 3},
            {"accumulate": 2},
            {"space": space, "arch": space.domain.smallest()},
        ]

    def accepted(self) -> list[dict[str, Any]]:
        """List the shapes that the modifier does not refuse."""
        taken = (stage is not None for stage in _trained(cast(Any, type(self))))
        return [shape for shape, fine in zip(self.shapes(), taken, strict=True) if fine]

    def jobs(self) -> list[TrainJob]:
        """Make a stage of every shape that the modifier accepts."""
        return [self.made(shape) for shape in self.accepted()]

    def made(self, shape: Mapping[str, Any], *after: Modifier, **fields: Any) -> TrainJob:
        """Make a stage of a shape."""
        return self.job(**shape, **fields, modifiers=[self.make(), *after])

    def fit(self, job: TrainJob) -> Any:
        """Train; a training that diverges is the modifier's fault, since the toy's own does not."""
        try:
            return registry.make("trainer", "loop").fit(job)
        except DivergedError as error:
            require(False, f"on_loss gave a loss that is not finite; guard logarithms and divisions ({error})")

    def trained(self) -> list[Trained]:
        """Return one training of every shape, run once for all checks that only look at it."""
        return [stage for stage in _trained(cast(Any, type(self))) if stage is not None]

    @check
    def test_some_stage_is_accepted(self) -> None:
        """It refuses not all of them."""
        if not self.trained():
            try:
                self.fit(self.made(self.shapes()[0]))
            except UsageError as error:
                require(False, f"every stage is refused ({error}); say in 'job' which one the modifier goes with")

    @check
    def test_what_is_planned_is_not_refused(self) -> None:
        """``on_plan``, where there is one, takes every stage that ``on_start`` takes, without weights or network."""
        for shape in self.accepted():
            for sizes in (True, False):
                job = self.made(shape)
                modifier, net = job.modifiers[0], copy.deepcopy(job.net).to("meta") if sizes else None
                job = replace(job, net=cast(Any, net), task=cast(Any, None), models={}, total=4)
                try:
                    getattr(modifier, "on_plan", lambda job: None)(job)
                except (UsageError, AttributeError, RuntimeError, KeyError) as error:
                    what = "a network without values" if sizes else "no network yet"
                    require(False, f"on_plan, given {what}, gave {error!r} for a stage that on_start takes")

    @check
    def test_it_goes_with_every_stage(self) -> None:
        """Sub-networks from a sampler, the whole network in micro-batches, one sub-network: losses stay finite."""
        for stage in self.trained():
            odd = [loss for loss in stage.watch.losses if not isinstance(loss, torch.Tensor) or loss.ndim]
            require(not odd, f"on_loss gave {odd[:1]}; return the loss, a tensor without dimensions")
            require(all(loss.requires_grad for loss in stage.watch.losses), "on_loss gave a loss without a gradient")
            finite = all(bool(torch.isfinite(loss)) for loss in stage.watch.losses)
            require(finite, "on_loss gave a loss that is not finite; guard logarithms and divisions")
            logits = outputs_of(stage.result.net, tiny_inputs())
            require(bool(torch.isfinite(logits).all()), "the trained network's outputs are not finite")

    @check
    def test_shapes_are_left_alone(self) -> None:
        """Inside a stage nothing is resized, and at its end every tensor is there as it was, with its name."""
        for stage in self.trained():
            shapes, changed = stage.watch.shapes, stage.watch.changed
            require(
                not changed, f"shapes changed in training ({listed(changed)}); mask, project or lower step.arch instead"
            )
            now = {name: tensor.shape for name, tensor in stage.result.net.state_dict().items()}
            other = {name for name in shapes.keys() | now.keys() if shapes.get(name) != now.get(name)}
            require(
                not other,
                f"after the stage the network has other tensors ({listed(other)}); undo masks and parametrisations "
                "in on_finish",
            )

    @check
    def test_hooks_are_removed(self) -> None:
        """What ``on_start`` hangs into the network, ``on_finish`` takes out."""
        for stage in self.trained():
            plain = self.plain(stage.job)
            who = "after the stage; remove in on_finish what on_start registered"
            require_no_hooks_left(stage.result.net, plain, who)

    def plain(self, job: Any) -> Snapshot:
        """Return what the same stage leaves behind without the modifier."""
        sampler = Proposer(job.space.domain) if job.sampler else None
        other = self.job(space=job.space, arch=job.arch, sampler=sampler, max_steps=1, modifiers=[needs := Modifier()])
        needs.needs = job.modifiers[0].needs
        return Snapshot.of(self.fit(other).net)

    @check
    def test_an_interrupted_stage_ends_the_same(self) -> None:
        """A crash and a resume give the weights of a stage that was not interrupted."""
        for number, whole in enumerate(stage.result for stage in self.trained()):
            memory = Memory()
            try:
                self.fit(self.made(self.accepted()[number], Fuse(2), checkpoint=memory))
                require(False, "the stage ended before its third step; do not swallow exceptions of others")
            except Crash:
                pass
            result = self.fit(self.made(self.accepted()[number], Fuse(), checkpoint=memory))
            require(
                same_weights(whole.net, result.net) and whole.arch == result.arch,
                "resumed after a crash, the result is another; put all that changes from step to step into state_dict",
            )

    @check
    def test_the_state_is_plain(self) -> None:
        """It can be stored, and a fresh modifier takes it."""
        for stage in self.trained():
            self.make().load_state_dict(stored(stage.job.modifiers[0].state_dict(), "the modifier"))

    @check
    def test_claims_are_parameters_of_the_network(self) -> None:
        """What is claimed can be left out of the optimiser."""
        for job in self.jobs():
            modifier = job.modifiers[0]
            modifier.on_start(job)
            own = {id(parameter) for parameter in job.net.parameters()}
            strange = [p for p in modifier.claims(job.net) if not isinstance(p, torch.nn.Parameter)]
            require(not strange, f"claims gave {strange[:1]}; return parameters")
            foreign = sum(id(parameter) not in own for parameter in modifier.claims(job.net))
            require(
                foreign < max(len(own), 1),
                "claims names no parameter of the network; return those that the modifier optimises itself",
            )

    @check
    def test_an_answer_is_an_architecture(self) -> None:
        """What ``on_finish`` returns is ``None`` or a plain architecture."""
        for stage in self.trained():
            arch = stage.result.arch
            require(arch is None or is_plain(arch), f"on_finish gave {arch!r}; return None or a JSON-plain mapping")

    @check
    def test_an_answer_is_said_in_advance(self) -> None:
        """Two modifiers that answer with an architecture are refused before a stage begins, by what they say."""
        for stage in self.trained():
            arch = stage.result.arch
            is_announced = member(self.make(), "returns_arch", False)
            text = f"on_finish gave {arch!r}; say so in advance: returns_arch = True"
            require(arch is None or is_announced, text)

    @check
    def test_two_stages_are_independent(self) -> None:
        """A second modifier of the same options knows nothing of the first, and numbers come from the stage's seed."""

        def result() -> Any:
            return [self.fit(self.made(shape)).net for shape in self.accepted()[:1]]

        def same(a: Any, b: Any) -> bool:
            return all(same_weights(x, y) for x, y in zip(a, b, strict=True))

        own = "torch's generator, which the loop seeds at every step, and keep state in self"
        require_no_global_randomness(result, same, own)


@functools.cache
def _trained(contract: Any) -> list[Trained | None]:
    """Train one stage of every shape; those that are refused give ``None``."""
    instance: ModifierContract = contract()
    found: list[Trained | None] = []
    for shape in instance.shapes():
        watch = Watch({})
        job = instance.made(shape, watch)
        outputs_of(job.net, tiny_inputs())  # transformers installs hooks of its own on first use
        watch.shapes = {name: tensor.shape for name, tensor in job.net.state_dict().items()}
        try:
            found.append(Trained(job, instance.fit(job), watch))
        except UsageError:
            found.append(None)
    return found
