"""The trackers: one function each, which says how to open it below a run directory."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from nasframe.errors import UsageError
from nasframe.records import RunInfo
from nasframe_tracking.tracked import Tracked

if TYPE_CHECKING:
    from accelerate.tracking import TensorBoardTracker

FOLDER = "tensorboard"
"""The folder in a run directory."""


def tensorboard() -> Tracked:
    """Write curves for TensorBoard to the run directory: ``tensorboard --logdir RUN/tensorboard`` shows them.

    It needs the extra ``tracking``. With ``--logdir`` of a folder above several runs, their curves are compared.
    """
    require_package("tensorboard")
    return Tracked(open_tensorboard)


def open_tensorboard(run: RunInfo) -> TensorBoardTracker:
    """Return Accelerate's tracker that writes to the run's folder ``tensorboard``."""
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker(FOLDER, run.directory)


def require_package(name: str) -> None:
    """Make sure that a tracker's package is installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec(name) is None:
        raise UsageError(f"the package {name!r} is not installed. Expected: pip install 'nasframe[tracking]'.")
