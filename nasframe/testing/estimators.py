"""What every estimator must do, as checks: subclass :class:`EstimatorContract`, define ``make``, run pytest.

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

from nasframe.interfaces import EstimatorTraits, KnobDomain, MeasuredEstimator, cost_table, ends_of, traits_of
from nasframe.records import Arch, CostTable
from nasframe.search.costs import table_cost
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, require_unchanged
from nasframe.testing.toy import ToySpace, tiny_net


class EstimatorContract(Contract):
    """The checks, on a tiny network and its slices.

    The numbers of an estimator with a method ``measure`` may differ from time to time, and those of one that is
    ``learned`` from one estimator to the next.

    Attributes:
        tolerance: the largest relative difference between a table's sum and the estimate.
        draws: how many architectures are drawn in addition to the ends of the domain.
    """

    kind = "estimator"
    tolerance = 1e-6
    draws = 6

    def make(self) -> Any:
        """Make the estimator under test."""
        return self.registered()

    def space(self) -> Any:
        """Return the space whose architectures are estimated; override it if your estimator needs another one."""
        return ToySpace()

    def net(self) -> nn.Module:
        """Return the super-network."""
        return tiny_net()

    def archs(self, space: Any) -> list[Arch]:
        """Return the ends of the domain, if it has any, and some architectures drawn from it."""
        rng = np.random.default_rng(0)
        drawn = [space.domain.sample(rng) for _ in range(self.draws)]
        return [*ends_of(space.domain), *drawn]

    def is_close(self, a: float, b: float) -> bool:
        """Tell whether two costs are equal within the tolerance."""
        return math.isclose(a, b, rel_tol=self.tolerance, abs_tol=1e-9)

    @check
    def test_the_unit_is_named(self) -> None:
        """Reports state the unit of the numbers."""
        # `getattr`, because this check is there to find estimators without a unit.
        unit = getattr(self.make(), "unit", None)
        is_named = isinstance(unit, str) and unit
        require(is_named, f"unit is {unit!r}; set it to what is counted, such as 'parameters'")

    @check
    def test_its_names_are_texts(self) -> None:
        """If there are a heading, a name in sentences and a direction, reports can write them and runs record them."""
        traits = traits_of(EstimatorTraits, self.make())
        for name in ("heading", "highlight"):
            value = getattr(traits, name)
            require(isinstance(value, str), f"{name} is {value!r}; set it to a text such as 'params', or leave it out")
        for name in ("higher_is_better", "reads_weights", "learned"):
            value = getattr(traits, name)
            require(isinstance(value, bool), f"{name} is {value!r}; set it to True or False")

    @check
    def test_costs_are_numbers(self) -> None:
        """Architectures have finite costs, none below zero; the network as it stands may have none (``None``)."""
        estimator = self.make()
        space = self.space()
        net = self.net()
        for arch in self.archs(space):
            cost = estimator.estimate(space, net, arch)
            require(_is_cost(cost), f"the estimate of {arch} is {cost!r}; return a finite float, 0 or more")
        for asked_space in (space, None):  # a network that was trained as it is may belong to no space
            cost = estimator.estimate(asked_space, net, None)
            require(
                cost is None or _is_cost(cost),
                f"the estimate of the network as it stands is {cost!r}; return a finite float, 0 or more, or None if "
                "only architectures have this cost",
            )

    @check
    def test_the_table_agrees_with_the_estimate(self) -> None:
        """If there is an additive table, its entries add up to the estimate of every architecture."""
        estimator = self.make()
        space = self.space()
        net = self.net()
        table = cost_table(estimator, space, net)
        if table is None or not isinstance(space.domain, KnobDomain):
            return
        require(isinstance(table, CostTable), f"table returned a {type(table).__name__}; return a CostTable or None")
        knobs = space.domain.knobs
        expected = {knob: len(values) for knob, values in knobs.items()}
        lengths = {knob: len(costs) for knob, costs in table.choices.items()}
        require(
            lengths == expected,
            "the table does not fit the domain; give one cost for each value of domain.knobs, in order",
        )
        # Searches count by the table, which is much faster, and reports by the estimate.
        sum_of = table_cost(table, knobs)
        for arch in self.archs(space):
            table_sum = sum_of(arch)
            cost = estimator.estimate(space, net, arch)
            require(
                self.is_close(table_sum, cost),
                f"the table adds up to {table_sum:g} for {arch}, but estimate returns {cost:g}; if the cost is not a "
                "sum over the choices, return None from table",
            )

    @check
    def test_an_architecture_costs_what_its_model_costs(self) -> None:
        """A sub-network and its extracted model have the same estimate, if the model has one by itself."""
        estimator = self.make()
        if isinstance(estimator, MeasuredEstimator):
            return
        space = self.space()
        net = self.net()
        for arch in self.archs(space):
            # The search sees the first number, and the report of the finished model the second one.
            inside = estimator.estimate(space, net, arch)
            alone = estimator.estimate(None, space.extract(net, arch), None)
            if alone is None:  # only architectures have this cost
                continue
            require(
                self.is_close(inside, alone),
                f"{arch} costs {inside:g}, but its extracted model costs {alone:g}; make both agree, or a search and "
                "its report would disagree",
            )

    @check
    def test_the_same_costs_the_same(self) -> None:
        """A repeated estimate, and that of another estimator with the same options, is the same."""
        space = self.space()
        net = self.net()
        first = self.make()
        second = self.make()
        for arch in self.archs(space):
            # The copy shows an estimator that remembers by identity, which would measure again.
            costs = [first.estimate(space, net, arch), first.estimate(space, net, copy.deepcopy(arch))]
            if not _varies(first):
                costs.append(second.estimate(space, net, arch))
            require(
                len(set(costs)) == 1,
                f"repeated estimates of {arch} are {costs}; return the same number for the same architecture",
            )

    @check
    def test_the_network_is_left_alone(self) -> None:
        """Estimates are made in the middle of a run, so they must not change the network."""
        estimator = self.make()
        space = self.space()
        net = self.net().train()  # many estimators switch to eval mode, and may forget to switch back
        before = Snapshot.of(net)
        for arch in [None, *self.archs(space)]:
            arch_before = copy.deepcopy(arch)
            estimator.estimate(space, net, arch)
            require(arch == arch_before, "estimate changed the architecture; change a copy")
            # Hooks do not count: transformers installs some of its own when a network is first used.
            require_unchanged(net, before, "estimate", "undo your changes, or use a copy", hooks=False)

    @check
    def test_networks_are_not_kept_alive(self) -> None:
        """An estimator that remembers something about a network forgets it with the network."""
        estimator = self.make()
        space = self.space()
        # Modules are in reference cycles, so only a collection frees them. Objects that exist already are left out of
        # it, because going through all of torch takes longer than the rest of the check.
        gc.freeze()
        try:
            net = self.net()
            estimator.estimate(space, net, self.archs(space)[0])
            reference = weakref.ref(net)
            del net
            gc.collect()
        finally:
            gc.unfreeze()
        require(
            reference() is None,
            "the estimator keeps the network alive; use weakref.WeakKeyDictionary in place of a dict",
        )

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Estimates draw nothing from the global random generators."""
        space = self.space()
        net = self.net()
        varies = _varies(self.make())

        def costs() -> list[float]:
            estimator = self.make()
            return [estimator.estimate(space, net, arch) for arch in self.archs(space)]

        def same(first: list[float], second: list[float]) -> bool:
            return varies or first == second

        require_no_global_randomness(costs, same, "a generator of your own")


def _varies(estimator: Any) -> bool:
    """Tell whether two estimators with the same options may differ, because each makes measurements of its own."""
    return isinstance(estimator, MeasuredEstimator) or traits_of(EstimatorTraits, estimator).learned


def _is_cost(cost: Any) -> bool:
    return isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0
