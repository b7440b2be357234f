"""Batches and outputs of any form."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.nn.inputs import resized
from nasframe.nn.outputs import compared, logits_of, tensors_of
from nasframe.records import Batch, sequence_length
from nasframe.training.macs import MacCounter

ONE = torch.ones(2)


@given(examples=st.integers(1, 4), real=st.integers(1, 6), padding=st.integers(0, 3), length=st.integers(1, 20))
def test_a_lengthened_batch_has_real_tokens_only(examples, real, padding, length):
    ids = torch.arange(1, real + 1).repeat(examples, 1)
    ids = torch.cat([ids, torch.zeros(examples, padding, dtype=torch.long)], dim=1)
    inputs = {"words": ids, "attention_mask": (ids > 0).long(), "pixels": torch.zeros(examples, 3, 2, 2)}
    longer = resized(inputs, batch=5, length=length)
    assert longer["words"].shape == longer["attention_mask"].shape == (5, length)
    assert longer["attention_mask"].all()
    assert set(longer["words"].flatten().tolist()) <= set(range(1, real + 1))
    assert longer["pixels"].shape == (5, 3, 2, 2)
    assert inputs["words"].shape == (examples, real + padding)  # the batch itself stays as it is


def test_a_length_needs_sequences():
    with pytest.raises(UsageError, match=r"length: 9, but the inputs have no sequences of tokens \(pixels \(2, 3\)\)"):
        resized({"pixels": torch.zeros(2, 3)}, length=9)


@pytest.mark.parametrize(
    ("inputs", "length", "tokens"),
    [
        ({"words": torch.zeros(2, 5, dtype=torch.long)}, 5, 10),
        ({"pixels": torch.zeros(2, 3, 4, 4)}, None, 2),
        ({"pixels": torch.zeros(2, 16, dtype=torch.uint8)}, None, 2),
        ({"features": torch.zeros(2, 7)}, None, 2),
        ({"pixels": torch.zeros(2, 3, 4, 4), "words": torch.zeros(2, 6, dtype=torch.int32)}, 6, 12),
    ],
)
def test_tokens_of_a_batch(inputs, length, tokens):
    assert sequence_length(inputs) == length
    assert Batch(inputs, torch.zeros(2), torch.arange(2)).tokens == tokens


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (ONE, ["output"]),
        ((ONE, {"b": ONE}), ["0", "1.b"]),
        (namedtuple("Two", "x y")(ONE, None), ["x"]),
        (SimpleNamespace(picture=ONE, note="text", net=SimpleNamespace(deep=ONE)), ["picture"]),
        ({"logits": ONE, "hidden_states": (ONE, ONE)}, ["logits", "hidden_states.0", "hidden_states.1"]),
        (None, []),
    ],
)
def test_tensors_of_outputs(outputs, names):
    assert list(tensors_of(outputs)) == names


def test_logits_are_compared_if_there_are_any():
    assert list(compared({"logits": ONE, "hidden": ONE})) == ["logits"]
    assert list(compared({"depth": ONE, "ids": ONE.long()})) == ["depth"]
    with pytest.raises(UsageError, match="hold no tensors of floating-point numbers"):
        compared({"ids": ONE.long()})


def test_missing_logits_are_named():
    with pytest.raises(UsageError, match="kd: needs the network's logits, but its outputs are depth"):
        logits_of({"depth": ONE}, "kd")


def test_the_ledger_never_raises():
    said = []

    class Broken:
        def train_batches(self, seed, epoch, batch_size):
            raise ValueError("no data")

    counter = MacCounter(Broken(), None, lambda place, text: said.append((place, text)), "stages.x")
    assert [counter.macs(torch.nn.Linear(2, 2), None, 1) for _ in range(3)] == [None] * 3
    assert len(said) == 1
    assert said[0][0] == "stages.x"
    assert "no data" in said[0][1]
