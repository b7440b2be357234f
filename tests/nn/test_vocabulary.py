"""Vocabulary pruning: the same tokens for the corpus, the same logits, and runs, caches and exports that know of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.export.files import read_net
from nasframe.interfaces import Work
from nasframe.nn import count
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.vocabulary import kept_tokens, shrunk_net, shrunk_tokenizer
from nasframe.testing.toy import ToyTask, tiny_net, tiny_tokenizer
from nasframe_basics.vocabulary import Vocabulary
from stand_in import write_net, write_reviews

SPECIAL = ["[PAD]", "[unused]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "b", "c", "##a", "##b", "##c", "ab", "abc", "##bc", "##ab", "cab", "bad", "d", "##d", "zz"]


def tokenizer() -> Any:
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def ids(words: Any, texts: list[str]) -> list[torch.Tensor]:
    return [torch.tensor(words(text)["input_ids"]) for text in texts]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abcd ", min_size=1, max_size=12), min_size=1, max_size=4), st.booleans())
def test_the_corpus_is_split_as_before(texts: list[str], characters: bool) -> None:
    full = tokenizer()
    kept = kept_tokens(full, ids(full, texts), characters=characters)
    small = shrunk_tokenizer(full, kept)
    assert len(small) == len(kept) <= len(full)
    for text in texts:
        assert [kept[i] for i in small(text)["input_ids"]] == full(text)["input_ids"]
    assert small(texts[0], texts[-1])["token_type_ids"] == full(texts[0], texts[-1])["token_type_ids"]


def test_other_words_fall_into_characters_where_they_are_kept() -> None:
    full = tokenizer()
    corpus = ids(full, ["abc cab"])
    some = shrunk_tokenizer(full, kept_tokens(full, corpus))
    assert some.convert_ids_to_tokens(some("ab")["input_ids"]) == ["[CLS]", "a", "##b", "[SEP]"]
    none = shrunk_tokenizer(full, kept_tokens(full, corpus, characters=False))
    assert none.convert_ids_to_tokens(none("ab")["input_ids"]) == ["[CLS]", "[UNK]", "[SEP]"]
    assert len(none) == 7
    often = kept_tokens(full, ids(full, ["abc", "abc", "cab"]), least=2, characters=False)
    assert full.convert_ids_to_tokens(often) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "abc"]


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert"])
@pytest.mark.parametrize("rank", [None, 12])
def test_the_network_computes_the_same_on_tokens_with_new_numbers(family: str, rank: int | None) -> None:
    full, net = tokenizer(), tiny_net(family, vocab_size=len(WORDS) + 3)
    net = factorize_embedding(net, rank) if rank else net
    kept = kept_tokens(full, ids(full, ["abc cab", "bad"]))
    small, few = shrunk_net(net, kept), shrunk_tokenizer(full, kept)
    assert small.config.vocab_size == len(kept) == small.get_input_embeddings().num_embeddings
    assert (small.config.pad_token_id, few.pad_token_id) == (0, 0)
    with torch.no_grad():
        for text in ("abc cab", "bad abc"):
            before, after = (
                net(input_ids=torch.tensor([words(text)["input_ids"]])).logits
                for net, words in ((net, full), (small, few))
            )
            assert torch.equal(after, before)
    gone = (len(WORDS) + 3 - len(kept)) * (rank or 32)
    assert count.params(net).of() - count.params(small).of() == gone


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UsageError, match=r"special tokens \[3\] would go"):
        shrunk_tokenizer(tokenizer(), [0, 2, 4, 5])
    with pytest.raises(UsageError, match="token 97 is not among the 97"):
        shrunk_net(tiny_net(), [0, 97])
    with pytest.raises(UsageError, match="Expected WordPiece"):
        kept_tokens(None, [])
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    writes = BertForMaskedLM(BertConfig(vocab_size=9, **sizes))
    with pytest.raises(UsageError, match="predicts words"):
        shrunk_net(writes, [0, 1])
    with pytest.raises(UsageError, match="no tokenizer"):
        Vocabulary()(Work(tiny_net(), None, ToyTask()))


def test_a_corpus_may_be_a_file_and_cuts_add_up(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("abc, de\n\nfg\n", encoding="utf-8")
    work = Work(tiny_net(), tiny_tokenizer(), ToyTask(), models={"teacher": (teacher := tiny_net(seed=1))})
    once = Vocabulary(corpus="corpus.txt", base=tmp_path, characters=False)(work)  # type: ignore[arg-type]
    assert once.tokenizer.convert_ids_to_tokens(once.tokenizer("de")["input_ids"]) == ["[CLS]", "d", "##e", "[SEP]"]
    assert teacher.config.vocab_size == 97 > once.models["teacher"].config.vocab_size == len(once.tokenizer) == 13
    (tmp_path / "less.txt").write_text("fg", encoding="utf-8")
    twice = Vocabulary(corpus=tmp_path / "less.txt", characters=False)(once)
    assert twice.vocabulary == [0, 1, 2, 3, 4, *tiny_tokenizer()("fg")["input_ids"][1:-1]]
    (tmp_path / "none.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no text"):
        Vocabulary(corpus=tmp_path / "none.txt")(work)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A small network over words of which the texts use some."""
    home = tmp_path_factory.mktemp("vocabulary")
    words = [*SPECIAL, *(f"word{i}" for i in range(200)), "good", "bad", "g", "##o", "##d"]
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
    write_net(home / "net", words, max_position_embeddings=16, **sizes)
    draw = random.Random(0)
    write_reviews(home, [[*draw.choices(words[6:30], k=4), draw.choice(["good", "bad"])] for _ in range(60)])
    return home


