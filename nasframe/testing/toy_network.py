"""A tiny network that describes itself: what a network of one's own looks like, in a file that exports carry."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from nasframe.nn.custom import Described


class ToyNet(Described):
    """Embed token ids, average them, and map the average through one hidden layer.

    The weights of both maps of ``mirror`` are one tensor, as tied weights are.

    Args:
        width: neurons of the hidden layer.
        words: size of the vocabulary.
        labels: number of outputs.
    """

    def __init__(self, width: int, words: int = 97, labels: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 8)
        self.hidden = nn.Linear(8, width)
        self.mirror = nn.Linear(width, width)
        self.mirror_again = nn.Linear(width, width)
        self.mirror_again.weight = self.mirror.weight
        self.out = nn.Linear(width, labels)

    def describe(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "width": self.hidden.out_features,
            "words": self.embedding.num_embeddings,
            "labels": self.out.out_features,
        }

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Return the logits of each class.

        Args:
            input_ids: ``(batch, length)``.
            attention_mask: ``(batch, length)``, 0 for padding.
        """
        states = self.embedding(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask[..., None].to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        hidden = self.hidden(mean).relu()
        hidden = self.mirror_again(self.mirror(hidden).relu()).relu()
        return SequenceClassifierOutput(logits=self.out(hidden))
