"""The table of families that can be sliced, with the rows that plugins add to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nasframe import families
from nasframe.errors import UsageError, listing, suggestion
from nasframe.nn import elastic
from nasframe.nn.elastic import FAMILIES, FamilyRow, layers_of, stock_class


def rows() -> Mapping[str, FamilyRow]:
    """Return all rows, by ``model_type``.

    Raises:
        UsageError: two families have a row of one type.
    """
    return {**FAMILIES, **families.rows()}


def row_for(config: Any, who: str = "") -> FamilyRow:
    """Return the row of a configuration's network.

    Args:
        config: a configuration of transformers.
        who: what asks, for the error.

    Raises:
        UsageError: there is none, or its networks cannot be sliced with this configuration.
    """
    start = f"{who}: " if who else ""
    known = rows()
    model_type = str(getattr(config, "model_type", type(config).__name__)).removeprefix("nasframe-")
    row = known.get(model_type)
    if row is None:
        hint = suggestion(model_type, known)
        raise UsageError(
            f"{start}{model_type}: not a family that can be sliced. Expected one of {listing(known)}.{hint}"
        )
    obstacle = row.obstacle(config)
    if obstacle:
        raise UsageError(f"{start}{model_type}: cannot be sliced: {obstacle}.")
    return row


def is_sliceable(net: nn.Module) -> bool:
    """Tell whether sub-networks can be slices of a network.

    >>> from nasframe.testing.toy import tiny_net
    >>> is_sliceable(tiny_net("vit")), is_sliceable(nn.Linear(2, 2))
    (True, False)
    """
    try:
        stock_class(net)
    except TypeError:
        return False
    return True


def depth_of(net: nn.Module) -> int:
    """Return the number of layers of a model of transformers, whether or not it can be sliced.

    Raises:
        UsageError: nothing says how many it has.

    >>> from nasframe.testing.toy import tiny_net
    >>> depth_of(tiny_net(layers=2))
    2
    """
    if is_sliceable(net):
        return len(layers_of(net))
    depth = getattr(getattr(net, "config", None), "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise UsageError(f"{type(net).__name__}: its number of layers is not known. Expected a model of transformers.")
    return depth


elastic.ROW_SOURCES.append(families.rows)
