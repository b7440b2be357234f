"""The parts of a domain that stages confine their samplers to.

They follow from the plan, so that the calls of a sampler without ``state_dict`` can be repeated on a new one, see
:mod:`nasframe.search.guarded`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.declarations import budgeted_costs
from nasframe.plan import limits_of
from nasframe.search.budgets import named_budgets, parse_limits
from nasframe.search.costs import cost_function, full_costs
from nasframe.search.loop import turns
from nasframe.search.restrict import joined, restrict

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage
    from nasframe.search.guarded import Regions
    from nasframe.stages.inputs import RunInputs


def domain_for(plan: Plan, space: Any, sampler: Any, within: Mapping[str, list[Any]] | None) -> Any:
    """Return a space's domain in the coordinates of a sampler, restricted to ``within`` if that is given.

    Args:
        plan: the run's plan.
        space: the space.
        sampler: ``shared``, or the sampler's name and options.
        within: knob or family of knobs → the values to leave.
    """
    own_sampler = plan.sampler if sampler == "shared" else sampler
    # A sampler may join knobs, as in "join: layer"; its proposals must lie in a domain that joins them too.
    whole = joined(space.domain, own_sampler)
    return restrict(whole, within) if within else whole


def regions_of(inputs: RunInputs, space: Any, net: Any) -> Regions:
    """Return the function that finds the regions of a stage again.

    Args:
        inputs: what the plan names.
        space: the space that is sampled.
        net: its super-network, on which costs are counted.
    """

    def regions(name: str) -> Sequence[Any]:
        for stage in inputs.plan.stages:
            if stage.name == name and stage.verb == "search":
                return _of_search(inputs, space, net, stage)
            if stage.name == name:
                options = stage.options
                return [domain_for(inputs.plan, space, options.get("sampler"), options.get("within"))]
        return ()

    return regions


def _of_search(inputs: RunInputs, space: Any, net: Any, stage: PlannedStage) -> list[Any]:
    """Return the region of each of a search's budgets, in the order of their turns."""
    options = stage.options
    constraints, budgets = limits_of(inputs.plan, options)
    estimators = {name: inputs.estimators[name] for name in {*constraints, *budgeted_costs(budgets)}}
    bounds, bounds_of_budgets = parse_limits(constraints, budgets, full_costs(estimators, space, net))
    wanted = named_budgets(options.get("save_as", "best"), bounds, bounds_of_budgets)
    region = domain_for(inputs.plan, space, options.get("sampler", "random"), options.get("within"))
    costs = cost_function(estimators, space, net)
    return turns(region, wanted, costs, confined=options.get("violation", "screen") == "screen")
