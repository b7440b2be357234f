"""Stand-ins for what recipes name, written to a folder: a small BERT with its words, and texts of these."""

import contextlib
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "good", "bad", "fine", "dull", "the", "a", "film", "plot"]


def write_net(
    place: Path, words: Sequence[str] = WORDS, kind: Any = BertForSequenceClassification, **sizes: int
) -> str:
    """Write a BERT with random weights and its tokenizer; return what recipes say for ``model``."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kind(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(place)
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(place)
    return f"{{use: hf, path: {place}}}"


def write_reviews(home: Path, rows: Sequence[Sequence[str]] = ()) -> str:
    """Write texts, drawn from ``WORDS`` by default, labelled by having "good"; return what recipes say for ``task``."""
    draw = random.Random(0)
    rows = rows or [draw.choices(WORDS[5:], k=draw.randint(3, 9)) for _ in range(80)]
    lines = [f"{' '.join(row)},{int('good' in row)}" for row in rows]
    (home / "reviews.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return f"{{use: text_classification, train: {home}/reviews.csv, max_length: 12}}"
