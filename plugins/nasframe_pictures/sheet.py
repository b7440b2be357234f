"""A sheet of pictures: inputs, targets, and the output of each network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasframe.interfaces import Work
from nasframe.nn import count


class PictureSheet:
    """Draw examples of ``select``, their targets, and the outputs of the run's networks into a PNG file.

    Args:
        path: the file.
        names: title of a row → name of the saved network; default: all of them.
        pictures: number of columns.
    """

    reshapes = False

    def __init__(self, path: str = "pictures.png", names: Mapping[str, str] | None = None, pictures: int = 8) -> None:
        self.path = path
        self.names = names
        self.pictures = pictures

    @torch.no_grad()
    def __call__(self, work: Work) -> Work:
        """Draw the file; return the work unchanged."""
        index = np.arange(min(self.pictures, work.task.sizes["select"]))
        batch = work.task.batch("select", index)  # type: ignore[attr-defined]
        rows = {"input": batch.inputs["pictures"], "target": batch.labels}
        names = self.names or {name: name for name in work.models}
        for title, name in names.items():
            net = work.models[name]
            device = next(net.parameters()).device
            outputs = net.eval()(pictures=batch.inputs["pictures"].to(device))
            parameters = f"{count.params(net).of():,.0f} parameters"
            macs = f"{count.macs(net).of() / 1e6:.2f} M MACs"
            rows[f"{title}\n{parameters}\n{macs}"] = outputs.logits.cpu()
        self._draw(rows, len(index))
        return work

    def _draw(self, rows: Mapping[str, Any], columns: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.1 * columns + 1.8, 1.1 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (title, pictures) in zip(axes, rows.items(), strict=True):
            for panel, picture in zip(line, pictures, strict=True):
                panel.imshow((picture.permute(1, 2, 0).numpy() + 1) / 2)
                panel.set(xticks=[], yticks=[])
            line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
        figure.savefig(Path(self.path), dpi=120)
