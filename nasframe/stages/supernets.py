"""Super-networks, as a space makes them of a network: the same one each time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from nasframe import families
from nasframe.errors import PluginError, UsageError
from nasframe.interfaces import SpaceTraits, traits_of
from nasframe.processes import device
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    from torch import nn


def require_storable(net: nn.Module, what: str) -> None:
    """Make sure, before any work, that a network can be stored and built again.

    Args:
        net: the network.
        what: what it is, for the error.

    Raises:
        UsageError: it cannot; says what is missing.
    """
    from nasframe.nn.custom import Described, check_described

    if isinstance(net, Described):
        check_described(net)
        return
    try:
        families.check(net)
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error


def made_supernet(space: Any, net: nn.Module, seed: int, name: str) -> nn.Module:
    """Return a space's super-network of a network, which stays as it is.

    Args:
        space: the space.
        net: the network.
        seed: the run's seed; the weights that the space draws follow from it.
        name: the space's, for errors.

    Raises:
        PluginError: the space breaks a promise, or returned no network.
    """
    import torch
    from torch import nn

    keeps_net = traits_of(SpaceTraits, space).keeps_net
    original = net
    if not keeps_net:
        net = copy.deepcopy(net)
    devices = [device()] if device().type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Of no stage's name: whichever stage is the first to use the space, the super-network is the same.
        torch.manual_seed(stream_seed(seed, "init", "supernet"))
        supernet: Any = space.supernet(net)
    if not isinstance(supernet, nn.Module):
        kind = type(supernet).__name__
        raise PluginError(f"space {name!r}: supernet returned {kind}. Expected a torch.nn.Module.")
    if keeps_net:
        if supernet is not original:
            raise PluginError(
                f"space {name!r}: supernet returned another network than it was given, but keeps_net is true. Expected "
                "keeps_net = False."
            )
        return original
    require_storable(supernet, f"space {name!r}: its super-network")
    if supernet.training != original.training:
        supernet.train(original.training)
    return supernet
