"""Contracts of the plugins that need the space's super-network, or a probed teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nasframe import registry
from nasframe.interfaces import TrainJob, Work
from nasframe.testing import ModifierContract
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_adabert.probes import AttachProbes
from nasframe_adabert.space import AdaBertSpace


def space_and_net() -> tuple[AdaBertSpace, Any]:
    """Return a small space and its super-network of a tiny encoder."""
    net: Any = tiny_net()
    space = AdaBertSpace(most=2, width=8, config=net.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space, space.supernet(net).eval()


def probed_net() -> Any:
    """Return a tiny encoder with probes."""
    task: Any = ToyTask()
    return AttachProbes(seed=0)(Work(tiny_net(), None, task, models={"teacher": tiny_net(seed=1)})).net


class OnCells(ModifierContract):
    """The checks of a modifier, with a super-network of cells."""

    def job(self, **fields: Any) -> TrainJob:
        """Return a short stage that trains the super-network."""
        space, net = space_and_net()
        models = {"teacher": tiny_net(seed=1), "probes": probed_net()}
        return toy_job(**{"net": net, "space": space, "max_steps": self.steps, "models": models, **fields})

    def shapes(self) -> list[dict[str, Any]]:
        """Return the kinds of stages that train the whole super-network."""
        return [{}, {"accumulate": 2}]


class Searching(OnCells):
    """The checks of ``differentiable``, without a batch on whose shapes multiply-adds could be counted."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return options for a stage of a few steps."""
        return {"prices": ["params"], "staircase": 1, "learning_rate": 0.1, "target": "90%", "bound": "params"}


class LearningFromProbes(OnCells):
    """The checks of ``probe_kd``."""

    def make(self) -> Any:
        """Make the modifier."""
        return registry.make("modifier", {"use": "probe_kd"})


class FittingProbes(ModifierContract):
    """The checks of ``fit_probes``, with a probed teacher."""

    def job(self, **fields: Any) -> TrainJob:
        """Return a short stage that trains the probes."""
        return toy_job(**{"net": probed_net(), "max_steps": self.steps, **fields})

    def shapes(self) -> list[dict[str, Any]]:
        """Return the kinds of stages that train the whole network."""
        return [{}, {"accumulate": 2}]
