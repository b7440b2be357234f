"""Export: writes models as Hugging Face directories, and verifies them in a fresh process."""

from typing import Any

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """Import ``export`` when it is first used, because ``nasframe.export.reload`` must start quickly."""
    if name == "export":
        from nasframe.export.write import export

        return export
    raise AttributeError(f"module 'nasframe.export' has no attribute {name!r}")
