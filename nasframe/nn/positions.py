"""The number of tokens that a network can read."""

from __future__ import annotations

from typing import Any

from torch import nn

from nasframe.nn.elastic import base_of


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
