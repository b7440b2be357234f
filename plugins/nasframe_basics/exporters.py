"""Exporters to Hugging Face directories: with true sizes, filled up with zeros, or plain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasframe.errors import UsageError
from nasframe.export import files
from nasframe.interfaces import ExportContent, Loading
from nasframe.outline import Outline

if TYPE_CHECKING:
    from torch import nn


class Hetero:
    """Write the true sizes, with a modelling file next to the weights that builds layers of different sizes.

    It needs torch and transformers only, and loads with ``trust_remote_code=True``. A network of one's own
    (``nasframe.Described``) is written with its own source files and loads with ``AutoModel``.
    """

    sizes_suffice = True

    def validate(self, net: nn.Module | Outline) -> None:
        """Refuse a network that is of no class of transformers, or whose source files need more than torch."""
        if isinstance(net, Outline):  # of an encoder whose class is known
            return
        from nasframe.export import described
        from nasframe.nn.custom import Described

        if isinstance(net, Described):
            described.exported_sources(net)
            return
        _refuse_foreign(net)

    def write(self, model: nn.Module, directory: Path, content: ExportContent) -> Loading:
        """Write weights, configuration and modelling files."""
        from nasframe.nn.custom import Described

        if isinstance(model, Described):
            return files.write_described(directory, model)
        return files.write_model(directory, model, "hetero", content.arch)


class Padded:
    """Fill heads and neurons up with zeros to one size in all layers, so that the stock class loads the model.

    The outputs are the same. The files, and the operations, are those of the larger sizes; the model card says so.
    """

    sizes_suffice = True

    def validate(self, net: nn.Module | Outline) -> None:
        """Refuse a network that is of no class of transformers."""
        if isinstance(net, Outline):
            return
        _refuse_foreign(net)

    def write(self, model: nn.Module, directory: Path, content: ExportContent) -> Loading:
        """Write weights and configuration."""
        return files.write_model(directory, model, "padded", content.arch)


class Stock:
    """Write a plain configuration, which the stock class loads; only for sizes that it can express.

    All layers then have the same width, and the hidden size is heads × head size.
    """

    sizes_suffice = True

    def validate(self, net: nn.Module | Outline) -> None:
        """Refuse a network whose sizes a plain configuration cannot express."""
        if isinstance(net, Outline):
            return
        _refuse_foreign(net)
        obstacle = files.stock_obstacle(net)
        if obstacle is not None:
            raise UsageError(
                f"mode stock cannot express it: {obstacle}. Expected a plain configuration's sizes. "
                "Use mode hetero (true sizes) or padded (zero-filled, loads with stock classes)."
            )

    def write(self, model: nn.Module, directory: Path, content: ExportContent) -> Loading:
        """Write weights and configuration."""
        return files.write_model(directory, model, "stock", content.arch)


def _refuse_foreign(net: nn.Module) -> None:
    """Refuse a network that no class of transformers loads."""
    if files.keeps_plain(net):
        name = type(net).__name__
        raise UsageError(f"{name}: no auto class of transformers loads it. Expected a network that one loads.")
