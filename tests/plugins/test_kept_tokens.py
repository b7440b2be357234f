"""Tokens of many texts: the same as in memory, whatever the splits, and tokenised once."""

import numpy as np
import pytest
from words import Words

from nasframe.notices import Notices
from nasframe.testing.toy import tiny_tokenizer
from nasframe_basics import kept_tokens, text
from nasframe_basics.splits import Split


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(text, "KEPT_FROM", 10)
    return tmp_path / "cache"


@pytest.fixture
def tokenised(monkeypatch):
    """The numbers of texts that were tokenised."""
    counts = []
    original = kept_tokens.token_chunks

    def counting(tokenizer, texts, max_length):
        counts.append(len(texts))
        yield from original(tokenizer, texts, max_length)

    monkeypatch.setattr(kept_tokens, "token_chunks", counting)
    monkeypatch.setattr(text, "token_chunks", counting)
    return counts


def task(tokenizer, columns=1, seed=0, notify=None, max_length=16):
    order = np.random.default_rng(seed).permutation(60)
    texts = [
        tuple(f"word {number % 50} of {'text ' * (number % 7)}{column}" for column in range(columns))
        for number in order
    ]
    labels = order % 2
    splits = {"train": Split(texts[:40], labels[:40]), "dev": Split(texts[40:], labels[40:])}
    notify = notify or Notices()
    return text.TextTask(splits, ["n", "y"], ["accuracy"], "accuracy", tokenizer, max_length, notify=notify)


@pytest.mark.parametrize("columns", [1, 2])
def test_batches_are_those_of_tokens_in_memory(cache, monkeypatch, columns):
    kept = task(tiny_tokenizer(), columns)
    kept_batches = [*kept.train_batches(0, 0, 8), kept.batch("dev", np.arange(20))]
    assert list(cache.glob("prepared/*/input_ids.bin"))
    monkeypatch.setattr(text, "KEPT_FROM", 10**9)
    plain = task(tiny_tokenizer(), columns)
    plain_batches = [*plain.train_batches(0, 0, 8), plain.batch("dev", np.arange(20))]
    for one, other in zip(kept_batches, plain_batches, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        for name, tensor in one.inputs.items():
            assert tensor.tolist() == other.inputs[name].tolist()


def test_texts_are_tokenised_once_for_all_splits_and_seeds(cache, tokenised):
    for seed in range(3):
        made = task(tiny_tokenizer(), seed=seed)
        made.tokens("train")
        made.tokens("dev")
    distinct = len({text for split in made._splits.values() for text in split.texts})
    assert tokenised == [distinct]


def test_another_length_or_tokenizer_is_tokenised_again(cache, tokenised):
    task(tiny_tokenizer()).tokens("dev")
    task(tiny_tokenizer(), max_length=12).tokens("dev")
    other = tiny_tokenizer()
    other.model_input_names = [name for name in other.model_input_names if name != "token_type_ids"]
    assert set(task(other).tokens("dev").columns) == {"input_ids"}
    assert len(tokenised) == 3
    assert len(list(cache.glob("prepared/*"))) == 3


def test_a_call_does_not_change_what_a_tokenizer_is():
    tokenizer = tiny_tokenizer()
    before = kept_tokens.tokenizer_digest(tokenizer)
    tokenizer("a b c", truncation=True, max_length=3, padding="max_length")
    assert kept_tokens.tokenizer_digest(tokenizer) == before


def test_few_texts_and_other_tokenizers_stay_in_memory(cache, monkeypatch):
    task(Words()).tokens("dev")
    monkeypatch.setattr(text, "KEPT_FROM", 61)
    task(tiny_tokenizer()).tokens("dev")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_said_and_done_without(cache):
    cache.write_text("a file")
    notices = Notices()
    made = task(tiny_tokenizer(), notify=notices)
    assert len(made.tokens("train").lengths) == 40
    assert any("Tokens are kept in memory" in notice.text for notice in notices)
