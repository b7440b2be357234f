"""How ``nasframe plugins check`` tries augmentation: a tiny masked language model over the toy's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe.testing import ModifierContract
from nasframe.testing.toy import tiny_net, tiny_tokenizer
from nasframe.types import TrainJob


class Augment(ModifierContract):
    """Stages whose network has the tokenizer's vocabulary."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Save the language model."""
        import torch
        from transformers import BertConfig, BertForMaskedLM

        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net: Any = BertForMaskedLM(
                BertConfig(vocab_size=len(tiny_tokenizer()), max_position_embeddings=40, **sizes)
            )
        net.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return {"model": str(folder), "probability": 0.9}

    def job(self, **fields: Any) -> TrainJob:
        """Make a short stage of a network with that vocabulary."""
        tokenizer = tiny_tokenizer()
        nets = {seed: tiny_net(seed=seed, vocab_size=len(tokenizer)) for seed in (0, 1)}
        return super().job(**{"net": nets[0], "tokenizer": tokenizer, "models": {"teacher": nets[1]}, **fields})
