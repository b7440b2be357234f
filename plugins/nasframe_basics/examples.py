"""How ``nasframe plugins check`` prepares the plugins that need files: a few rows, a tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nasframe.testing import ModelContract, TaskContract
from nasframe.testing.toy import tiny_net, tiny_tokenizer

WORDS = ("a", "dull", "fine", "film", "plot", "long", "short", "scene", "is", "not")


class Glue(TaskContract):
    """SST-2 in GLUE's own layout."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``train.tsv`` and ``dev.tsv``."""
        rows = list(sentences(60))
        for name, part in {"train": rows[:48], "dev": rows[48:]}.items():
            lines = [f"{text}\t{label}" for text, label in part]
            (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]), encoding="utf-8")
        return {"name": "sst2", "path": str(folder), "select": 12}


class TextClassification(TaskContract):
    """One CSV file."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``train.csv``."""
        lines = [f"{text},{('bad', 'good')[label]}" for text, label in sentences(80)]
        (folder / "train.csv").write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")
        return {"train": str(folder / "train.csv"), "select": 12}


class HF(ModelContract):
    """A tiny BERT in a directory."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Save the network and its tokenizer."""
        net: Any = tiny_net()
        net.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return {"path": str(folder)}


def sentences(count: int) -> Iterator[tuple[str, int]]:
    """Make different sentences, with 1 where they say "fine"."""
    for i in range(count):
        words = [WORDS[i % 10], WORDS[i // 10], *WORDS[: i % 3]]
        yield " ".join(words), int("fine" in words)
