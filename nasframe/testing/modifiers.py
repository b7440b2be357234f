"""What every modifier must do, as checks: subclass :class:`ModifierContract`, define ``make``, run pytest.

class TestMine(ModifierContract):
    def make(self):
        return MyModifier()
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from nasframe import registry
from nasframe.errors import DivergedError, UsageError
from nasframe.interfaces import Modifier, TrainJob, TrainResult, member
from nasframe.testing.kit import Contract, check, is_plain, require, require_no_global_randomness, stored
from nasframe.testing.nets import Snapshot, listed, outputs_of, require_no_hooks_left, same_weights, shapes_of
from nasframe.testing.toy import ToySpace, tiny_inputs
from nasframe.testing.trainers import Crash, Fuse, Memory, Proposer, toy_job


class Watch(Modifier):
    """A modifier that comes after the one under test and records what that one did.

    Attributes:
        shapes: name → shape of each tensor before the stage.
        resized: names of tensors that had another shape inside the stage.
        losses: the loss of each step and architecture.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, torch.Size] = {}
        self.resized: set[str] = set()
        self.losses: list[Any] = []

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        """Record the loss."""
        self.losses.append(loss)
        return loss

    def on_update(self, step: Any) -> None:
        """Compare the shapes of the weights as they act, also behind parametrisations."""
        for name, module in step.job.net.named_modules():
            for kind in ("weight", "bias"):
                tensor = getattr(module, kind, None)
                path = f"{name}.{kind}"
                if isinstance(tensor, torch.Tensor) and tensor.shape != self.shapes.get(path, tensor.shape):
                    self.resized.add(path)


@dataclass(frozen=True)
class Trained:
    """A stage that was trained: its job, its result, and what was recorded in between."""

    job: TrainJob
    result: TrainResult
    watch: Watch


