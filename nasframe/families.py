"""Finds the family of a network, which describes it and builds it again.

Families are plugins. No recipe names them: every network is asked of all of them, those of other packages and of
one-file plugins before nasframe's own, so that a plugin may take over networks that nasframe knows as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import PluginError, RunError, UsageError, listing, suggestion
from nasframe.interfaces import Family, SliceableFamily
from nasframe.plugin_errors import naming_plugins

if TYPE_CHECKING:
    from torch import nn

BUILT_BY = "built_by"
"""The entry of a description that names the family which builds it."""
CONFIG = "config"
"""The entry of a description that has the configuration, if the network has one."""

_MADE: dict[tuple[str, str, int], Family] = {}  # by name, source and target: making one imports torch


def families() -> dict[str, Family]:
    """Return the registered families by name: those of other packages and of files first, then nasframe's own."""
    entries = registry.factories("family").values()
    in_order = sorted(entries, key=lambda entry: entry.package == "nasframe")  # stable: else by name
    made = {}
    for entry in in_order:
        key = (entry.name, str(entry.source), id(entry.target))
        if key not in _MADE:
            _MADE[key] = registry.make("family", entry.name)
        made[entry.name] = _MADE[key]
    return made


def family_of(net: nn.Module) -> tuple[str, Family]:
    """Return the name of a network's family, and the family.

    Raises:
        UsageError: no family matches, or several of other packages than nasframe do.
    """
    own: list[str] = []
    known = families()
    for name, family in known.items():
        with naming_plugins():
            if family.matches(net):
                own.append(name)
    foreign = [name for name in own if registry.find("family", name).package != "nasframe"]
    if len(foreign) > 1:
        sources = " and ".join(str(registry.find("family", name)) for name in foreign)
        raise UsageError(f"{type(net).__name__}: {sources} both match it. Expected one family of a network.")
    if not own:
        raise UsageError(
            f"{type(net).__name__}: no family knows it, so that it cannot be kept. Expected a model of transformers, a "
            f"subclass of nasframe.Described, or a plugin with register_families. There are: {listing(known)}."
        )
    return own[0], known[own[0]]


def describe(net: nn.Module) -> dict[str, Any]:
    """Return a network's description, JSON-plain; :func:`build` makes a network of it.

    Raises:
        UsageError: no family matches.
        PluginError: the family's description is not JSON-plain.

    >>> from nasframe.testing.toy import tiny_net
    >>> description = describe(tiny_net())
    >>> description["built_by"], description["model"], description["layers"][0]
    ('sliceable', 'BertForSequenceClassification', {'heads': 4, 'ffn': 64})
    """
    name, family = family_of(net)
    with naming_plugins():
        description = family.describe(net)
    try:
        plain = json.loads(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError) as error:
        expected = "Expected a mapping of text, numbers, lists and mappings"
        raise PluginError(f"{registry.find('family', name)}: describe: {error}. {expected}.") from error
    return {**plain, BUILT_BY: name}


def summary(net: nn.Module) -> dict[str, Any]:
    """Return a network's description without its configuration, for reports."""
    description = describe(net)
    description.pop(CONFIG, None)
    return description


def build(description: Mapping[str, Any], state: Mapping[str, Any] | None = None, device: str = "cpu") -> nn.Module:
    """Return the network of a description, in eval mode.

    Args:
        description: from :func:`describe`.
        state: its ``state_dict``; without it the values are any.
        device: ``cpu``, or ``meta`` for shapes alone.

    Raises:
        RunError: the family is not registered, or builds other tensors than those of the state.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net("vit")
    >>> build(describe(net), net.state_dict()).config.hidden_size
    32
    """
    name = description.get(BUILT_BY) or _former(description)
    known = families()
    if name not in known:
        raise RunError(
            f"family {name!r}: no plugin registers it, so that its network cannot be built. Expected the plugin that "
            f"the run was made with. There are: {listing(known)}.{suggestion(name, known)}"
        )
    import torch

    # The values that are drawn here are overwritten, and a resumed run has to draw the same ones later.
    with torch.random.fork_rng(devices=[]), naming_plugins():
        net = known[name].build(description, device)
    if state is not None:
        try:
            net.load_state_dict(dict(state))
        except RuntimeError as error:
            raise RunError(
                f"{type(net).__name__}: family {name!r} builds other tensors than were stored. Expected the same: "
                f"{error}"
            ) from error
    return net.eval()


def check(net: nn.Module) -> None:
    """Make sure that a network can be built again from its description.

    Raises:
        UsageError: no family matches, or its family builds other tensors.
    """
    description = describe(net)
    try:
        again = build(description, device="meta")  # shapes are enough
    except Exception:  # a constructor may compute with values
        again = build(description)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    shapes_again = {name: tuple(tensor.shape) for name, tensor in again.state_dict().items()}
    differing = [name for name in {**shapes, **shapes_again} if shapes.get(name) != shapes_again.get(name)]
    if differing:
        raise UsageError(
            f"{type(net).__name__}: family {description[BUILT_BY]!r} builds a network with other tensors "
            f"({listing(differing[:5])}). Expected a network as its description says."
        )


def _former(description: Mapping[str, Any]) -> str:
    """Return the family of a description of an earlier version, which did not name it."""
    return "described" if "sizes" in description else "sliceable"


def row_sources() -> list[tuple[str, str]]:
    """Return each family that has rows, with the ``model_type`` of each row."""
    sources = []
    for name, family in families().items():
        if isinstance(family, SliceableFamily):
            sources += [(name, model_type) for model_type in family.rows]
    return sources


def rows() -> dict[str, Any]:
    """Return the rows of all families that can be sliced, by ``model_type``.

    Raises:
        UsageError: two families have a row of one type.
    """
    sources: dict[str, str] = {}
    for name, model_type in row_sources():
        if model_type in sources:
            both = f"{sources[model_type]!r} and {name!r}"
            raise UsageError(f"families {both} both have a row of {model_type!r}. Expected one row of a type.")
        sources[model_type] = name
    known: dict[str, Any] = families()
    return {model_type: known[name].rows[model_type] for model_type, name in sources.items()}
