"""Files with which ``nasframe plugins check`` tries the plugins that need some: a few rows, a tiny model."""

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
        lines = [f"{text}\t{label}" for text, label in sentences(60)]
        for name, part in {"train": lines[:48], "dev": lines[48:]}.items():
            content = "\n".join(["sentence\tlabel", *part, ""])
            (folder / f"{name}.tsv").write_text(content, encoding="utf-8")
        return {"name": "sst2", "path": str(folder), "select": 12}


class TextClassification(TaskContract):
    """One CSV file."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write ``train.csv``."""
        names = ("bad", "good")
        lines = [f"{text},{names[label]}" for text, label in sentences(80)]
        content = "\n".join(["text,label", *lines, ""])
        (folder / "train.csv").write_text(content, encoding="utf-8")
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
    """Yield different sentences, each with 1 if it contains "fine", else 0."""
    for i in range(count):
        words = [WORDS[i % 10], WORDS[i // 10], *WORDS[: i % 3]]
        yield " ".join(words), int("fine" in words)
