"""Which budgets can be met at all, as far as that is known before any stage ran.

Counted costs follow from network, space and domain. A transform may change the network they are counted on, unless it
says that it does not (``reshapes = False``); measured costs are left to the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from nasframe.errors import UnsatisfiableError
from nasframe.interfaces import Work
from nasframe.plan import limits_of, same_shape
from nasframe.recipe.preflight import skeleton
from nasframe.search.budgets import Costs, Goal, known_goals, obstacle
from nasframe.search.costs import cost_function
from nasframe.stages.inputs import Material

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage
    from nasframe.search.constraints import Bounds


@dataclass(frozen=True)
class Target:
    """What one search is asked for, as far as counted costs go.

    Args:
        stage: the search.
        goals: its winners, bounded by the counted costs alone.
        region: the part of the domain that it searches.
        costs: architecture → counted costs.
        full: counted cost → that of the full network.
    """

    stage: PlannedStage
    goals: list[Goal]
    region: Any
    costs: Costs
    full: dict[str, float]


def check_budgets(parts: Material) -> None:
    """Make sure, before any work, that each search can find what it is asked for.

    Args:
        parts: what the plan names.

    Raises:
        UnsatisfiableError: some budgets are out of reach; every one is told, with the nearest reachable value.
    """
    texts = [f"stages.{stage.name}: {text}" for stage, text in obstacles(parts)]
    if texts:
        raise UnsatisfiableError("\n".join(texts))


def obstacles(parts: Material) -> Iterator[tuple[PlannedStage, str]]:
    """Yield each search with a budget that is out of reach, and why it is."""
    for target in targets(parts):
        looked_at: list[Mapping[str, Bounds]] = []
        for goal in target.goals:
            if goal.bounds in looked_at:  # winners under budgets of measured costs share the constraints
                continue
            looked_at.append(goal.bounds)
            text = obstacle(goal, target.region, target.costs)
            if text:
                yield target.stage, f"{goal.name}: {text}"


def unreachable(plan: Plan) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Find the budgets that a network of the model's sizes cannot meet, if these sizes are at hand without weights.

    Yields:
        Where in the recipe the bounds stand, and why they are out of reach.
    """
    if not any(any(limits_of(plan, stage.options)) for stage in searches(plan)):
        return
    net = skeleton(plan)
    if net is None:
        return
    parts, unknown = Material(plan), cast("Any", None)
    parts.work = Work(net, unknown, unknown, parts.space(net))
    for stage, text in obstacles(parts):
        own = next((key for key in ("budgets", "constraints") if stage.options.get(key)), None)
        place = ("stages", plan.stages.index(stage), stage.verb, own)
        yield (place if own else ("budgets" if plan.budgets else "constraints",)), text


def targets(parts: Material) -> Iterator[Target]:
    """Yield what each search on a network of the model's own shape is asked for."""
    for stage in searches(parts.plan):
        net = parts.work.net
        space: Any = parts.work.space if net is None else parts.space(net, stage.options.get("space"))
        limits, budgets = limits_of(parts.plan, stage.options)
        bounded = {name: parts.estimators[name] for name in {**limits, **budgets}}
        counted = {name: e for name, e in bounded.items() if net is None or is_counted(e, space, net)}
        full = {name: estimator.estimate(space, net, None) for name, estimator in counted.items()}
        within = stage.options.get("within")
        region = space.domain.restrict(within) if within else space.domain
        wanted = known_goals(stage.options.get("save_as", "best"), limits, budgets, full)
        yield Target(stage, wanted, region, cost_function(counted, space, net), full)


def searches(plan: Plan) -> Iterator[PlannedStage]:
    """Yield the searches on a network that has the shape of the model's own, as no transform changed it."""
    return (stage for stage in same_shape(plan) if stage.verb == "search")


def is_counted(estimator: Any, space: Any, net: Any) -> bool:
    """Tell whether a cost is a sum over choices, and so known of every architecture at once."""
    return hasattr(estimator, "table") and estimator.table(space, net) is not None
