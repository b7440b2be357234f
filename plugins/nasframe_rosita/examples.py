"""The stages with which ``nasframe plugins check`` tries pruning: they train one network through views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe.interfaces import TrainJob
from nasframe.nn.factorize import factorize_embedding
from nasframe.testing import ModifierContract
from nasframe.testing.toy import ToySpace, tiny_net


class Pruning(ModifierContract):
    """Stages with a space, of a network whose embedding is factorised; depth and width are pruned at once."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """End with half of everything, after two cuts."""
        return {"layers": 2, "heads": 2, "ffn": 32, "embedding_rank": 6, "times": 2, "over": 0.5, "lower": "svd"}

    def job(self, **fields: Any) -> TrainJob:
        """Make a short stage."""
        factorized = factorize_embedding(tiny_net(), 12)
        return super().job(**{"net": factorized, **fields})

    def shapes(self) -> list[dict[str, Any]]:
        """List stages: one that is refused, the whole network, and the same in micro-batches."""
        space: Any = ToySpace()
        whole = {"space": space, "arch": space.domain.largest()}
        return [{"space": None}, whole, {**whole, "accumulate": 2}]
