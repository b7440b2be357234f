"""The contracts on a space, a task and a cost that know no encoder, no tokens and no logits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nasframe
from nasframe.records import Batch
from nasframe.testing import ContractError
from nasframe.testing.estimators import EstimatorContract
from nasframe.testing.models import ModelContract
from nasframe.testing.spaces import SpaceContract
from nasframe.testing.tasks import TaskContract

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


class Answer(dict[str, torch.Tensor]):
    @property
    def logits(self) -> torch.Tensor:
        return self["logits"]


class Sorter(nasframe.Described):
    """Sorts points into classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(2, classes)

    def describe(self) -> dict[str, Any]:
        return {"classes": self.head.out_features}

    def forward(self, points: torch.Tensor) -> Answer:
        return Answer(logits=self.head(points))


class SorterModel:
    """A model without a tokenizer, whose head has a few outputs too many."""

    def __init__(self, surplus: int = 0) -> None:
        self.surplus = surplus

    def tokenizer(self) -> None:
        return None

    def load(self, labels: Any, seed: int, random: bool = False) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Sorter((1 if labels is None else len(labels)) + self.surplus).eval()


class TestModel(ModelContract):
    def make(self) -> Any:
        return SorterModel()

    def inputs(self, model: Any, net: Any) -> dict[str, torch.Tensor]:
        return {"points": torch.tensor([[0.0, 1.0], [2.0, 3.0]])}


def test_a_head_that_does_not_fit_is_found_without_a_configuration_of_labels() -> None:
    class Surplus(TestModel):
        def make(self) -> Any:
            return SorterModel(surplus=2)

    with pytest.raises(ContractError, match="three labels give a head of 5 outputs"):
        Surplus().test_the_head_fits_the_labels()


def test_a_model_whose_inputs_are_not_known_is_told_what_to_do() -> None:
    class Unknown(ModelContract):
        def make(self) -> Any:
            return SorterModel()

    with pytest.raises(ContractError, match=r"a subclass of ModelContract whose inputs\(model, net\)"):
        Unknown().test_the_network_runs_on_the_tokenizer()


def test_a_task_whose_inputs_are_not_known_is_told_what_to_do() -> None:
    class Points:
        labels = ("a", "b")

        def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
            return [Batch({"points": torch.zeros(1, 2)}, torch.zeros(1, dtype=torch.long), torch.zeros(1))]

    class Unknown(TaskContract):
        def make(self, tokenizer: Any, seed: int) -> Any:
            return Points()

    with pytest.raises(ContractError, match=r"the inputs \['points'\].*a subclass of TaskContract whose net\(task\)"):
        Unknown().net(Points())
