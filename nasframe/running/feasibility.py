"""Whether budgets can be met at all, as far as that is known before any stage has run.

Counted costs follow from network, space and domain. A transform may change the network that they are counted on,
unless it declares ``reshapes = False``. Costs with a table are looked for among all architectures, and others among
sampled ones. Costs that are measured or depend on weights are left to the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from nasframe.declarations import budgeted_costs
from nasframe.errors import UnsatisfiableError
from nasframe.interfaces import Work, cost_table, is_estimated
from nasframe.outline import Outline
from nasframe.plan import limits_of, same_shape
from nasframe.recipe.preflight import stand_in
from nasframe.search.budgets import Budget, Costs, known_budgets, nearest, obstacle
from nasframe.search.constraints import CostValues, Screen, violation
from nasframe.search.costs import cost_function, full_costs
from nasframe.search.domain import drawn
from nasframe.search.restrict import restrict
from nasframe.stages.inputs import RunInputs

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage
    from nasframe.search.constraints import Bounds


@dataclass(frozen=True)
class Target:
    """The winners that one search has to find, as far as counted costs go.

    Args:
        stage: the search.
        budgets: its winners, bounded by the counted costs alone.
        region: the part of the domain that it searches.
        costs: architecture → counted costs.
        full: counted cost → that of the super-network's largest architecture.
        slow: the counted costs that have no table, so that each architecture takes milliseconds.
    """

    stage: PlannedStage
    budgets: list[Budget]
    region: Any
    costs: Costs
    full: dict[str, float]
    slow: frozenset[str] = frozenset()

    def obstacle(self, budget: Budget) -> str:
        """Return the reason why no architecture can meet a budget; empty if one can, or if that is not known."""
        if self.slow.isdisjoint(budget.bounds):
            return obstacle(budget, self.region, self.costs)
        return sampled_obstacle(budget, self.sampled)

    def nearest(self, bounds: Mapping[str, Bounds]) -> CostValues:
        """Return the costs of the architecture that comes nearest to some bounds, as far as it is found."""
        screen = Screen(bounds, self.costs)
        if self.slow.isdisjoint(bounds):
            return nearest(self.region, screen)
        return min(self.sampled, key=lambda costs: violation(costs, bounds))

    @cached_property
    def sampled(self) -> list[CostValues]:
        """The costs of the domain's ends and of some random architectures; they take time, so they are counted once."""
        return [self.costs(arch) for arch in drawn(self.region, SAMPLED)]


SAMPLED = 64
"""How many architectures are drawn, besides the smallest and the largest, to see if a cost can meet its bounds."""


def sampled_obstacle(budget: Budget, costs_of_archs: Sequence[CostValues]) -> str:
    """Return why no sampled architecture meets a budget; empty if one does, or if one in between might.

    Args:
        budget: the budget.
        costs_of_archs: the costs of the domain's ends and of random architectures.
    """
    if any(violation(costs, budget.bounds) == 0 for costs in costs_of_archs):
        return ""
    for name, bound in budget.bounds.items():
        values = [costs[name] for costs in costs_of_archs if name in costs]
        if not values:
            return f"{name} cannot be counted for any of {len(costs_of_archs)} architectures. Expected another cost."
        above = min(values) > bound.high
        if above or max(values) < bound.low:  # all on the same side, the domain's ends among them
            value = min(values) if above else max(values)
            return (
                f"none of {len(costs_of_archs)} sampled architectures has {budget}. The nearest has {name} = "
                f"{bound.show(value)}."
            )
    return ""


def check_budgets(inputs: RunInputs) -> None:
    """Make sure, before any work, that each search can find its winners.

    Args:
        inputs: what the plan names.

    Raises:
        UnsatisfiableError: some budgets are out of reach; names each one, with the nearest reachable value.
    """
    problems = [f"stages.{stage.name}: {text}" for stage, text in obstacles(inputs)]
    if problems:
        raise UnsatisfiableError("\n".join(problems))


def obstacles(inputs: RunInputs) -> Iterator[tuple[PlannedStage, str]]:
    """Yield each search that has a budget out of reach, with the reason."""
    for target in targets(inputs):
        looked_at: list[Mapping[str, Bounds]] = []
        for budget in target.budgets:
            if budget.bounds in looked_at:  # winners under budgets of measured costs share the constraints
                continue
            looked_at.append(budget.bounds)
            text = target.obstacle(budget)
            if text:
                yield target.stage, f"{budget.name}: {text}"


