"""The ledger's counts of networks without tables, at the length that each batch has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertForSequenceClassification

from nasframe.testing.toy import ToyTask, tiny_inputs
from nasframe.training.macs import MacCounter

PROBE = 8  # tokens of the toy's examples


def stranger() -> nn.Module:
    """Return an encoder of a family that cannot be sliced."""
    config = AlbertConfig(
        vocab_size=97,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        attn_implementation="eager",
    )
    return AlbertForSequenceClassification(config).eval()


class Windows(nn.Module):
    """Compare all tokens of windows of four, and of what is left: its multiply-adds are no polynomial of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        windows = self.embed(input_ids).split(4, dim=1)
        return sum((window @ window.transpose(1, 2)).sum() for window in windows)


def counted(net: nn.Module, length: int) -> float:
    """Run one example and let torch count."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(**tiny_inputs(batch=1, length=length))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 13, 40])
def test_every_length_is_counted_exactly(length: int) -> None:
    notices: list[Any] = []
    net = stranger()
    counter = MacCounter(ToyTask(length=PROBE), None, lambda *notice: notices.append(notice))
    assert counter.macs(net, None, examples=3, length=length) == 3 * counted(net, length)
    assert notices == []


def test_what_follows_no_polynomial_is_scaled_with_the_tokens_and_said_once() -> None:
    notices: list[Any] = []
    net = Windows()
    counter = MacCounter(ToyTask(length=PROBE), None, lambda *notice: notices.append(notice), "stages.train")
    at_probe = counter.macs(net, None, examples=1, length=PROBE)
    assert at_probe == counted(net, PROBE)
    assert notices == []
    for length in (11, 7):
        assert counter.macs(net, None, examples=2, length=length) == pytest.approx(2 * at_probe * length / PROBE)
    ((place, text),) = notices
    assert place == "stages.train"
    assert "counts 8 tokens, as in the first batch, and scales with the number of tokens" in text
