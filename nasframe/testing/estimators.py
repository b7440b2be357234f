"""What every estimator must do, as checks: subclass :class:`EstimatorContract`, say how to make yours, run pytest.

class TestMine(EstimatorContract):
    def make(self):
        return MyEstimator()
"""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import Any

import numpy as np
from torch import nn

from nasframe.records import Arch, CostTable
from nasframe.search.costs import table_cost
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, require_unchanged
from nasframe.testing.toy import ToySpace, tiny_net


class EstimatorContract(Contract):
    """The checks, on a tiny network and its slices.

    An estimator with a method ``measure`` measures: its numbers need not be the same twice.

    Attributes:
        tolerance: how far a table's sum and the estimate may be apart, relatively.
    """

    kind = "estimator"
    tolerance = 1e-6

    def make(self) -> Any:
        """Make the estimator under test."""
        return self.registered()

    def space(self) -> Any:
        """Return the space whose architectures are estimated; override where another one is needed."""
        return ToySpace()

    def net(self) -> nn.Module:
        """Return the super-network."""
        return tiny_net()

    def archs(self, space: Any) -> list[Arch]:
        """Draw architectures, the ends of the domain among them where it has ends."""
        rng = np.random.default_rng(0)
        ends = [getattr(space.domain, end)() for end in ("smallest", "largest") if hasattr(space.domain, end)]
        return ends + [space.domain.sample(rng) for _ in range(6)]

    @check
    def test_the_unit_is_named(self) -> None:
        """Reports say what the numbers are."""
        unit = getattr(self.make(), "unit", None)
        require(isinstance(unit, str) and unit, f"unit is {unit!r}; set it to what is counted, such as 'parameters'")

    @check
    def test_costs_are_numbers(self) -> None:
        """An architecture and the network as it stands have finite costs, none below zero."""
        estimator, space, net = self.make(), self.space(), self.net()
        for arch in [None, *self.archs(space)]:
            cost = estimator.estimate(space, net, arch)
            fine = isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0
            require(fine, f"estimate of {arch or 'the network as it stands'} is {cost!r}; return a float from 0 on")
        alone = estimator.estimate(None, net, None)
        require(math.isfinite(alone), f"estimate without a space is {alone!r}; a finished network has none")

    @check
    def test_the_table_agrees_with_the_estimate(self) -> None:
        """Where there is an additive table, its entries sum up to the estimate of every architecture."""
        estimator, space, net = self.make(), self.space(), self.net()
        table = estimator.table(space, net) if hasattr(estimator, "table") else None
        if table is None or not hasattr(space.domain, "knobs"):
            return
        require(isinstance(table, CostTable), f"table gave {type(table).__name__}; return a CostTable, or None")
        lengths = {knob: len(values) for knob, values in space.domain.knobs.items()}
        given = {knob: len(costs) for knob, costs in table.choices.items()}
        require(given == lengths, "the table's entries are not one for each value of domain.knobs, in its order")
        quick = table_cost(table, space.domain.knobs)
        for arch in self.archs(space):
            summed, cost = quick(arch), estimator.estimate(space, net, arch)
            require(
                math.isclose(summed, cost, rel_tol=self.tolerance, abs_tol=1e-9),
                f"the table sums up to {summed:g} for {arch}, estimate says {cost:g}; a cost that is no sum over the "
                "choices has no table",
            )

    @check
    def test_an_architecture_costs_what_its_model_costs(self) -> None:
        """Estimating a sub-network and estimating its extracted model give the same number."""
        estimator, space, net = self.make(), self.space(), self.net()
        if hasattr(estimator, "measure"):
            return
        for arch in self.archs(space):
            inside = estimator.estimate(space, net, arch)
            alone = estimator.estimate(None, space.extract(net, arch), None)
            require(
                math.isclose(inside, alone, rel_tol=self.tolerance, abs_tol=1e-9),
                f"{arch} costs {inside:g}, but its extracted model {alone:g}; a search and a report would disagree",
            )

    @check
    def test_the_same_costs_the_same(self) -> None:
        """Asked again, or by another estimator of the same options, the answer is the same."""
        space, net = self.space(), self.net()
        first, second = self.make(), self.make()
        for arch in self.archs(space):
            costs = [first.estimate(space, net, arch), first.estimate(space, net, copy.deepcopy(arch))]
            if not hasattr(first, "measure"):
                costs.append(second.estimate(space, net, arch))
            require(len(set(costs)) == 1, f"{arch} costs {costs}; an estimate of the same is the same")

    @check
    def test_the_network_is_left_alone(self) -> None:
        """Costs are asked for in the middle of a run."""
        estimator, space, net = self.make(), self.space(), self.net().train()
        before = Snapshot.of(net)
        for arch in [None, *self.archs(space)]:
            kept = copy.deepcopy(arch)
            estimator.estimate(space, net, arch)
            require(arch == kept, "estimate changed the architecture; change a copy")
            require_unchanged(net, before, "estimate; put back what you switch, or use a copy", hooks=False)

    @check
    def test_networks_are_not_kept_alive(self) -> None:
        """What is remembered of a network goes with it."""
        estimator, space, net = self.make(), self.space(), self.net()
        estimator.estimate(space, net, self.archs(space)[0])
        gone = weakref.ref(net)
        del net
        gc.collect()
        require(gone() is None, "the network is kept alive; remember by weakref.WeakKeyDictionary, not in a dict")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Estimating draws nothing from the global generators."""
        space, net = self.space(), self.net()
        measured = hasattr(self.make(), "measure")

        def result() -> list[float]:
            estimator = self.make()
            return [estimator.estimate(space, net, arch) for arch in self.archs(space)]

        require_no_global_randomness(result, lambda a, b: measured or a == b, "a generator of your own")