def unreachable(plan: Plan) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Find the budgets that a network of the model's sizes cannot meet, if the sizes are known without the weights.

    Yields:
        The place of the bounds in the recipe, and why they are out of reach.
    """
    # Most recipes have no search or no bounds, and then need no network here.
    has_bounds = any(any(limits_of(plan, stage.options)) for stage in searches(plan))
    if not has_bounds:
        return
    net: Any = stand_in(plan, _counting(plan))  # a network without values, or its outline
    if net is None:
        return
    # Set in advance, so that the inputs do not load the weights.
    inputs = RunInputs(plan)
    unknown = cast("Any", None)  # neither tokenizer nor task is needed for counting
    inputs.work = Work(net, unknown, unknown, inputs.space(net))
    for stage, text in obstacles(inputs):
        yield _place_of_bounds(plan, stage), text


def _counting(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Yield kind and ``use`` of the plugins that count the searches' costs: their spaces, and the bounded costs."""
    for stage in searches(plan):
        yield "space", stage.options.get("space") or plan.space
        for name in bounded_costs(plan, stage):
            yield "estimator", plan.estimators[name]
    if plan.space:
        yield "space", plan.space


def _place_of_bounds(plan: Plan, stage: PlannedStage) -> tuple[Any, ...]:
    """Return the place in the recipe of a search's bounds: in the stage, or else at the top level."""
    for key in ("budgets", "constraints"):
        if stage.options.get(key):
            return ("stages", plan.stages.index(stage), stage.verb, key)
    return ("budgets" if plan.budgets else "constraints",)


def targets(inputs: RunInputs) -> Iterator[Target]:
    """Yield the target of each search on a network of the model's own shape."""
    for stage in searches(inputs.plan):
        space = space_of(inputs, stage)
        net = net_of(inputs, stage, space)
        counted = {}
        slow = set()
        for name in bounded_costs(inputs.plan, stage):
            estimator = inputs.estimators[name]
            has_table = net is None or is_counted(estimator, space, net)  # without a network costs are looked up
            if has_table or is_estimated(estimator):
                counted[name] = estimator
            if not has_table:
                slow.add(name)
        full = full_costs(counted, space, net)
        counted = {name: estimator for name, estimator in counted.items() if name in full}
        yield Target(
            stage=stage,
            budgets=budgets_within(inputs.plan, stage, full),
            region=region_of(space, stage),
            costs=cost_function(counted, space, net),
            full=full,
            slow=frozenset(slow),
        )


def budgets_within(plan: Plan, stage: PlannedStage, full: dict[str, float]) -> list[Budget]:
    """Return the winners of a search, bounded by some of its costs alone.

    Args:
        plan: the plan.
        stage: the search.
        full: those costs, each with that of the full network.
    """
    constraints, budgets = limits_of(plan, stage.options)
    return known_budgets(stage.options.get("save_as", "best"), constraints, budgets, full)


def bounded_costs(plan: Plan, stage: PlannedStage) -> list[str]:
    """Return the costs that a search stage bounds, each once."""
    constraints, budgets = limits_of(plan, stage.options)
    return list(dict.fromkeys([*constraints, *budgeted_costs(budgets)]))


def space_of(inputs: RunInputs, stage: PlannedStage) -> Any:
    """Return the space of a stage on the model's own network."""
    work = inputs.work_for(stage)
    if work.net is None:
        return work.space
    return inputs.space(work.net, stage.options.get("space"))


def net_of(inputs: RunInputs, stage: PlannedStage, space: Any) -> Any:
    """Return the super-network that a stage works on, before anything is trained."""
    net: Any = inputs.work_for(stage).net
    if net is None or isinstance(net, Outline):  # sizes suffice for slices, whose super-network is the network
        return net
    return inputs.supernet(space, stage.options.get("space"), net)


def region_of(space: Any, stage: PlannedStage) -> Any:
    """Return the part of a space's domain that a stage uses."""
    within = stage.options.get("within")
    return restrict(space.domain, within) if within else space.domain


def searches(plan: Plan) -> Iterator[PlannedStage]:
    """Yield the searches on a network that has the shape of the model's own, as no transform changed it."""
    for stage in same_shape(plan):
        if stage.verb == "search":
            yield stage


def is_counted(estimator: Any, space: Any, net: Any) -> bool:
    """Tell whether a cost is a sum over choices, which is counted for many architectures at once."""
    return cost_table(estimator, space, net) is not None
