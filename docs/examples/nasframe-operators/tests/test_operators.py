"""Space, task and model keep the contracts of their kinds, and are found when they are installed."""

import pytest
import torch
from nasframe import registry
from nasframe_operators.example import DigitRowsExample, OperatorsExample, RowReaderExample
from nasframe_operators.network import OPERATIONS, Reader
from nasframe_operators.space import Operators


class TestOperators(OperatorsExample):
    """The checks of spaces."""


class TestDigitRows(DigitRowsExample):
    """The checks of tasks."""


class TestRowReader(RowReaderExample):
    """The checks of models."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_the_shape(name):
    hidden = torch.rand(2, 5, 8)
    assert OPERATIONS[name](8)(hidden).shape == hidden.shape


def test_layers_without_an_operation_are_left_out():
    net = Reader(width=8)
    space = Operators(net.config, layers=2)
    supernet = space.supernet(net)
    model = space.extract(supernet, {"op.0": "identity", "op.1": "identity"})
    rows = torch.rand(2, 8, 8)
    assert len(model.layers) == 0
    assert torch.equal(model(rows).logits, net(rows).logits)


def test_they_are_registered():
    for kind, name in (("space", "operators"), ("task", "digit_rows"), ("model", "row_reader")):
        assert registry.find(kind, name).package == "nasframe-operators"
