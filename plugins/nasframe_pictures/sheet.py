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
        count_of_pictures = min(self.pictures, work.task.sizes["select"])
        index = np.arange(count_of_pictures)
        batch = work.task.batch("select", index)  # type: ignore[attr-defined]
        rows = {"input": batch.inputs["pictures"], "target": batch.labels}
        names = self.names or {name: name for name in work.models}
        for title, name in names.items():
            net = work.models[name].eval()
            device = next(net.parameters()).device
            pictures = batch.inputs["pictures"].to(device)
            outputs = net(pictures=pictures)
            parameters = f"{count.params(net).of():,.0f} parameters"
            macs = f"{count.macs(net).of() / 1e6:.2f} M MACs"
            rows[f"{title}\n{parameters}\n{macs}"] = outputs.logits.cpu()
        self._draw(rows, columns=len(index))
        return work

    def _draw(self, rows: Mapping[str, Any], columns: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        width = 1.1 * columns + 1.8  # room for the titles at the left
        height = 1.1 * len(rows)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (title, pictures) in zip(axes, rows.items(), strict=True):
            for panel, picture in zip(line, pictures, strict=True):
                channels_last = picture.permute(1, 2, 0).numpy()
                panel.imshow((channels_last + 1) / 2)  # from −1 … 1 to 0 … 1
                panel.set(xticks=[], yticks=[])
            line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
        figure.savefig(Path(self.path), dpi=120)
