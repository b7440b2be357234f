"""Docstrings of whole packages: read once, again when a source file changes, and the same as without a cache."""

import pytest

from nasframe.notices import Notices
from nasframe.testing.toy import tiny_tokenizer
from nasframe_basics import kept_docstrings, token_blocks
from nasframe_basics.documents import Sources, read_corpora
from nasframe_basics.kept_docstrings import docstrings
from nasframe_basics.kept_tokens import tokenised
from nasframe_basics.masked_lm import masked_lm


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package, under the name of one that a recipe may name."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(12):
        lines = [f'"""The module of number {number}."""']
        lines += [f'def f{i}():\n    """Return {i} and {number}; naïve — 東京."""' for i in range(number)]
        (folder / f"m{number}.py").write_text("\n".join(lines), encoding="utf-8")
    (folder / "plain.py").write_text("x = 1\n")
    monkeypatch.setattr(kept_docstrings, "source_files", lambda name: sorted(folder.glob("*.py")))
    return folder


@pytest.fixture
def parsed(monkeypatch):
    """The source files that were parsed, as their text."""
    sources = []
    original = kept_docstrings.docstrings_of

    def counting(source):
        sources.append(source)
        return original(source)

    monkeypatch.setattr(kept_docstrings, "docstrings_of", counting)
    return sources


def read(notify=None, limit=None):
    (corpus,) = read_corpora(Sources(packages=["numpy"], limit=limit), notify or Notices())
    return list(corpus.documents)


def test_kept_ones_are_those_that_are_read(cache, package, parsed):
    plain = list(docstrings("numpy"))
    parsed.clear()
    assert read() == read() == plain
    assert len(plain) == 12 + sum(range(12))
    assert len(parsed) == 13  # each file once, for both


def test_a_changed_file_is_read_again(cache, package):
    before = read()
    (package / "plain.py").write_text('"""No longer plain."""\n')
    assert [text for text in read() if text not in before] == ["No longer plain."]


def test_a_limit_reads_no_more_than_it_needs(cache, package, parsed):
    assert len(read(limit=2)) == 2
    assert len(parsed) < 13
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_said_and_done_without(cache, package):
    cache.write_text("a file")
    notices = Notices()
    assert read(notices) == list(docstrings("numpy"))
    assert any("Docstrings are read each time" in notice.text for notice in notices)


def test_the_tokens_of_a_language_model_are_those_in_memory_and_made_once(cache, package, monkeypatch):
    def blocks():
        task = masked_lm(packages=["numpy"], length=16, tokenizer=tiny_tokenizer(), notify=Notices())
        return [task._blocks.of(split).tokens for split in ("train", "select", "dev")], [
            batch.inputs["input_ids"].tolist() for batch in task.train_batches(0, 0, 4)
        ]

    plain = blocks()
    counts = []

    def counting(tokenizer, texts):
        counts.append(len(texts))
        return tokenised(tokenizer, texts)

    monkeypatch.setattr(token_blocks, "KEPT_FROM", 10)
    monkeypatch.setattr("nasframe_basics.kept_tokens.tokenised", counting)
    assert blocks() == blocks() == plain
    assert len(counts) == 3  # once a split
    assert len(list(cache.glob("prepared/*/tokens.bin"))) == 3
