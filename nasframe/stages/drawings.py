"""Drawings of found architectures, kept in a stage's result so that reports need no plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nasframe.interfaces import DrawableDomain
from nasframe.plugin_errors import described
from nasframe.records import Drawing

if TYPE_CHECKING:
    from nasframe.records import Arch
    from nasframe.stages.session import StageSession


def keep_drawings(stage: StageSession, domain: Any, archs: Mapping[str, Arch]) -> None:
    """Keep the drawings of architectures in a stage's result, if their domain can draw them.

    A drawing that fails is reported, and ends no run: everything else is known by then.
    """
    if not isinstance(domain, DrawableDomain):
        return
    drawings: dict[str, Any] = {}
    for name, arch in archs.items():
        try:
            drawings[name] = asdict(_plain(domain.drawing(arch)))
        except Exception as error:  # of a plugin
            stage.notify(f"stages.{stage.name}", f"{name} is not drawn: domain.drawing raised {described(error)}.")
    stage.result["drawings"] = drawings


def _plain(drawing: Drawing) -> Drawing:
    """Return a drawing as it comes back from JSON.

    Raises:
        ValueError: it has no nodes, or edges in a circle.
    """
    if not drawing.nodes or drawing.depths() is None:
        raise ValueError("a drawing has at least one node, and no edges in a circle")
    nodes = {str(node): str(label) for node, label in drawing.nodes.items()}
    return Drawing(nodes, [(str(source), str(target)) for source, target in drawing.edges])
