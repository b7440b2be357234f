"""Export: writes models as Hugging Face directories, and verifies them in a fresh process."""

from importlib import import_module
from typing import Any

_NAMES = ("clear_rests", "export", "export_all", "update_card")


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, because ``nasframe.export.reload`` must start quickly."""
    if name in _NAMES:
        return getattr(import_module("nasframe.export.write"), name)
    raise AttributeError(f"module 'nasframe.export' has no attribute {name!r}")
