"""The contract of ``augment``, for which a tiny masked language model with the toy's vocabulary is saved first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe.interfaces import TrainJob
from nasframe.testing import ModifierContract
from nasframe.testing.toy import tiny_net, tiny_tokenizer


class Augment(ModifierContract):
    """The checks of a modifier, in stages whose network has the tokenizer's vocabulary."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Save the language model, and return options that name it."""
        import torch
        from transformers import BertConfig, BertForMaskedLM

        tokenizer = tiny_tokenizer()
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=40,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net: Any = BertForMaskedLM(config)
        net.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {"model": str(folder), "probability": 0.9}

    def job(self, **fields: Any) -> TrainJob:
        """Return a short stage of a network with that vocabulary, as ``augment`` requires."""
        tokenizer = tiny_tokenizer()
        net = tiny_net(seed=0, vocab_size=len(tokenizer))
        teacher = tiny_net(seed=1, vocab_size=len(tokenizer))
        defaults = {"net": net, "tokenizer": tokenizer, "models": {"teacher": teacher}}
        return super().job(**{**defaults, **fields})
