"""Facts about networks of cells for reports and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def facts_of(net: nn.Module) -> Mapping[str, Any] | None:
    """Return the depth and the operations of a network of cells, ``None`` for any other.

    Of a super-network they are the most probable operations of all nine edges.
    """
    # By name: networks of other methods do not have to wait until this method's modules are imported.
    kind = type(net).__name__
    if kind not in ("AdaBert", "AdaBertSupernet"):
        return None
    from nasframe_adabert.network import AdaBert, histogram
    from nasframe_adabert.supernet import AdaBertSupernet

    if isinstance(net, AdaBert):
        nodes: Any = net.arguments["nodes"]
        counts = histogram(nodes)
        cells = len(net.cells)
    elif isinstance(net, AdaBertSupernet):
        chosen = net.alpha.argmax(1).tolist()
        counts = histogram([[[0, net.names[index]] for index in chosen]])
        cells = net.fewest + int(net.alpha_depth.argmax())
    else:
        return None
    shown = ", ".join(f"{name} × {count}" for name, count in counts.items())
    return {"cells": cells, "operations": shown or "none"}
