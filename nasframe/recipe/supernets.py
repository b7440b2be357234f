"""Which super-network each stage starts from, worked out before a run by the rules of ``nasframe.stages.origins``.

A space may make a super-network of its own. What it makes is of no use to another space, and neither is a model that
was extracted from it, so that a stage which starts from one of these with another space is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.declarations import declaration_of, outcomes
from nasframe.interfaces import SpaceTraits, traits_of
from nasframe.options import Fault
from nasframe.plan import needs_space, uses_supernet
from nasframe.records import canonical_json

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage


@dataclass(frozen=True)
class _Net:
    """What is known of a network before work.

    Args:
        space: name and options of the space that made it as its super-network; ``None`` if it is of no space.
        extracted: whether it is a model that was extracted.
    """

    space: Mapping[str, Any] | None = None
    extracted: bool = False


def supernet_faults(plan: Plan) -> Iterator[Fault]:
    """Find stages that start from a network that their space cannot use.

    Args:
        plan: the plan.

    Yields:
        The stage's place in the recipe, and what is wrong.
    """
    if not plan.model:  # a space that looks costs up has no network
        return
    current = _Net()
    known: dict[str, _Net] = {}
    both = zip(plan.stages, outcomes(plan.recipe), strict=True)
    for number, (stage, outcome) in enumerate(both):
        start = stage.options.get("from_")
        if start is not None:
            current = known.get(start, _Net())  # as loaded, or with random weights
        space = stage.options.get("space") or plan.space
        if space and uses_supernet(stage.verb, stage.options):
            text = _misfit(stage, current, space)
            if text:
                yield ("stages", number, stage.verb, "space" if stage.options.get("space") else "from"), text
                return  # what follows depends on what this stage leaves
            if current == _Net() and makes_supernet(space):
                current = _Net(space)
        left = current if declaration_of(stage.verb).replaces_net else _Net(extracted=True)
        known.update(dict.fromkeys(outcome.saves, left))


def _misfit(stage: PlannedStage, net: _Net, space: Mapping[str, Any]) -> str:
    """Say why a space cannot use the network that a stage starts from, or nothing."""
    name = space["use"]
    if net.extracted:
        if makes_supernet(space) and needs_space(stage.verb, stage.options):
            return (
                f"stage {stage.name!r} starts from a model that was extracted, of which space {name!r} makes no "
                "super-network. Expected 'from:' a whole network."
            )
        return ""
    if net.space is not None and canonical_json(dict(net.space)) != canonical_json(dict(space)):
        return (
            f"the network of stage {stage.name!r} is already the super-network of space {net.space['use']!r}"
            f"{_same_name(net.space, space)}. Expected 'from:' a network that space {name!r} can start from, such as "
            "'from: pretrained'."
        )
    return ""


def _same_name(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Say that two spaces of one name have other options."""
    return " with other options" if first["use"] == second["use"] else ""


def makes_supernet(space: Mapping[str, Any]) -> bool:
    """Tell whether a space is known to make a network of its own.

    A function that returns a space cannot tell before it has a network, unless it says ``keeps_net`` itself.
    """
    factory = registry.find("space", space["use"]).load()
    is_known = isinstance(factory, type) or hasattr(factory, "keeps_net")
    return is_known and not traits_of(SpaceTraits, factory).keeps_net
