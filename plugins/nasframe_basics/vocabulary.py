"""The vocabulary cut down to the tokens of a corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Work, distilled_task
from nasframe.nn.vocabulary import kept_tokens, shrunk_net, shrunk_tokenizer
from nasframe.records import Count

TEXTS = 1024
"""Texts that are tokenised at once."""
EXAMPLES = 256
"""Training examples that are read at once."""


class Vocabulary:
    """Keep only the tokens that a corpus uses, in the tokenizer and as rows of the word embedding.

    The corpus is split into the same tokens as before, with new numbers. All networks of the run lose the same rows, so
    that teachers read the same batches. From here on the task uses the smaller tokenizer, and so do exports. Other
    words are split into smaller pieces.

    Args:
        corpus: a text file, one text a line; default: the task's training data.
        least: how often a token must occur to be kept.
        characters: also keep the single characters of the kept tokens, so that other words do not become the unknown
            token.
        base: injected; the folder that a relative ``corpus`` belongs to.

    Raises:
        UsageError: on use, if the tokenizer is not of the WordPiece kind or the corpus is empty.
    """

    reshapes = True

    def __init__(
        self, corpus: Path | None = None, least: Count = 1, characters: bool = True, base: Path | None = None
    ) -> None:
        self.corpus: Path | None = None
        if corpus is not None:
            self.corpus = Path(base or ".") / Path(corpus).expanduser()
        self.least = least
        self.characters = characters

    def __call__(self, work: Work) -> Work:
        """Return the work with smaller networks and a smaller tokenizer."""
        if work.tokenizer is None:
            raise UsageError("vocabulary: the run has no tokenizer. Expected a model that brings one.")
        corpus_ids = self.ids(work)
        kept = kept_tokens(work.tokenizer, corpus_ids, self.least, self.characters)
        original_ids = kept
        if work.vocabulary is not None:  # cut down before: ids of the smaller vocabulary become the first one's
            original_ids = [work.vocabulary[i] for i in kept]

        # Several names may stand for one network, which must stay one.
        shrunk: dict[int, nn.Module] = {}
        for net in (work.net, *work.models.values()):
            if id(net) not in shrunk:
                shrunk[id(net)] = shrunk_net(net, kept)
        models = {name: shrunk[id(net)] for name, net in work.models.items()}
        return replace(
            work,
            net=shrunk[id(work.net)],
            models=models,
            tokenizer=shrunk_tokenizer(work.tokenizer, kept),
            vocabulary=original_ids,
        )

    def ids(self, work: Work) -> Iterator[torch.Tensor]:
        """Yield the corpus as token ids."""
        from nasframe.nn.inputs import token_input

        if self.corpus is None:
            # One epoch, whatever its seed and epoch: only the counts of tokens matter.
            for batch in distilled_task(work.task).train_batches(0, 0, EXAMPLES):
                yield batch.inputs[token_input(work.net, batch.inputs, "vocabulary")]
            return
        text = self.corpus.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise UsageError(f"vocabulary: {self.corpus} holds no text. Expected one text a line.")
        tokenizer: Any = work.tokenizer
        for start in range(0, len(lines), TEXTS):
            texts = lines[start : start + TEXTS]
            encoded = tokenizer(texts, return_attention_mask=False, truncation=False, padding=False)
            ids = itertools.chain.from_iterable(encoded["input_ids"])  # as every tokenizer calls them
            yield torch.tensor(list(ids))
