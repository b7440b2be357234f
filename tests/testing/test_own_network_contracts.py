"""The contracts on a space, a task and a cost that know no encoder, no tokens and no logits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from nasframe.testing.estimators import EstimatorContract
from nasframe.testing.spaces import SpaceContract

PATH = Path(__file__).parents[1] / "own_network_plugin.py"


def loaded() -> Any:
    """Import the plugin under a name of this file's own."""
    name = "own_network_contracts_plugin"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, PATH)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


own = loaded()


class TestSpace(SpaceContract):
    def make(self, config: Any) -> Any:
        return own.Ops(config)

    def net(self) -> Any:
        return own.OwnModel().load(None, seed=0)

    def inputs(self) -> dict[str, torch.Tensor]:
        return {"pixels": torch.randn(3, own.SIDE, own.SIDE, generator=torch.Generator().manual_seed(0))}


class TestCost(EstimatorContract):
    def make(self) -> Any:
        return own.OpSeconds()

    def space(self) -> Any:
        return own.Ops(self.plain().config)

    def plain(self) -> Any:
        return own.OwnModel().load(None, seed=0)

    def net(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            return self.space().supernet(self.plain())
