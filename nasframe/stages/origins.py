"""Where networks come from: which space made a super-network, and where in a space an extracted model was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.interfaces import CURRENT, Origin, SpaceTraits, Work, traits_of
from nasframe.plan import needs_space
from nasframe.records import canonical_json

if TYPE_CHECKING:
    from torch import nn

    from nasframe.stages.session import StageSession


def with_supernet(work: Work, stage: StageSession, use: Mapping[str, Any]) -> Work:
    """Return work whose network is the super-network of its space: the current one, or the one made of it now.

    Args:
        work: its space is the stage's.
        stage: the stage.
        use: the space's name and options.

    Raises:
        UsageError: the network is the super-network of another space.
    """
    if work.space is None or work.net is None:
        return work
    origin = work.origins.get(CURRENT)
    if origin is not None and origin.net is not None:  # an extracted model
        if traits_of(SpaceTraits, work.space).keeps_net or not needs_space(stage.planned.verb, stage.planned.options):
            return work
        raise UsageError(
            f"stage {stage.name}: starts from a model that was extracted, of which space {use_name(use)!r} makes no "
            "super-network. Expected 'from:' a whole network."
        )
    if origin is None:
        net = stage.inputs.supernet(work.space, use, work.net)
        if net is work.net:
            return work
        made = Origin(work.space, use)
        return replace(work, net=net, origins={**work.origins, CURRENT: made})
    if canonical_json(dict(origin.use)) != canonical_json(dict(use)):
        raise UsageError(
            f"stage {stage.name}: its network is already the super-network of space {use_name(origin.use)!r}. Expected "
            f"'from:' a network that space {use_name(use)!r} can start from."
        )
    return replace(work, space=origin.space)


def use_name(use: Mapping[str, Any]) -> str:
    """Return the name of a space, for errors."""
    return str(use.get("use"))


def stands_alone(work: Work, options: Mapping[str, Any]) -> bool:
    """Tell whether a training stage trains an extracted model as it is, which belongs to no space."""
    origin = work.origins.get(CURRENT)
    is_extracted = origin is not None and origin.net is not None
    return is_extracted and not needs_space("train", options)


def renamed(origins: Mapping[str, Origin], name: str, source: str = CURRENT) -> dict[str, Origin]:
    """Return origins in which a network is also known by another name, under which there may have been another one."""
    kept = {other: origin for other, origin in origins.items() if other != name}
    if source in origins:
        kept[name] = origins[source]
    return kept


def without_reshaped(
    origins: Mapping[str, Origin], before: Mapping[str, nn.Module], after: Mapping[str, nn.Module]
) -> dict[str, Origin]:
    """Return origins without those of models whose tensors have other shapes or types than before.

    Such a model is no longer what its architecture says.
    """
    kept = {}
    for name, origin in origins.items():
        is_model = name in before and name in after
        if name == CURRENT or (is_model and _shapes(before[name]) == _shapes(after[name])):
            kept[name] = origin
    return kept


def _shapes(net: nn.Module) -> dict[str, tuple[Any, Any]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in net.state_dict().items()}
