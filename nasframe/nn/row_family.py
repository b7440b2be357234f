"""The family of networks that sub-networks are slices of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nasframe.nn import elastic
from nasframe.nn.blueprint import blueprint, fresh
from nasframe.nn.elastic import FamilyRow, family_name
from nasframe.nn.rows import is_sliceable


class RowFamily:
    """The family of the models of transformers that some rows are for; ``register_families`` takes it as it is.

    Args:
        rows: ``model_type`` → row.

    >>> from nasframe.testing.toy import tiny_net
    >>> from nasframe.nn.elastic import FAMILIES
    >>> family = RowFamily({"bert": FAMILIES["bert"]})
    >>> family.matches(tiny_net("bert")), family.matches(tiny_net("vit"))
    (True, False)
    """

    def __init__(self, rows: Mapping[str, FamilyRow]) -> None:
        self.rows = rows

    def matches(self, net: nn.Module) -> bool:
        """Tell whether a network is of a class of transformers that has one of these rows."""
        return is_sliceable(net) and family_name(net) in self.rows

    def describe(self, net: nn.Module) -> dict[str, Any]:
        """Return the blueprint, and the configuration as ``config``."""
        config: Any = net.config
        return {**blueprint(net), "config": config.to_dict()}

    def build(self, description: Mapping[str, Any], device: str) -> nn.Module:
        """Return a network of these sizes."""
        sizes = {key: value for key, value in description.items() if key != "config"}
        return fresh(description["config"], sizes, device)

    def sources(self, net: nn.Module) -> Sequence[Path]:
        """Return the file that builds layers of different sizes."""
        return [Path(elastic.__file__)]
