"""What every search space must do, as checks: subclass :class:`SpaceContract`, say how to make yours, run pytest.

class TestMine(SpaceContract):
    def make(self, config):
        return MySpace(config=config)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nasframe.nn import count
from nasframe.records import Arch
from nasframe.testing.kit import Contract, NotThere, check, is_plain, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, apart, outputs_of, require_unchanged, same_weights
from nasframe.testing.toy import tiny_inputs, tiny_net


class SpaceContract(Contract):
    """The checks, on a tiny network of 3 layers, each of 4 heads and 64 neurons.

    Attributes:
        tolerance: how far the outputs of a view and of its extracted model may be apart.
        draws: how many architectures are tried.
    """

    kind = "space"
    tolerance = 1e-5
    draws = 6

    def make(self, config: Any) -> Any:
        """Make the space under test for a network of this configuration."""
        return self.registered(config=config)

    def net(self) -> Any:
        """Return the network, in eval mode, before the space's ``supernet``; override where another one is needed."""
        return tiny_net()

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return the keyword inputs of a small batch."""
        return tiny_inputs()

    def made(self) -> tuple[Any, nn.Module]:
        """Make the space and its super-network; a space whose ``needs_net`` is false has none."""
        net = self.net()
        space = self.make(net.config)
        if not getattr(space, "needs_net", True):
            raise NotThere
        return space, space.supernet(net).eval()

    def archs(self, space: Any) -> list[Arch]:
        """Draw architectures, both ends of the domain among them where it has ends."""
        rng = np.random.default_rng(0)
        ends = [getattr(space.domain, end)() for end in ("smallest", "largest") if hasattr(space.domain, end)]
        return ends + [space.domain.sample(rng) for _ in range(self.draws)]

    @check
    def test_the_domain_draws_what_it_contains(self) -> None:
        """Draws and mutants are members, JSON-plain, canonical, and the same for the same generator."""
        domain = self.make(self.net().config).domain
        twice = [[domain.sample(np.random.default_rng(seed)) for seed in range(20)] for _ in range(2)]
        require(twice[0] == twice[1], "domain.sample differs for equal generators; draw only from the one it is given")
        rng = np.random.default_rng(1)
        for arch in twice[0]:
            before = copy.deepcopy(arch)
            mutant = domain.mutate(arch, rng)
            require(arch == before, "domain.mutate changed its argument; change a copy")
            for member, origin in ((arch, "sample"), (mutant, "mutate")):
                require(is_plain(member), f"domain.{origin} gave {member}, which is not JSON-plain")
                require(domain.contains(member), f"domain.{origin} gave {member}, which domain.contains denies")
                canonical = domain.canonical(member)
                require(canonical == member, f"domain.{origin} gave {member}, not its canonical form {canonical}")

    @check
    def test_the_domain_has_something_to_choose(self) -> None:
        """There are two architectures at least, else a search has nothing to do."""
        found = self.archs(self.make(self.net().config))
        require(
            any(arch != found[0] for arch in found),
            f"all draws are {dict(found[0])}; give the check options with several choices "
            "(register(…, example={…}), or option=value on the command line)",
        )

    @check
    def test_view_equals_extract(self) -> None:
        """A sub-network computes the same inside the super-network and on its own."""
        space, net = self.made()
        for arch in self.archs(space):
            inside = outputs_of(space.view(net, arch), self.inputs())
            alone = outputs_of(space.extract(net, arch), self.inputs())
            far = apart(inside, alone)
            require(
                far <= self.tolerance,
                f"view and extract of {arch} are {far:.2g} apart, more than {self.tolerance:g}; "
                "make both from one map of slices",
            )

    @check
    def test_a_view_changes_nothing(self) -> None:
        """Views and extracted copies leave the network as it was: weights, modes, gradients' switches, hooks."""
        space, net = self.made()
        space.view(net, self.archs(space)[-1])(**self.inputs())  # what is made once, on first use, is made now
        before = Snapshot.of(net)
        for arch in self.archs(space):
            outputs_of(space.view(net, arch), self.inputs())
            require_unchanged(net, before, "view; run a copy of the structure, not of the weights")
            space.extract(net, arch)
            require_unchanged(net, before, "extract; copy what you slice")

    @check
    def test_a_view_shares_the_weights(self) -> None:
        """Training a view trains the network, and a view sees the network's new weights."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        view = space.view(net, arch)
        before = outputs_of(view, self.inputs())
        view(**self.inputs()).logits.sum().backward()
        gradients = [(p, p.grad) for p in net.parameters() if p.grad is not None]
        reached = [(p, gradient) for p, gradient in gradients if bool(gradient.abs().sum() > 0)]
        require(reached, "backward through a view gives the network no gradient; slice its parameters, do not copy")
        with torch.no_grad():
            for parameter, gradient in reached:
                parameter.add_(0.1 * torch.sign(gradient))
        after = outputs_of(space.view(net, arch), self.inputs())
        require(apart(before, after) > 0, "a view does not see the network's new weights; do not keep copies")

    @check
    def test_a_view_follows_train_and_eval(self) -> None:
        """In train mode there is dropout, in eval mode there is none, whatever the mode was when it was made."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        for made_in in (True, False):
            net.train(made_in)
            view = space.view(net, arch)
            net.eval()
            quiet = [outputs_of(view, self.inputs()) for _ in range(2)]
            require(
                apart(*quiet) == 0,
                f"a view made in {'train' if made_in else 'eval'} mode is random in eval mode; follow net.training",
            )
            if any(isinstance(module, nn.Dropout) and module.p > 0 for module in net.modules()):
                net.train()
                noisy = [outputs_of(space.view(net, arch), self.inputs()) for _ in range(2)]
                require(apart(*noisy) > 0, "a view has no dropout in train mode; follow net.training")

    @check
    def test_extract_stands_alone(self) -> None:
        """An extracted model shares no memory with the network, and extracting again gives the same."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        model, again = space.extract(net, arch), space.extract(net, arch)
        require(isinstance(model, nn.Module), f"extract gave {type(model).__name__}; return an nn.Module")
        require(same_weights(model, again), "extracting twice gives different models")
        require(model.training == net.training, "an extracted model is in another train/eval mode than the network")
        ours = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
        shared = [n for n, t in model.state_dict().items() if t.numel() and t.untyped_storage().data_ptr() in ours]
        require(not shared, f"an extracted model shares memory with the network ({shared[0:1]}); clone what you slice")

    @check
    def test_params_equals_count(self) -> None:
        """What the counters say of an architecture is what its extracted model has."""
        space, net = self.made()
        if not hasattr(space, "sizes"):
            return  # its architectures are counted on the extracted model
        counter = count.params(net)
        for arch in self.archs(space):
            counted, real = counter.of(space.sizes(arch)), _parameters(space.extract(net, arch))
            require(
                counted == real,
                f"{arch} is counted as {counted:,.0f} parameters, its model has {real:,}; 'sizes' must name the kept "
                "layers, heads and neurons, or be left out where architectures are no slices",
            )

    @check
    def test_architectures_are_left_untouched(self) -> None:
        """An architecture belongs to the caller."""
        space, net = self.made()
        for arch in self.archs(space):
            before = copy.deepcopy(arch)
            space.view(net, arch)
            space.extract(net, arch)
            require(arch == before, f"view or extract changed the architecture {before}; change a copy")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Making a space, a view or a model draws nothing from the global generators."""

        def result() -> list[torch.Tensor]:
            space, net = self.made()
            archs = self.archs(space)
            views = [outputs_of(space.view(net, arch), self.inputs()) for arch in archs]
            return views + [outputs_of(space.extract(net, arch), self.inputs()) for arch in archs]

        own = "a generator of your own (torch.Generator().manual_seed(0))"
        require_no_global_randomness(result, _equal, own)


def _equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
