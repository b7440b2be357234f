"""A smaller vocabulary: a word embedding's rows and a tokenizer's words, taken away together."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.nn.elastic import WORD_EMBEDDINGS, FactorizedEmbedding, base_of


def kept_tokens(tokenizer: Any, ids: Iterable[torch.Tensor], least: int = 1, characters: bool = True) -> list[int]:
    """Say which tokens of a WordPiece tokenizer a corpus uses.

    A word is split greedily, longest piece first, so that a tokenizer of these tokens splits every word of the corpus
    as before.

    Args:
        tokenizer: a fast tokenizer of the WordPiece kind (BERT, ELECTRA, DistilBERT).
        ids: the corpus, as token ids of any shape.
        least: how often a token has to occur; above 1, rarer words are split into smaller pieces.
        characters: keep the single characters that the kept tokens are made of as well, so that other words fall into
            pieces in place of the unknown token.

    Returns:
        Token ids, ascending; special and added tokens are always among them.

    Raises:
        UsageError: the tokenizer is of another kind.

    >>> from nasframe.testing.toy import tiny_tokenizer
    >>> kept_tokens(tiny_tokenizer(), [torch.tensor(tiny_tokenizer()("ab")["input_ids"])], characters=False)
    [0, 1, 2, 3, 4, 5, 32]
    """
    said = _said(tokenizer)
    words, prefix = said["model"]["vocab"], said["model"]["continuing_subword_prefix"]
    counts = torch.zeros(len(tokenizer), dtype=torch.long)
    for part in ids:
        counts += torch.bincount(part.flatten().cpu(), minlength=len(tokenizer))
    kept = set(torch.nonzero(counts >= least).flatten().tolist())
    special = {*tokenizer.all_special_ids, *(token["id"] for token in said["added_tokens"])}
    if characters:
        letters = {letter for word, i in words.items() if i in kept - special for letter in word.removeprefix(prefix)}
        kept |= {words[form] for letter in letters for form in (letter, prefix + letter) if form in words}
    return sorted(kept | special)


def shrunk_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """Return a tokenizer of some of the tokens, numbered anew in the order given; the old one stays as it was.

    Args:
        tokenizer: see :func:`kept_tokens`.
        kept: token ids; special and added tokens must be among them.

    Raises:
        UsageError: the tokenizer is of another kind, or a special token is to go.

    >>> from nasframe.testing.toy import tiny_tokenizer
    >>> shrunk_tokenizer(tiny_tokenizer(), [0, 1, 2, 3, 4, 5, 32])("ab")["input_ids"]
    [2, 5, 6, 3]
    """
    from tokenizers import Tokenizer

    said, new = _said(tokenizer), {old: number for number, old in enumerate(kept)}
    lost = {*tokenizer.all_special_ids, *(token["id"] for token in said["added_tokens"])} - new.keys()
    if lost:
        raise UsageError(f"vocabulary: special tokens {sorted(lost)} would go. Expected them to be kept.")
    said["model"]["vocab"] = {word: new[i] for word, i in said["model"]["vocab"].items() if i in new}
    for token in said["added_tokens"]:
        token["id"] = new[token["id"]]
    after = said.get("post_processor") or {}
    for token in after.get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for side in ("cls", "sep"):  # the older form of BERT's
        if side in after:
            after[side][1] = new[after[side][1]]
    if said.get("padding"):
        said["padding"]["pad_id"] = new[said["padding"]["pad_id"]]
    small = copy.deepcopy(tokenizer)
    small._tokenizer = Tokenizer.from_str(json.dumps(said))
    return small


@torch.no_grad()
def shrunk_net(net: nn.Module, kept: Sequence[int]) -> nn.Module:
    """Return a copy of a network whose word embedding has some of the rows, in the order given.

    Args:
        net: the network, left as it is; its embedding may be factorised.
        kept: token ids, the padding token's among them.

    Raises:
        UsageError: an id is not in the embedding, or an output layer is tied to it.
    """
    small: Any = copy.deepcopy(net)
    words: Any = base_of(small).get_submodule(WORD_EMBEDDINGS)
    table = words.table if isinstance(words, FactorizedEmbedding) else words
    if small.get_output_embeddings() is not None:
        raise UsageError("vocabulary: the network predicts words. Expected one with another head, or none.")
    if max(kept) >= table.num_embeddings:
        raise UsageError(f"vocabulary: token {max(kept)} is not among the {table.num_embeddings} of the embedding.")
    place = {old: number for number, old in enumerate(kept)}
    index = torch.tensor(list(kept), device=table.weight.device)
    table.weight = nn.Parameter(table.weight.index_select(0, index), requires_grad=table.weight.requires_grad)
    words.num_embeddings = table.num_embeddings = len(kept)
    table.padding_idx = None if table.padding_idx is None else place[table.padding_idx]
    for config in {id(one.config): one.config for one in (small, base_of(small))}.values():
        config.vocab_size = len(kept)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if (old := getattr(config, name, None)) is not None:
                setattr(config, name, place.get(old))
    return small


def _said(tokenizer: Any) -> dict[str, Any]:
    """Return what a fast WordPiece tokenizer says of itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "slow"}}
    if said["model"]["type"] != "WordPiece":
        raise UsageError(
            f"vocabulary: a tokenizer of the kind {said['model']['type']}. Expected WordPiece, as BERT, ELECTRA and "
            "DistilBERT have: others split words in ways that hang on all of their tokens."
        )
    return said
