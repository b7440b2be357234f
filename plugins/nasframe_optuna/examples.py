"""The trials with which ``nasframe plugins check`` tries the wrapper: by an Optuna sampler that takes little time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe.testing import SamplerContract


class Optuna(SamplerContract):
    """Fewer trials and more patience: a state is loaded by asking and telling everything again."""

    rounds, trials, seconds = 6, 500, 300.0

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Choose the sampler."""
        return {"sampler": "RandomSampler"}