class ModifierContract(Contract):
    """The checks: short trainings of a tiny network by the trainer ``loop``, with a teacher saved as ``teacher``.

    A modifier may refuse a kind of stage with ``UsageError``; it is then checked in the others.

    Attributes:
        steps: optimiser steps of a stage; with four of them a stage can crash in the middle and still go on after it.
    """

    kind = "modifier"
    steps = 4

    def make(self) -> Any:
        """Make the modifier under test."""
        return self.registered()

    def job(self, **fields: Any) -> TrainJob:
        """Return a short training stage; override it if your modifier needs another network, task or space."""
        return toy_job(**{"max_steps": self.steps, **fields})

    def shapes(self) -> list[dict[str, Any]]:
        """Return the fields of three kinds of stages.

        They train several sub-networks in each step, the whole network in micro-batches, and one sub-network.
        """
        space: Any = ToySpace()
        sampler = registry.make("sampler", "sandwich", inject={"domain": space.domain, "seed": 0})
        return [
            {"space": space, "sampler": sampler, "archs_per_step": 3},
            {"accumulate": 2},
            {"space": space, "arch": space.domain.smallest()},
        ]

    def accepted(self) -> list[dict[str, Any]]:
        """Return the kinds of stages that the modifier does not refuse."""
        stages = _trained_stages(cast(Any, type(self)))
        # New shapes and not those that were trained: samplers remember what they were told.
        return [shape for shape, stage in zip(self.shapes(), stages, strict=True) if stage is not None]

    def jobs(self) -> Iterator[TrainJob]:
        """Yield a new stage of every kind that the modifier accepts."""
        for shape in self.accepted():
            yield self.made(shape)

    def made(self, shape: Mapping[str, Any], *after: Modifier, **fields: Any) -> TrainJob:
        """Return a stage of a kind with the modifier under test, and others after it."""
        return self.job(**shape, **fields, modifiers=[self.make(), *after])

    def fit(self, job: TrainJob) -> Any:
        """Train; if training diverges, the modifier is the cause, because the toy stage does not."""
        try:
            return registry.make("trainer", "loop").fit(job)
        except DivergedError as error:
            require(False, f"on_loss returned a loss that is not finite; guard logarithms and divisions ({error})")

    def trained(self) -> list[Trained]:
        """Return one trained stage of each accepted kind; they are trained once for all checks that only read them."""
        stages = _trained_stages(cast(Any, type(self)))
        return [stage for stage in stages if stage is not None]

    @check
    def test_some_stage_is_accepted(self) -> None:
        """The modifier accepts at least one kind of stage."""
        if self.trained():
            return
        try:
            self.fit(self.made(self.shapes()[0]))
        except UsageError as error:
            require(
                False, f"every stage is refused ({error}); override 'job' to return a stage that suits the modifier"
            )

    @check
    def test_what_is_planned_is_not_refused(self) -> None:
        """``validate``, if there is one, accepts what ``on_start`` accepts, without weights and without a network."""
        for shape in self.accepted():
            for is_known in (True, False):  # an earlier stage may decide the network's sizes
                job = self.made(shape)
                modifier = job.modifiers[0]
                validate = member(modifier, "validate")
                if validate is None:
                    return
                net: Any = copy.deepcopy(job.net).to("meta") if is_known else None
                # All that a plan does not have yet is missing here, so that reading it raises an error.
                planned = replace(job, net=net, task=cast(Any, None), models={}, total=self.steps)
                try:
                    validate(planned)
                except (UsageError, AttributeError, RuntimeError, KeyError) as error:
                    what = "a network without values" if is_known else "no network (job.net is None)"
                    require(
                        False,
                        f"validate, given {what}, raised {error!r} for a stage that on_start accepts; check only what "
                        "is known before a run",
                    )

    @check
    def test_it_goes_with_every_stage(self) -> None:
        """In every kind of stage, losses and the trained network's outputs are finite."""
        for stage in self.trained():
            losses = stage.watch.losses  # as the modifier returned them: the watch comes after it
            not_losses = [loss for loss in losses if not isinstance(loss, torch.Tensor) or loss.ndim]
            require(
                not not_losses, f"on_loss returned {not_losses[:1]}; return the loss as a tensor without dimensions"
            )
            has_gradients = all(loss.requires_grad for loss in losses)
            require(
                has_gradients, "on_loss returned a loss without a gradient; compute it from step.outputs with torch"
            )
            is_finite = all(bool(torch.isfinite(loss)) for loss in losses)
            require(is_finite, "on_loss returned a loss that is not finite; guard logarithms and divisions")
            logits = outputs_of(stage.result.net, tiny_inputs())
            require(
                bool(torch.isfinite(logits).all()),
                "the trained network's outputs are not finite; check what on_update and on_finish do to the weights",
            )

    @check
    def test_shapes_are_left_alone(self) -> None:
        """No tensor is resized inside a stage, and after it the network has the tensors it had before."""
        # The optimiser's state and the sizes of sub-networks refer to positions, which a resize would shift.
        for stage in self.trained():
            resized = stage.watch.resized
            require(
                not resized,
                f"shapes changed during training ({listed(resized)}); mask, project or lower step.arch instead",
            )
            before = stage.watch.shapes
            after = shapes_of(stage.result.net)
            changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            require(
                not changed,
                f"after the stage the network has other tensors ({listed(changed)}); undo masks and parametrisations "
                "in on_finish",
            )

    @check
    def test_hooks_are_removed(self) -> None:
        """``on_finish`` removes the hooks that ``on_start`` registered."""
        for stage in self.trained():
            # A hook that stays would run in every later stage, and in exported models.
            without_modifier = self.plain(stage.job)
            advice = "remove in on_finish what on_start registered"
            require_no_hooks_left(stage.result.net, without_modifier, "the stage", advice)

    def plain(self, job: Any) -> Snapshot:
        """Return a snapshot of what the same stage leaves behind without the modifier.

        The loop and transformers leave hooks of their own, which depend on the outputs that are asked for.
        """
        asks_for_outputs = Modifier()
        asks_for_outputs.needs = job.modifiers[0].needs
        sampler = Proposer(job.space.domain) if job.sampler else None
        plain_job = self.job(space=job.space, arch=job.arch, sampler=sampler, max_steps=1, modifiers=[asks_for_outputs])
        return Snapshot.of(self.fit(plain_job).net)

    @check
    def test_an_interrupted_stage_ends_the_same(self) -> None:
        """A stage that is resumed after a crash ends with the weights of an uninterrupted one."""
        crash_step = self.steps // 2
        for number, stage in enumerate(self.trained()):
            memory = Memory()
            has_crashed = False
            try:
                self.fit(self.made(self.accepted()[number], Fuse(crash_step), checkpoint=memory))
            except Crash:
                has_crashed = True
            require(
                has_crashed,
                f"an exception of another modifier in step {crash_step} did not end the stage; let it through",
            )
            resumed = self.fit(self.made(self.accepted()[number], Fuse(), checkpoint=memory))
            whole = stage.result
            require(
                same_weights(whole.net, resumed.net) and whole.arch == resumed.arch,
                "after a crash and a resume, the result differs; put everything that changes by step into state_dict",
            )

    @check
    def test_the_state_is_plain(self) -> None:
        """The state can be stored, and a new modifier accepts it."""
        # By a new modifier, because a resume makes one before it loads the state.
        for stage in self.trained():
            state = stored(stage.job.modifiers[0].state_dict(), "the modifier")
            self.make().load_state_dict(state)

    @check
    def test_claims_are_parameters_of_the_network(self) -> None:
        """``claims`` returns parameters, and some of them belong to the network."""
        for job in self.jobs():
            modifier = job.modifiers[0]
            modifier.on_start(job)  # may create what the modifier claims
            claimed = modifier.claims(job.net)
            not_parameters = [entry for entry in claimed if not isinstance(entry, torch.nn.Parameter)]
            require(not not_parameters, f"claims returned {not_parameters[:1]}; return parameters")
            net_ids = {id(parameter) for parameter in job.net.parameters()}
            has_own = any(id(parameter) in net_ids for parameter in claimed)
            require(
                has_own or not claimed,
                "claims returns no parameter of the network; return those that the modifier optimises itself",
            )

    @check
    def test_an_answer_is_an_architecture(self) -> None:
        """``on_finish`` returns ``None`` or a JSON-plain architecture."""
        for stage in self.trained():
            arch = stage.result.arch
            is_valid = arch is None or is_plain(arch)
            require(is_valid, f"on_finish returned {arch!r}; return None or a JSON-plain mapping")

    @check
    def test_an_answer_is_said_in_advance(self) -> None:
        """A modifier that returns an architecture has ``returns_arch = True``, by which a run refuses two of them."""
        for stage in self.trained():
            arch = stage.result.arch
            is_declared = member(self.make(), "returns_arch", False)
            require(
                arch is None or is_declared,
                f"on_finish returned the architecture {arch!r}; declare it in the class: returns_arch = True",
            )

    @check
    def test_two_stages_are_independent(self) -> None:
        """Two modifiers with the same options share no state, and their noise comes from the stage's seed."""

        def net() -> Any:
            shapes = self.accepted()
            if not shapes:
                return None
            # One kind of stage will do: shared state shows in any.
            return self.fit(self.made(shapes[0])).net

        def same(first: Any, second: Any) -> bool:
            return first is second or same_weights(first, second)

        source = "torch's generator, which the loop seeds at every step, and keep state in self"
        require_no_global_randomness(net, same, source)


@functools.cache
def _trained_stages(contract: Any) -> list[Trained | None]:
    """Return one trained stage of every kind, ``None`` for those that are refused."""
    # Cached, because most checks only look at these trainings, which take longer than all else together.
    instance: ModifierContract = contract()
    stages: list[Trained | None] = []
    for shape in instance.shapes():
        watch = Watch()
        job = instance.made(shape, watch)
        outputs_of(job.net, tiny_inputs())  # transformers installs hooks of its own on first use
        watch.shapes = shapes_of(job.net)
        try:
            stages.append(Trained(job, instance.fit(job), watch))
        except UsageError:
            stages.append(None)
    return stages
