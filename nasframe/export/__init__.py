"""Export: models written for others, and verified in a fresh process."""

from importlib import import_module
from typing import Any

_NAMES = ("clear_rests", "export", "export_all", "update_card", "write")


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: what verifies an export runs without torch."""
    if name in _NAMES:
        return getattr(import_module("nasframe.export.write"), name)
    raise AttributeError(f"module 'nasframe.export' has no attribute {name!r}")
