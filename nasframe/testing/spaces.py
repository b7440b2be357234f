"""What every search space must do, as checks: subclass :class:`SpaceContract`, define ``make``, run pytest.

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

from nasframe.interfaces import SizedSpace, SpaceTraits, ends_of, traits_of
from nasframe.nn import count
from nasframe.nn.traced import has_table
from nasframe.records import Arch
from nasframe.stages.views import views_fault
from nasframe.testing.domains import DomainChecks
from nasframe.testing.kit import DoesNotApply, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, apart, listed, numbers_of, outputs_of, require_unchanged, same_weights
from nasframe.testing.toy import tiny_inputs, tiny_net


class SpaceContract(DomainChecks):
    """The checks of the space and of its domain, on a tiny network of 3 layers of 4 heads and 64 neurons each.

    Attributes:
        tolerance: the largest difference between the outputs of a view and of its extracted model.
        draws: how many architectures are drawn in addition to the ends of the domain.
    """

    kind = "space"
    tolerance = 1e-5
    draws = 6

    def make(self, config: Any) -> Any:
        """Make the space under test for a network of this configuration."""
        return self.registered(config=config)

    def net(self) -> Any:
        """Return the network in eval mode, before the space's ``supernet``; override it if yours needs another one."""
        return tiny_net()

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return a small batch as keyword arguments of the network."""
        return tiny_inputs()

    def made(self) -> tuple[Any, nn.Module]:
        """Make the space and its super-network, or end the check if the space's ``needs_net`` is false."""
        net = self.net()
        space = self.make(getattr(net, "config", None))
        if not traits_of(SpaceTraits, space).needs_net:
            raise DoesNotApply
        with torch.random.fork_rng(devices=[]):  # as the framework calls it: new weights are the same each time
            torch.manual_seed(0)
            supernet = space.supernet(net)
        if traits_of(SpaceTraits, space).keeps_net:
            require(supernet is net, "keeps_net is true, but supernet returned another network; return the one given")
        return space, supernet.eval()  # without dropout, so that outputs can be compared

    def archs(self, space: Any) -> list[Arch]:
        """Return the ends of the domain, if it has any, and some architectures drawn from it."""
        rng = np.random.default_rng(0)
        drawn = [space.domain.sample(rng) for _ in range(self.draws)]
        return [*ends_of(space.domain), *drawn]

    def domain(self) -> Any:
        """Return the space's domain."""
        return self.make(getattr(self.net(), "config", None)).domain

    @check
    def test_the_domain_has_something_to_choose(self) -> None:
        """There are at least two architectures; otherwise a search has nothing to do."""
        archs = self.archs(self.make(getattr(self.net(), "config", None)))
        require(
            any(arch != archs[0] for arch in archs),
            f"every architecture drawn is {dict(archs[0])}; check the space with options that leave several choices "
            "(register(…, example={…}), or option=value on the command line)",
        )

    @check
    def test_view_equals_extract(self) -> None:
        """A sub-network computes the same inside the super-network and on its own."""
        # A search measures views and extracts the winner, which must be the network that was measured.
        space, net = self.made()
        for arch in self.archs(space):
            inside = outputs_of(space.view(net, arch), self.inputs())
            alone = outputs_of(space.extract(net, arch), self.inputs())
            difference = apart(inside, alone)
            require(
                difference <= self.tolerance,
                f"the outputs of view and extract of {arch} differ by {difference:.2g}, more than {self.tolerance:g}; "
                "make both from one map of slices",
            )

    @check
    def test_architectures_differ_in_what_they_compute(self) -> None:
        """Architectures that cost differently have different outputs, unless ``views_may_agree`` is true."""
        # A view that returns the whole network gives every architecture the same score, and nothing else shows it.
        space, net = self.made()
        if traits_of(SpaceTraits, space).views_may_agree:
            return

        def costs(arch: Arch) -> dict[str, float]:
            return {"params": float(_parameter_count(space.extract(net, arch)))}

        fault = views_fault(space, net, costs, self.inputs())
        require(not fault, fault)

    @check
    def test_a_view_changes_nothing(self) -> None:
        """Views and extracted copies leave the network's weights, modes, ``requires_grad`` and hooks unchanged."""
        space, net = self.made()
        # transformers installs hooks of its own on first use, which are not the space's fault.
        space.view(net, self.archs(space)[-1])(**self.inputs())
        before = Snapshot.of(net)
        for arch in self.archs(space):
            outputs_of(space.view(net, arch), self.inputs())
            require_unchanged(net, before, "view", "change a copy of the structure that shares the weights")
            space.extract(net, arch)
            require_unchanged(net, before, "extract", "change only the copy")

    @check
    def test_a_view_shares_the_weights(self) -> None:
        """Training a view trains the network, and a new view has the network's current weights."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        view = space.view(net, arch)
        before = outputs_of(view, self.inputs())
        numbers_of(view(**self.inputs())).sum().backward()
        reached = []
        for parameter in net.parameters():
            gradient = parameter.grad
            if gradient is not None and gradient.abs().sum() > 0:
                reached.append((parameter, gradient))
        require(
            reached, "backward through a view gives the network no gradient; slice its parameters, do not copy them"
        )
        # A step along the signs, which moves all weights alike, however small their gradients are.
        with torch.no_grad():
            for parameter, gradient in reached:
                parameter.add_(0.1 * torch.sign(gradient))
        after = outputs_of(space.view(net, arch), self.inputs())
        require(
            apart(before, after) > 0, "a view does not have the network's current weights; do not keep copies of them"
        )

    @check
    def test_a_view_follows_train_and_eval(self) -> None:
        """A view has dropout in train mode and none in eval mode, whatever the mode was when the view was made."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in net.modules())
        # A view may copy the mode when it is made, which goes unnoticed until the network's mode changes.
        for mode in ("train", "eval"):
            net.train(mode == "train")
            view = space.view(net, arch)
            net.eval()
            once = outputs_of(view, self.inputs())
            again = outputs_of(view, self.inputs())
            require(
                apart(once, again) == 0,
                f"a view made in {mode} mode is random in eval mode; read net.training at each call",
            )
            if has_dropout:
                net.train()
                once = outputs_of(space.view(net, arch), self.inputs())
                again = outputs_of(space.view(net, arch), self.inputs())
                require(apart(once, again) > 0, "a view has no dropout in train mode; read net.training at each call")

    @check
    def test_extract_stands_alone(self) -> None:
        """An extracted model shares no memory with the network, and extracting it again gives the same."""
        space, net = self.made()
        arch = self.archs(space)[-1]
        model = space.extract(net, arch)
        second = space.extract(net, arch)
        require(isinstance(model, nn.Module), f"extract returned a {type(model).__name__}; return an nn.Module")
        require(same_weights(model, second), "two extractions give different models; draw nothing in extract")
        require(
            model.training == net.training,
            "an extracted model is in another train/eval mode than the network; call model.train(net.training)",
        )
        # Storages and not tensors: a slice of a tensor has another address, but the same storage.
        net_storages = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
        shared = []
        for name, tensor in model.state_dict().items():
            if tensor.numel() and tensor.untyped_storage().data_ptr() in net_storages:
                shared.append(name)
        require(
            not shared, f"an extracted model shares memory with the network ({listed(shared)}); clone what you slice"
        )

    @check
    def test_params_equals_count(self) -> None:
        """The parameters counted for an architecture are those of its extracted model."""
        space, net = self.made()
        has_sizes = isinstance(space, SizedSpace)
        if not has_sizes or not has_table(net):
            return  # costs are then counted on the extracted model itself
        # Budgets are checked by these counts alone, long before a model is extracted.
        counter = count.params(net)
        for arch in self.archs(space):
            counted = counter.of(space.sizes(arch))
            actual = _parameter_count(space.extract(net, arch))
            require(
                counted == actual,
                f"{arch} is counted as {counted:,.0f} parameters, but its model has {actual:,}; 'sizes' must name the "
                "kept layers, heads and neurons. Leave 'sizes' out if your architectures are no slices",
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
        """Spaces, views and extracted models draw nothing from the global random generators."""

        def outputs() -> list[torch.Tensor]:
            space, net = self.made()
            archs = self.archs(space)
            of_views = [outputs_of(space.view(net, arch), self.inputs()) for arch in archs]
            of_models = [outputs_of(space.extract(net, arch), self.inputs()) for arch in archs]
            return of_views + of_models

        source = "a generator of your own (torch.Generator().manual_seed(0))"
        require_no_global_randomness(outputs, _equal, source)


def _equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
