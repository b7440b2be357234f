"""Positions of tokens: how many a network can read, and which of a batch are no padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nasframe.nn.elastic import base_of
from nasframe.records import Batch


def usable_positions(net: nn.Module) -> int | None:
    """Return the longest input of a network, in tokens; ``None`` if it has no table of positions.

    RoBERTa and its relatives count positions from ``padding_idx + 1`` on, so earlier rows of the table are never used.

    Args:
        net: the network, with or without values.

    >>> from nasframe.testing.toy import tiny_net
    >>> usable_positions(tiny_net("bert")), usable_positions(tiny_net("roberta", pad_token_id=1))
    (40, 38)
    """
    for name, module in base_of(net).named_modules():
        _, _, own_name = name.rpartition(".")
        if own_name != "position_embeddings" or not isinstance(module, nn.Embedding):
            continue
        if module.padding_idx is None:
            return module.num_embeddings
        return module.num_embeddings - (module.padding_idx + 1)
    config: Any = net.config
    length = getattr(config, "max_position_embeddings", None)
    if isinstance(length, int) and length > 0:
        return length
    return None


def real_tokens(batch: Batch) -> torch.Tensor:
    """Return which positions of a batch are no padding, ``(batch, length)``."""
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return torch.ones_like(batch.inputs["input_ids"], dtype=torch.bool)
    return mask.bool()
