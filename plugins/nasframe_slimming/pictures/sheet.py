"""A sheet of pictures: what goes in, what was to come out, and what each network makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from nasframe.nn import count
from nasframe.types import Work


class PictureSheet:
    """Draw examples of ``select`` before and after, and what each of the run's networks makes of them, into a PNG file.

    Args:
        path: the file.
        names: title of a row → name of the saved network; default: all of them.
        pictures: how many columns.
    """

    reshapes = False

    def __init__(self, path: str = "pictures.png", names: Mapping[str, str] | None = None, pictures: int = 8) -> None:
        self.path, self.names, self.pictures = path, names, pictures

    @torch.no_grad()
    def __call__(self, work: Work) -> Work:
        """Draw, and return the work as it was."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shown = np.arange(min(self.pictures, work.task.sizes["select"]))
        batch = work.task.batch("select", shown)  # type: ignore[attr-defined]
        rows = {"input": batch.inputs["pictures"], "target": batch.labels}
        for title, name in (self.names or {name: name for name in work.models}).items():
            net = work.models[name]
            where = next(net.parameters()).device
            made = net.eval()(pictures=batch.inputs["pictures"].to(where)).logits.cpu()
            rows[f"{title}\n{count.params(net).of():,.0f} parameters\n{count.macs(net).of() / 1e6:.2f} M MACs"] = made
        figure = Figure(figsize=(1.1 * len(shown) + 1.8, 1.1 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rows), len(shown), squeeze=False)
        for line, (title, pictures) in zip(axes, rows.items(), strict=True):
            for place, picture in zip(line, pictures, strict=True):
                place.imshow((picture.permute(1, 2, 0).numpy() + 1) / 2)
                place.set(xticks=[], yticks=[])
            line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
        figure.savefig(Path(self.path), dpi=120)
        return work
