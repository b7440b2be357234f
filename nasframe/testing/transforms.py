"""What every transform must do, as checks: subclass :class:`TransformContract`, say how to make yours, run pytest.

class TestMine(TransformContract):
    def make(self, seed):
        return MyTransform()
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Work
from nasframe.nn import blueprint
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, apart, outputs_of, require_unchanged, same_weights
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net, tiny_tokenizer


class TransformContract(Contract):
    """The checks, on the work of a run with a tiny network.

    A transform whose attribute ``keeps_function`` is true claims that its network computes what it did before; one
    whose attribute ``reshapes`` is false claims that all sizes stay.

    Attributes:
        tolerance: how far the outputs may be apart where the function is kept.
    """

    kind = "transform"
    tolerance = 1e-4

    def make(self, seed: int) -> Any:
        """Make the transform under test."""
        return self.registered(seed=seed)

    def work(self) -> Work:
        """Return the work it gets; override where it needs another."""
        task: Any = ToyTask()
        space: Any = ToySpace()
        archs = {"best": {"layers": [0, 1], "heads.0": 2, "ffn.0": 16, "heads.1": 4, "ffn.1": 64}}
        models = {"teacher": tiny_net(seed=1)}
        return Work(tiny_net(), tiny_tokenizer(), task, space, archs, models)

    @check
    def test_work_in_work_out(self) -> None:
        """The answer is work, and what the transform has nothing to do with is carried on."""
        before = self.work()
        after = self.make(0)(before)
        require(isinstance(after, Work), f"it returned {type(after).__name__}; return replace(work, net=…)")
        kept = after.vocabulary is not None or after.tokenizer is before.tokenizer
        require(after.task is before.task and kept, "task or tokenizer was lost")
        lost = [*(before.archs.keys() - after.archs.keys()), *(before.models.keys() - after.models.keys())]
        require(not lost, f"{lost} were lost; carry on archs and models: replace(work, net=…)")

    @check
    def test_what_is_planned_is_not_refused(self) -> None:
        """``on_plan``, where there is one, takes a network without values that the transform takes."""
        try:
            getattr(self.make(0), "on_plan", lambda net: None)(copy.deepcopy(self.work().net).to("meta"))
        except (UsageError, AttributeError, RuntimeError, KeyError) as error:
            require(False, f"on_plan, given a network without values, gave {error!r} for one that the transform takes")

    @check
    def test_what_came_in_stays_as_it_was(self) -> None:
        """Earlier stages' results may be used again."""
        work = self.work()
        nets = {"the network": work.net, **work.models}
        before = {name: Snapshot.of(net) for name, net in nets.items()}
        archs, models = dict(work.archs), dict(work.models)
        self.make(0)(work)
        for name, net in nets.items():
            require_unchanged(net, before[name], f"the work's {name}; change a copy (copy.deepcopy(work.net))")
        require(work.archs == archs and work.models == models, "archs or models of the work changed; make new mappings")

    @check
    def test_the_same_seed_gives_the_same(self) -> None:
        """A run can be repeated."""
        first, second = (self.make(3)(self.work()) for _ in range(2))
        require(same_weights(first.net, second.net), "two calls with one seed differ; draw only from the injected seed")

    @check
    def test_the_function_is_kept_where_claimed(self) -> None:
        """``keeps_function = True`` is a promise about the outputs."""
        transform, work = self.make(0), self.work()
        if not getattr(transform, "keeps_function", False):
            return
        far = apart(outputs_of(work.net, tiny_inputs()), outputs_of(transform(work).net, tiny_inputs()))
        require(
            far <= self.tolerance,
            f"keeps_function is true, but the outputs are {far:.2g} apart; mend the transform or drop the claim",
        )

    @check
    def test_sizes_are_kept_where_claimed(self) -> None:
        """``reshapes = False`` is a promise about what everything costs."""
        transform, work = self.make(0), self.work()
        if getattr(transform, "reshapes", True):
            return
        after = transform(work).net
        same = blueprint.blueprint(after) == blueprint.blueprint(work.net)
        shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (work.net, after)]
        require(same and shapes[0] == shapes[1], "reshapes is false, but sizes changed; drop the claim")

    @check
    def test_the_network_still_works(self) -> None:
        """It computes finite outputs of the same shape, in the mode it was in, and can be trained."""
        work = self.work()
        net = self.make(0)(work).net
        require(net.training == work.net.training, "the network is in another train/eval mode than before")
        logits = net(**inputs_of(net)).logits
        require(logits.shape == outputs_of(work.net, tiny_inputs()).shape, f"logits have the shape {logits.shape}")
        require(bool(torch.isfinite(logits).all()), "outputs are not finite")
        logits.sum().backward()
        require(any(p.grad is not None for p in net.parameters()), "the network has no parameter to train")

    @check
    def test_the_network_can_be_saved_and_loaded(self) -> None:
        """A run's files hold configuration, blueprint and weights; they must be enough."""
        net = self.make(0)(self.work()).net
        try:
            again = blueprint.load(net.config.to_dict(), blueprint.blueprint(net), net.state_dict())
        except (RuntimeError, AttributeError, KeyError, ValueError) as error:
            require(
                False,
                f"a network built from its blueprint does not take the weights ({str(error).splitlines()[0]}); "
                "leave only changes that nasframe.nn.blueprint knows: sizes of layers, factorised embeddings",
            )
        far = apart(outputs_of(net, inputs_of(net)), outputs_of(again, inputs_of(net)))
        require(far <= 1e-5, f"saved and loaded, the outputs are {far:.2g} apart")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Transforms draw from their seed."""
        own = "the injected seed (nasframe.seeds.generator(seed, 'mine'))"
        require_no_global_randomness(lambda: self.make(0)(self.work()).net, same_weights, own)


def inputs_of(net: Any) -> dict[str, torch.Tensor]:
    """Make inputs of tokens that a network has."""
    return tiny_inputs(words=net.config.vocab_size)