def recipe(folder: Path, steps: int = 1, *more: Any) -> Any:
    train = {"epochs": 1, "batch_size": 32}
    data = {
        "nasframe": 1,
        "model": {"use": "hf", "path": str(folder / "net")},
        "task": {"use": "text_classification", "train": str(folder / "reviews.csv"), "max_length": 12},
        "space": {"use": "width_depth", "heads": [1, 2]},
        "stages": [
            {"train": {"save_as": "teacher", **train}},
            {"transform": {"use": "vocabulary"}},
            {
                "train": {
                    "name": "again",
                    "save_as": "student",
                    "from": "pretrained",
                    "max_steps": steps,
                    "modifiers": ["kd"],
                }
            },
            {"extract": {"archs": {"best": {"heads": 1}}}},
            {"evaluate": {"costs": ["params"]}},
            *more,
        ],
    }
    return nf.load_recipe(data)


@pytest.mark.slow
def test_a_run_goes_on_with_the_smaller_vocabulary_from_a_cache_too(folder: Path) -> None:
    first = nf.run(recipe(folder, 1), out=folder / "first", cache=folder / "cache", report=False)
    second = nf.run(recipe(folder, 2), out=folder / "second", cache=folder / "cache", report=False)
    for run in (first, second):
        rows = {name: read_net(run.directory / path) for name, path in run.models.items()}
        assert {net.config.vocab_size for net in rows.values()} == {
            len(AutoTokenizer.from_pretrained(run.models["student"]))
        }
        assert rows["student"].config.vocab_size < 60
    words = AutoTokenizer.from_pretrained(first.models["teacher"])  # renewed: its rows went too
    full = AutoTokenizer.from_pretrained(folder / "net")
    text = "word3 word7 bad"
    assert words.convert_ids_to_tokens(words(text)["input_ids"]) == full.convert_ids_to_tokens(full(text)["input_ids"])


@pytest.mark.slow
def test_an_export_brings_the_smaller_tokenizer_and_loads_in_a_fresh_process(folder: Path) -> None:
    run = nf.run(recipe(folder, 1, {"export": {"mode": "hetero"}}), out=folder / "third", report=False)
    report = json.loads((run.models["best"] / "export_report.json").read_text("utf-8"))
    assert report["verified"]
    assert report["max_abs_difference"] <= report["tolerance"]
    assert len(AutoTokenizer.from_pretrained(run.models["best"])) == read_net(run.models["best"]).config.vocab_size
