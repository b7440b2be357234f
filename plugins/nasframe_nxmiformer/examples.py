"""The contract of ``assign_bits``, which needs work with a space of formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasframe.interfaces import Work
from nasframe.testing import TransformContract


class AssignBits(TransformContract):
    """The checks of a transform, with the space ``nm_bits``."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return options for one assignment."""
        return {"archs": {"assigned": "15%"}, "batches": 2, "batch_size": 8}

    def work(self) -> Work:
        """Return work with a space of formats."""
        from nasframe_nxmiformer.space import NMBits

        work = super().work()
        return replace(work, space=NMBits(config=work.net.config))  # type: ignore[arg-type]
