"""The vocabulary cut down to what a corpus uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Work
from nasframe.nn.vocabulary import kept_tokens, shrunk_net, shrunk_tokenizer
from nasframe.records import Count

TEXTS = 1024  # tokenised at once
EXAMPLES = 256  # of the training data at once


class Vocabulary:
    """Keep the words that a corpus uses: the rows of the word embedding and the tokenizer's words go together.

    The corpus is split into the same tokens as before, numbered anew. All networks of the run lose the same rows, so
    that teachers read the same batches; from here on the task is tokenised by the smaller tokenizer, which is also
    what an export brings. Other words fall into smaller pieces.

    Args:
        corpus: a text file, one text a line; default: the task's training data.
        least: how often a token has to occur.
        characters: keep the single characters of the kept tokens as well, so that other words need not become the
            unknown token.
        base: injected; the folder against which a relative ``corpus`` is read.

    Raises:
        UsageError: on use, where the tokenizer is not of the WordPiece kind or the corpus is empty.
    """

    reshapes = True

    def __init__(
        self, corpus: Path | None = None, least: Count = 1, characters: bool = True, base: Path | None = None
    ) -> None:
        self.corpus = None if corpus is None else Path(base or ".") / Path(corpus).expanduser()
        self.least, self.characters = least, characters

    def __call__(self, work: Work) -> Work:
        """Return the work with smaller networks and a smaller tokenizer."""
        if work.tokenizer is None:
            raise UsageError("vocabulary: the run has no tokenizer. Expected a model that brings one.")
        kept = kept_tokens(work.tokenizer, self.ids(work), self.least, self.characters)
        own = kept if work.vocabulary is None else [work.vocabulary[i] for i in kept]
        nets = {id(net): net for net in (work.net, *work.models.values())}
        small = {key: shrunk_net(net, kept) for key, net in nets.items()}
        return replace(
            work, net=small[id(work.net)], models={name: small[id(net)] for name, net in work.models.items()},
            tokenizer=shrunk_tokenizer(work.tokenizer, kept), vocabulary=own,
        )  # fmt: skip

    def ids(self, work: Work) -> Iterator[torch.Tensor]:
        """Yield the corpus as token ids."""
        if self.corpus is None:
            for batch in work.task.train_batches(0, 0, EXAMPLES):
                yield batch.inputs["input_ids"]
            return
        lines = [line for line in self.corpus.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise UsageError(f"vocabulary: {self.corpus} holds no text. Expected one text a line.")
        tokenizer: Any = work.tokenizer
        for start in range(0, len(lines), TEXTS):
            found = tokenizer(
                lines[start : start + TEXTS], return_attention_mask=False, truncation=False, padding=False
            )
            yield torch.tensor([i for row in found["input_ids"] for i in row])
