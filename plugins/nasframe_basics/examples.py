"""Files with which ``nasframe plugins check`` tries the plugins that need some: a few rows, a tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification

from nasframe.nn.custom import Described
from nasframe.records import CostTable
from nasframe.testing import FamilyContract, ModelContract, SamplerContract, TaskContract
from nasframe.testing.toy import tiny_net, tiny_tokenizer

WORDS = ("a", "dull", "fine", "film", "plot", "long", "short", "scene", "is", "not")


class Glue(TaskContract):
    """SST-2 in GLUE's own layout."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``train.tsv`` and ``dev.tsv``."""
        lines = [f"{text}\t{label}" for text, label in sentences(60)]
        parts = {"train": lines[:48], "dev": lines[48:]}
        for name, part in parts.items():
            content = "\n".join(["sentence\tlabel", *part, ""])
            file = folder / f"{name}.tsv"
            file.write_text(content, encoding="utf-8")
        return {"name": "sst2", "path": str(folder), "select": 12}


class TextClassification(TaskContract):
    """One CSV file."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``train.csv``."""
        names = ("bad", "good")
        lines = [f"{text},{names[label]}" for text, label in sentences(80)]
        content = "\n".join(["text,label", *lines, ""])
        file = folder / "train.csv"
        file.write_text(content, encoding="utf-8")
        return {"train": str(file), "select": 12}


class ImageClassification(TaskContract):
    """A folder by class, with PNG files."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``dark/*.png`` and ``light/*.png``."""
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(0)
        for name, lowest in (("dark", 0), ("light", 128)):
            (folder / name).mkdir()
            for number in range(40):
                pixels = rng.integers(lowest, lowest + 128, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return {"train": str(folder), "select": 12}


class CausalLM(TaskContract):
    """A text file, a document on each line."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``texts.txt``."""
        lines = [text for text, _ in sentences(100)]
        file = folder / "texts.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        return {"train": str(file), "documents": "line", "length": 16, "select": 20, "dev_share": 20}


class MaskedLM(TaskContract):
    """A text file, a document on each line."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``texts.txt``."""
        lines = [text for text, _ in sentences(100)]
        file = folder / "texts.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        return {"train": str(file), "documents": "line", "length": 16, "select": 20, "dev_share": 20}


class HF(ModelContract):
    """A tiny BERT in a directory."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Save the network and its tokenizer."""
        net: Any = tiny_net()
        net.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return {"path": str(folder)}


class FromConfig(ModelContract):
    """A tiny BERT with the tokenizer of a directory."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Save the tokenizer."""
        tiny_tokenizer().save_pretrained(folder)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        configuration = {**sizes, "vocab_size": 97, "max_position_embeddings": 512}
        return {"type": "bert", "configuration": configuration, "tokens": str(folder)}


def sentences(count: int) -> Iterator[tuple[str, int]]:
    """Yield different sentences, each with 1 if it contains "fine", else 0."""
    for i in range(count):
        # The first two words are i's digits, which makes each sentence a different one; the others vary the length.
        tens, ones = divmod(i, 10)
        words = [WORDS[ones], WORDS[tens], *WORDS[: i % 3]]
        label = int("fine" in words)
        yield " ".join(words), label


class SliceableFamily(FamilyContract):
    """One of the networks that can be sliced; tests try the others."""

    def net(self) -> nn.Module:
        """Return a tiny BERT."""
        return tiny_net(attn_implementation="eager")


class DescribedFamily(FamilyContract):
    """A network of one's own."""

    def net(self) -> nn.Module:
        """Return one with tied weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Mirrored(6).eval()


class TransformersFamily(FamilyContract):
    """A model of transformers that cannot be sliced: ALBERT's layers share their weights."""

    def net(self) -> nn.Module:
        """Return a tiny ALBERT."""
        config = AlbertConfig(
            vocab_size=97,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AlbertForSequenceClassification(config).eval()


class Mirrored(Described):
    """Average embedded tokens, and map the average to logits with two maps of one weight.

    Args:
        width: of the embedding and of both maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight

    def describe(self) -> dict[str, Any]:
        """Return the width."""
        return {"width": self.embed.embedding_dim}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of token ids ``(examples, tokens)``."""
        states = self.embed(input_ids) * attention_mask[..., None]
        return {"logits": self.second(self.first(states.mean(1)).relu())}


def sizes_table(domain: Any) -> CostTable:
    """Return the sizes of values as a table: numbers count as they are, lists by their lengths."""
    choices = {}
    for knob, values in domain.knobs.items():
        choices[knob] = [float(len(value) if isinstance(value, list) else value) for value in values]
    return CostTable(0.0, choices)


class Milp(SamplerContract):
    """A score that is a sum over the knobs' values."""

    trials = 40
    rounds = 4
    milliseconds = 400.0

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return the score that the table is of."""
        return {"score": "size"}

    def make(self, domain: Any, seed: int) -> Any:
        """Make the sampler with a table of sizes."""
        return self.registered(domain=domain, seed=seed, tables=lambda cost: sizes_table(domain))


class Dynamic(SamplerContract):
    """A score that is a sum over the knobs' values."""

    trials = 400

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return the score that the table is of."""
        return {"score": "size"}

    def make(self, domain: Any, seed: int) -> Any:
        """Make the sampler with a table of sizes."""
        return self.registered(domain=domain, seed=seed, tables=lambda cost: sizes_table(domain))
