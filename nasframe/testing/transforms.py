"""What every transform must do, as checks: subclass :class:`TransformContract`, define ``make``, run pytest.

class TestMine(TransformContract):
    def make(self, seed):
        return MyTransform()
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import TransformTraits, Work, member, traits_of
from nasframe.nn import blueprint
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, apart, outputs_of, require_unchanged, same_weights, shapes_of
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net, tiny_tokenizer

ROUNDING = 1e-5
"""The largest difference between the outputs of a network and of its saved and loaded copy."""


class TransformContract(Contract):
    """The checks, on the work of a run with a tiny network.

    A transform whose attribute ``keeps_function`` is true promises that the network's outputs stay the same; one whose
    attribute ``reshapes`` is false promises that all sizes stay the same.

    Attributes:
        tolerance: the largest difference of the outputs if ``keeps_function`` is true.
    """

    kind = "transform"
    tolerance = 1e-4

    def make(self, seed: int) -> Any:
        """Make the transform under test."""
        return self.registered(seed=seed)

    def work(self) -> Work:
        """Return the work that the transform is called with; override it if yours needs another."""
        task: Any = ToyTask()
        space: Any = ToySpace()
        # Entries of every kind, so that a transform that loses some is found.
        archs = {"best": {"layers": [0, 1], "heads.0": 2, "ffn.0": 16, "heads.1": 4, "ffn.1": 64}}
        models = {"teacher": tiny_net(seed=1)}
        return Work(tiny_net(), tiny_tokenizer(), task, space, archs, models)

    @check
    def test_work_in_work_out(self) -> None:
        """The transform returns work, and keeps everything in it that it does not change."""
        before = self.work()
        after = self.make(0)(before)
        require(isinstance(after, Work), f"it returned a {type(after).__name__}; return replace(work, net=…)")
        # A smaller vocabulary comes with a smaller tokenizer, which is no loss.
        has_tokenizer = after.tokenizer is before.tokenizer or after.vocabulary is not None
        require(after.task is before.task and has_tokenizer, "task or tokenizer was lost; return replace(work, net=…)")
        lost_archs = before.archs.keys() - after.archs.keys()
        lost_models = before.models.keys() - after.models.keys()
        lost = [*lost_archs, *lost_models]
        require(not lost, f"{lost} were lost; carry on archs and models: replace(work, net=…)")

    @check
    def test_what_is_planned_is_not_refused(self) -> None:
        """``validate``, if there is one, accepts a network without values that the transform accepts."""
        transform = self.make(0)
        validate = member(transform, "validate")
        if validate is None:
            return
        # The meta device has shapes but no values, as in a dry run: reading a value raises an error there.
        net = copy.deepcopy(self.work().net).to("meta")
        try:
            validate(net)
        except (UsageError, AttributeError, RuntimeError, KeyError) as error:
            require(
                False,
                f"validate, given a network without values, raised {error!r}, but the transform accepts the network; "
                "read only its sizes",
            )

    @check
    def test_what_came_in_stays_as_it_was(self) -> None:
        """The transform does not change the work it is called with, because later stages may use it again."""
        work = self.work()
        nets = {"net": work.net, **work.models}
        before = {name: Snapshot.of(net) for name, net in nets.items()}
        archs = dict(work.archs)
        models = dict(work.models)
        self.make(0)(work)
        for name, net in nets.items():
            advice = "change a copy (copy.deepcopy(work.net))"
            require_unchanged(net, before[name], "the transform", advice, what=f"the work's {name}")
        is_same = work.archs == archs and work.models == models
        require(is_same, "archs or models of the work changed; make new mappings")

    @check
    def test_the_same_seed_gives_the_same(self) -> None:
        """Two calls with one seed give the same network."""
        first = self.make(3)(self.work())
        second = self.make(3)(self.work())
        require(same_weights(first.net, second.net), "two calls with one seed differ; draw only from the injected seed")

    @check
    def test_the_function_is_kept_where_claimed(self) -> None:
        """With ``keeps_function = True`` the outputs stay the same."""
        transform = self.make(0)
        if not traits_of(TransformTraits, transform).keeps_function:
            return
        work = self.work()
        before = outputs_of(work.net, tiny_inputs())
        after = outputs_of(transform(work).net, tiny_inputs())
        difference = apart(before, after)
        require(
            difference <= self.tolerance,
            f"keeps_function is true, but the outputs differ by {difference:.2g}; correct the transform, or set it to "
            "false",
        )

    @check
    def test_sizes_are_kept_where_claimed(self) -> None:
        """With ``reshapes = False`` all sizes, and so all costs, stay the same."""
        transform = self.make(0)
        if traits_of(TransformTraits, transform).reshapes:
            return
        # The dry run checks budgets after the transform without running it, and relies on this.
        work = self.work()
        net = transform(work).net
        same_sizes = blueprint.blueprint(net) == blueprint.blueprint(work.net)
        same_shapes = shapes_of(net) == shapes_of(work.net)
        require(same_sizes and same_shapes, "reshapes is false, but sizes changed; set it to true, or keep them")

    @check
    def test_the_network_still_works(self) -> None:
        """The network's outputs are finite and have the same shape, its mode is the same, and it can be trained."""
        work = self.work()
        net = self.make(0)(work).net
        require(
            net.training == work.net.training,
            "the network is in another train/eval mode than before; call net.train(work.net.training)",
        )
        logits = net(**inputs_of(net)).logits
        expected = outputs_of(work.net, tiny_inputs()).shape
        require(
            logits.shape == expected,
            f"logits have the shape {tuple(logits.shape)}; keep the head, whose shape is {tuple(expected)}",
        )
        require(bool(torch.isfinite(logits).all()), "outputs are not finite; guard divisions and decompositions")
        # A decomposition under no_grad may leave parameters that cannot be trained.
        logits.sum().backward()
        is_trainable = any(parameter.grad is not None for parameter in net.parameters())
        require(is_trainable, "no parameter of the network gets a gradient; leave requires_grad on")

    @check
    def test_the_network_can_be_saved_and_loaded(self) -> None:
        """The network can be built again from its configuration, blueprint and weights, which are all a run saves."""
        net = self.make(0)(self.work()).net
        try:
            loaded = blueprint.load(net.config.to_dict(), blueprint.blueprint(net), net.state_dict())
        except (RuntimeError, AttributeError, KeyError, ValueError) as error:
            first_line = str(error).splitlines()[0]
            require(
                False,
                f"a network built from its blueprint does not take the weights ({first_line}); make only changes that "
                "nasframe.nn.blueprint knows: sizes of layers, factorised embeddings",
            )
        difference = apart(outputs_of(net, inputs_of(net)), outputs_of(loaded, inputs_of(net)))
        require(
            difference <= ROUNDING,
            f"saved and loaded, the network's outputs differ by {difference:.2g}; keep its state in parameters, "
            "buffers and configuration",
        )

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Transforms draw from the injected seed."""
        source = "the injected seed (nasframe.seeds.generator(seed, 'mine'))"
        require_no_global_randomness(lambda: self.make(0)(self.work()).net, same_weights, source)


def inputs_of(net: Any) -> dict[str, torch.Tensor]:
    """Return inputs whose tokens are in a network's vocabulary, which may be smaller than the toy's."""
    return tiny_inputs(words=net.config.vocab_size)
