"""The families of nasframe itself: networks that can be sliced, networks of one's own, all others of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from nasframe.nn.row_family import RowFamily


def sliceable() -> RowFamily:
    """Return the family of models of transformers whose layers can be narrowed, head by head and neuron by neuron.

    Their description has the sizes of each layer, which no configuration of transformers has.
    """
    from nasframe.nn.elastic import FAMILIES
    from nasframe.nn.row_family import RowFamily

    return RowFamily(FAMILIES)


class Own:
    """Networks of one's own: subclasses of :class:`nasframe.Described`, which describe themselves."""

    def matches(self, net: nn.Module) -> bool:
        """Tell whether a network describes itself."""
        from nasframe.nn.custom import Described

        return isinstance(net, Described)

    def describe(self, net: nn.Module) -> dict[str, Any]:
        """Return the network's class, module and constructor's arguments."""
        from nasframe.nn.custom import described

        return described(net)  # type: ignore[arg-type]

    def build(self, description: Mapping[str, Any], device: str) -> nn.Module:
        """Return a network of the class with these arguments."""
        from nasframe.nn.custom import made

        return made(description, device)

    def sources(self, net: nn.Module) -> Sequence[Path]:
        """Return the files that the network's class says it needs."""
        sources: Sequence[Path] = net.sources()  # type: ignore[operator,assignment]
        return sources


class Transformers:
    """Every other model of transformers, as it is: trained, evaluated, distilled from, kept and resumed, not sliced."""

    def matches(self, net: nn.Module) -> bool:
        """Tell whether a network is of a class of transformers that cannot be sliced."""
        from nasframe.nn.blueprint import whole_class
        from nasframe.nn.rows import is_sliceable

        return whole_class(net) is not None and not is_sliceable(net)

    def describe(self, net: nn.Module) -> dict[str, Any]:
        """Return the class and the configuration."""
        from nasframe.nn.blueprint import whole_class

        config: Any = net.config
        cls: Any = whole_class(net)
        return {"family": config.model_type, "model": cls.__name__, "config": config.to_dict()}

    def build(self, description: Mapping[str, Any], device: str) -> nn.Module:
        """Return a network of the class with this configuration."""
        from nasframe.nn.blueprint import fresh_whole

        return fresh_whole(description["model"], description["config"], device)

    def sources(self, net: nn.Module) -> Sequence[Path]:
        """Return no files: transformers has the class."""
        return ()
