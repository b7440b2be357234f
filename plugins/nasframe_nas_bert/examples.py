"""The contracts of this package's plugins, on a library of chains of a tiny language model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe import registry
from nasframe.interfaces import TrainJob, Work
from nasframe.records import Batch
from nasframe.testing import EstimatorContract, SpaceContract, TrainerContract, TransformContract
from nasframe.testing.toy import ToyTask, tiny_inputs, tiny_net, tiny_tokenizer
from nasframe.testing.trainers import toy_job
from nasframe_nas_bert.space import OperatorChains

SIZES: Mapping[str, Any] = {
    "blocks": 3,
    "widths": ["50%", "100%"],
    "embeddings": ["50%", "100%"],
    "operations": ["mha", "ffn", "conv3"],
}


def tiny_teacher(seed: int = 0) -> Any:
    """Return a tiny masked language model."""
    return tiny_net(seed=seed, head="AutoModelForMaskedLM")


def tiny_space() -> OperatorChains:
    """Return a space of chains of the tiny teacher."""
    return OperatorChains(**SIZES, config=tiny_teacher().config)


def tiny_library(losses: bool = False) -> nn.Module:
    """Return the library of the tiny space, in eval mode.

    Args:
        losses: whether every candidate has a loss.
    """
    space = tiny_space()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library: Any = space.supernet(tiny_teacher())
    if losses:
        for part, values in space.domain.knobs.items():
            library.losses[part] = {str(value): 1.0 + number / 7 for number, value in enumerate(values)}
    return library.eval()


class Chains(SpaceContract):
    """Two widths, three operations."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return the sizes."""
        return SIZES

    def net(self) -> Any:
        """Return the teacher."""
        return tiny_teacher()


class Losses(EstimatorContract):
    """Losses of all candidates."""

    def space(self) -> Any:
        """Return the tiny space."""
        return tiny_space()

    def net(self) -> nn.Module:
        """Return the tiny library."""
        return tiny_library(losses=True)


class Times(Losses):
    """Measured on the toy's inputs."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return a few passes."""
        return {"repeats": 2, "warmup": 1}

    def net(self) -> nn.Module:
        """Return the tiny library with its times, which a run measures once, too."""
        library: Any = tiny_library()
        library.measured = _tiny_times()
        return library

    def make(self) -> Any:
        """Make the estimator with inputs to measure on."""
        return self.registered(probe_inputs=tiny_inputs)


@functools.cache
def _tiny_times() -> dict[str, Any]:
    """Measure the pieces of the tiny library."""
    from nasframe_nas_bert.pieces import conditions, measured

    inputs = tiny_inputs()
    how = conditions(inputs, batch=1, length=40, repeats=2, warmup=1, threads=None)
    return measured(tiny_space().pieces(tiny_library()), inputs, how).plain()


class TokenTask(ToyTask):
    """The toy's texts, whose batches a language model may also be evaluated on."""

    def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Any:
        """Run the network on the texts; its metrics mean nothing."""

        def first_outputs(**inputs: Any) -> Any:
            outputs = forward(**inputs)
            outputs.logits = outputs.logits[:, 0, :2]
            return outputs

        return super().evaluate(first_outputs, split, examples)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return a loss that nothing is trained by."""
        return outputs.logits.sum() * 0


class BlockByBlock(TrainerContract):
    """The tiny library and its teacher."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return a few bins by parameters, which no clock decides."""
        return {"bins": 2, "costs": ["params"], "sample": 4, "keep": 2, "warmup_epochs": 0, "shrink_every": 3}

    def job(self, **fields: Any) -> TrainJob:
        """Return a short stage on the tiny library."""
        params = registry.make("estimator", "params")
        library = tiny_library()
        fields = {
            "task": TokenTask(),
            "space": tiny_space(),
            "models": {"teacher": tiny_teacher(seed=1)},
            "estimators": {"params": params},
            **fields,
        }
        return toy_job(library, **fields)


class Scratch(TransformContract):
    """An extracted chain."""

    def work(self) -> Work:
        """Return work with one extracted chain."""
        space: Any = tiny_space()
        library = tiny_library()
        arch = space.domain.largest()
        task: Any = ToyTask()
        models = {"best@50%": space.extract(library, arch)}
        return Work(tiny_net(), tiny_tokenizer(), task, space, {"best@50%": arch}, models)
