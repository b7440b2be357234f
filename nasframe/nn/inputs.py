"""Inputs of networks: a batch cut and repeated to a size, and invented inputs for networks without a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError, listing
from nasframe.records import is_sequence, sequence_length


def resized(
    inputs: Mapping[str, torch.Tensor], batch: int | None = None, length: int | None = None
) -> dict[str, torch.Tensor]:
    """Return a network's inputs with another number of examples, and sequences of another length.

    Examples are repeated or left out. Sequences are made of the real tokens of each example, again and again, so that
    nothing is padding and every token is one that the network knows.

    Args:
        inputs: a batch of keyword inputs.
        batch: the number of examples; default: as many as there are.
        length: tokens in each sequence; default: as they are.

    Raises:
        UsageError: a length is asked for, but the inputs have no sequences.

    >>> batch = {"words": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> resized(batch, batch=2, length=5)["words"].tolist()
    [[5, 6, 5, 6, 5], [5, 6, 5, 6, 5]]
    >>> resized({"pixels": torch.zeros(3, 1, 8, 8)}, batch=1)["pixels"].shape
    torch.Size([1, 1, 8, 8])
    """
    changed = dict(inputs)
    if length is not None:
        changed = _lengthened(changed, length)
    if batch is not None:
        for name, tensor in changed.items():
            positions = torch.arange(batch, device=tensor.device) % len(tensor)
            changed[name] = tensor[positions]
    return changed


def _lengthened(inputs: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    present = sequence_length(inputs)
    if present is None:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        raise UsageError(
            f"length: {length}, but the inputs have no sequences of tokens ({shapes}). Expected no length."
        )
    mask = inputs.get("attention_mask")
    positions = []
    examples = len(next(iter(inputs.values())))
    for row in range(examples):
        real = torch.arange(present)
        if mask is not None and mask.shape[1:] == (present,):
            real = mask[row].bool().cpu().nonzero().flatten()
        if len(real) == 0:
            real = torch.arange(present)
        positions.append(real[torch.arange(length) % len(real)])
    index = torch.stack(positions)
    for name, tensor in inputs.items():
        if is_sequence(tensor) and tensor.shape[1] == present:
            inputs[name] = tensor.gather(1, index.to(tensor.device))
    return inputs


def token_input(net: nn.Module, inputs: Mapping[str, torch.Tensor], who: str) -> str:
    """Return the name of the input that holds a batch's token ids, for something that works on tokens alone.

    Args:
        net: the network that reads the batch.
        inputs: the batch's inputs.
        who: what needs tokens, for the error.

    Raises:
        UsageError: the network or the batch has no such input.

    >>> from nasframe.testing.toy import tiny_inputs, tiny_net
    >>> token_input(tiny_net(), tiny_inputs(), "vocabulary")
    'input_ids'
    """
    name = getattr(net, "main_input_name", None)
    if not isinstance(name, str) or name not in inputs or not is_sequence(inputs[name]):
        raise UsageError(f"{who}: needs sequences of tokens, but the task's batches have {listing(inputs)}.")
    return name


def invented(net: nn.Module, batch: int, length: int) -> dict[str, torch.Tensor] | None:
    """Return random inputs for a network of transformers that reads tokens, ``None`` for any other network.

    They are for networks that are looked at outside of a run; a run has batches of its own.

    Args:
        net: the network.
        batch: number of sequences.
        length: tokens in each.

    >>> from nasframe.testing.toy import tiny_net
    >>> {name: tuple(tensor.shape) for name, tensor in invented(tiny_net(), 2, 5).items()}
    {'input_ids': (2, 5), 'attention_mask': (2, 5)}
    """
    words = _vocabulary(net)
    if words is None:
        return None
    generator = torch.Generator().manual_seed(0)  # torch's own is left as it was
    ids = torch.randint(1, 100, (batch, length), generator=generator)
    ids %= words  # tiny networks of tests have fewer words
    main_input: Any = net.main_input_name
    return {main_input: ids, "attention_mask": torch.ones_like(ids)}


def _vocabulary(net: nn.Module) -> int | None:
    """Return the number of tokens that a network of transformers knows, ``None`` if it reads no tokens."""
    if not hasattr(net, "main_input_name"):
        return None
    words = getattr(getattr(net, "config", None), "vocab_size", None)
    return words if isinstance(words, int) else None
