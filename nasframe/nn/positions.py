"""Positions of tokens: how many a network can read, and which of a batch are no padding."""

from __future__ import annotations

import torch
from torch import nn

from nasframe.records import Batch, sequence_length


def usable_positions(net: nn.Module) -> int | None:
    """Return the longest input of a network, in tokens; ``None`` if it has no table of positions.

    RoBERTa and its relatives count positions from ``padding_idx + 1`` on, so earlier rows of the table are never used.

    Args:
        net: the network, with or without values.

    >>> from nasframe.testing.toy import tiny_net
    >>> usable_positions(tiny_net("bert")), usable_positions(tiny_net("roberta", pad_token_id=1))
    (40, 38)
    """
    base = getattr(net, "base_model", net)  # networks of other kinds have no heads that come off
    for name, module in base.named_modules():
        _, _, own_name = name.rpartition(".")
        if own_name != "position_embeddings" or not isinstance(module, nn.Embedding):
            continue
        if module.padding_idx is None:
            return module.num_embeddings
        return module.num_embeddings - (module.padding_idx + 1)
    config = getattr(net, "config", None)
    length = getattr(config, "max_position_embeddings", None)
    if isinstance(length, int) and length > 0:
        return length
    return None


def real_tokens(batch: Batch) -> torch.Tensor:
    """Return which positions of a batch are no padding, ``(batch, length)``."""
    mask = batch.inputs.get("attention_mask")
    if mask is not None:
        return mask.bool()
    length = sequence_length(batch.inputs) or 1  # an example that is no sequence has one position
    return torch.ones(len(batch), length, dtype=torch.bool, device=batch.labels.device)
