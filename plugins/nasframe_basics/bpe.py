"""A byte-level BPE tokenizer (Radford et al. 2019), made from texts by the library ``tokenizers``.

It is deterministic: the same texts in the same order give the same merges. Every text can be written in its tokens,
because each byte is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nasframe.errors import UsageError
from nasframe.weights import refusal

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
"""The special tokens by their roles in transformers."""
IDS = {role: number for number, role in enumerate(SPECIAL)}
BYTES = 256
FEWEST = BYTES + len(SPECIAL)


def untrained(words: int, longest: int, encoder: bool) -> Any:
    """Return the tokenizer before it has seen a text: its tokens are bytes.

    Args:
        words: tokens that it will have at most.
        longest: its ``model_max_length``.
        encoder: whether texts stand between ``<s>`` and ``</s>``, as encoders read them.

    Raises:
        RecipeError: fewer tokens than bytes and special tokens.

    >>> tokenizer = untrained(300, 64, encoder=True)
    >>> tokenizer.convert_ids_to_tokens(tokenizer("Hi")["input_ids"])
    ['<s>', 'H', 'i', '</s>']
    """
    return made([], words, longest, encoder)


def made(texts: Iterable[str], words: int, longest: int, encoder: bool) -> Any:
    """Return the tokenizer with merges made from texts; see :func:`untrained`.

    >>> tokenizer = made(["the cat, the hat"] * 9, 280, 64, encoder=False)
    >>> tokenizer.tokenize("the bat")
    ['the', 'Ġ', 'b', 'at']
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if words < FEWEST:
        expected = f"Expected at least {FEWEST}: {BYTES} bytes and {len(SPECIAL)} special tokens."
        raise refusal("configuration", [f"vocab_size: {words} is too few for a byte-level tokenizer. {expected}"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sound(texts), trainer)
    names = dict(SPECIAL)
    if encoder:
        begin, end = SPECIAL["bos_token"], SPECIAL["eos_token"]
        pairs = ((end, IDS["eos_token"]), (begin, IDS["bos_token"]))
        tokenizer.post_processor = processors.RobertaProcessing(*pairs, add_prefix_space=False)
        names |= {"cls_token": begin, "sep_token": end}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **names,
    )


def _sound(texts: Iterable[str]) -> Iterable[str]:
    """Pass texts on; the library would end the process's thread at half of a surrogate pair."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"tokenizer: a text holds half of a surrogate pair ({error}). Expected text.") from None
        yield text


def special_ids() -> dict[str, int]:
    """Return the fields of a configuration that name special tokens: field → id.

    >>> special_ids()
    {'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2}
    """
    return {f"{role}_id": IDS[role] for role in ("pad_token", "bos_token", "eos_token")}
