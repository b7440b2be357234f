"""What was measured, kept in nasframe's cache for a network's shape and a machine: plain JSON, no model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import families
from nasframe.errors import RunError
from nasframe.records import Arch, canonical_json
from nasframe.running.cache import default_folder
from nasframe.running.environment import environment
from nasframe.storage import write_text

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
FOLDER = "predictor"
"""In the cache's folder."""


@dataclass(frozen=True)
class Measurements:
    """Architectures and their costs.

    Args:
        archs: the architectures.
        values: what each of them costs.
        is_recalled: whether they come from the cache.
    """

    archs: Sequence[Arch]
    values: Sequence[float]
    is_recalled: bool = False

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Measurements:
        """Return what :meth:`plain` wrote."""
        return cls(plain["archs"], plain["values"], is_recalled=True)

    def plain(self) -> dict[str, Any]:
        """Return the measurements, JSON-plain."""
        return {"archs": [dict(arch) for arch in self.archs], "values": list(self.values)}


def key_of(net: nn.Module, archs: Sequence[Arch], use: str, inputs: Mapping[str, Sequence[int]], by_shape: bool) -> str:
    """Return what measurements belong to: a digest of network, sub-networks, cost and machine.

    Args:
        net: the super-network.
        archs: the sub-networks.
        use: the measured cost with its options.
        inputs: the shapes of the batches that it may be measured on.
        by_shape: whether the cost depends on the shapes of tensors alone, so that training changes nothing. Otherwise
            the values of all weights count.
    """
    parts = {
        "format": FORMAT,
        "net": families.describe(net),
        "archs": [dict(arch) for arch in archs],
        "use": use,
        "inputs": dict(inputs),
        "machine": environment(),
    }
    digest = hashlib.sha256(canonical_json(parts).encode())
    if not by_shape:
        from safetensors.torch import save

        weights = {name: tensor.detach().contiguous().clone() for name, tensor in net.state_dict().items()}
        digest.update(save(weights))
    return digest.hexdigest()[:32]


def path_of(key: str) -> Path:
    """Return the file of a key."""
    return default_folder() / FOLDER / f"{key}.json"


def recall(key: str, archs: Sequence[Arch]) -> Measurements | None:
    """Return the measurements in the cache, ``None`` if there are none or the file is damaged."""
    try:
        content = json.loads(path_of(key).read_text(encoding="utf-8"))
        values = [float(value) for value in content["values"]]
        is_sound = content["format"] == FORMAT and content["archs"] == [dict(arch) for arch in archs]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not is_sound or len(values) != len(archs) or not all(map(math.isfinite, values)):
        return None
    return Measurements(list(archs), values, is_recalled=True)


def remember(key: str, measurements: Measurements) -> None:
    """Keep measurements; a cache that cannot be written to only costs time later."""
    path = path_of(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"format": FORMAT, **measurements.plain()}) + "\n")
    except (OSError, RunError):
        return
