"""Next-token prediction: documents, blocks, perplexity, and the tokenizer that is made from the training texts."""

import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.interfaces import is_categorical
from nasframe.measures import objective_of, score_of
from nasframe.nn.losses import distillation
from nasframe.notices import Notices
from nasframe.report.data_table import data_text
from nasframe.testing import TaskContract
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics import bpe
from nasframe_basics.causal_lm import causal_lm, pack
from nasframe_basics.documents import perplexity, read_documents
from nasframe_basics.kept_docstrings import docstrings
from nasframe_basics.kept_tokens import tokenised

TEXT = "one fish two fish\nred fish blue fish\n\nblack fish\n \nold fish new fish\n"


class TestTextFile(TaskContract):
    def options(self, folder):
        file = folder / "a.txt"
        file.write_text("\n".join(f"line {i} has the number {i * i}" for i in range(200)), encoding="utf-8")
        return {"train": [str(file)], "documents": "line", "length": 32, "select": "20%", "dev_share": "20%"}

    use: Any = "causal_lm"


def tokenizer(words=300, longest=1000, texts=(TEXT,)):
    return bpe.made(texts, words, longest, encoder=False)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "a.txt", "\n\n".join(f"text {i}: {'fish ' * (i % 7)}end" for i in range(120)))


def made(*args, **options):
    notices = Notices()
    task = causal_lm(*args, notify=notices, **options)
    return task, notices


# ---- documents and blocks


@pytest.mark.parametrize(("unit", "count"), [("paragraph", 3), ("line", 4), ("file", 1)])
def test_documents(tmp_path, unit, count):
    documents = read_documents(write(tmp_path / "a.txt", TEXT), unit)
    assert len(documents) == count
    joined = "".join("".join(documents).split())
    assert joined == "".join(TEXT.split()), "no text is lost"


def test_line_ends_do_not_matter(tmp_path):
    (tmp_path / "b.txt").write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_documents(tmp_path / "b.txt", "paragraph") == read_documents(
        write(tmp_path / "a.txt", TEXT), "paragraph"
    )


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.integers(1, 20), st.none() | st.integers(1, 5))
def test_every_label_is_the_next_token(tokens, length, limit):
    line = np.array(tokens, dtype=np.int32)
    packed = pack(line, length, limit)
    flat = packed.inputs.flatten()
    assert np.array_equal(flat, line[: len(flat)])
    assert np.array_equal(packed.labels.flatten(), line[1 : len(flat) + 1])
    if limit is None:
        used = len(flat) + 1 if len(flat) else 0
        assert used + packed.left_out == len(tokens)
        assert packed.left_out < length or not len(flat)
    else:
        assert len(packed.inputs) <= limit


def test_a_text_ends_with_the_end_token():
    made_tokenizer = tokenizer()
    line = tokenised(made_tokenizer, ["one", "two"])
    assert made_tokenizer.decode(line) == "one</s>two</s>"


def test_splits_share_no_document(corpus):
    task, notices = made(corpus, tokenizer=tokenizer(), length=16, select=20, dev_share=20)
    documents = {name: set(split.texts) for name, split in task._blocks.splits.items()}
    assert not documents["train"] & documents["dev"]
    assert not documents["train"] & documents["select"]
    assert [len(documents[name]) for name in ("train", "select", "dev")] == [80, 20, 20]
    tokens = sum(split.tokens for split in task.summary.splits)
    blocks = sum(task.sizes.values())
    left_out = sum(task.blocks(name).left_out for name in documents)
    assert blocks * 16 + 3 + left_out == tokens, "one more label than inputs in each split"
    (notice,) = notices
    assert notice.place == "task.length"
    assert "fill none" in notice.text
    text = data_text(vars(task.summary) | {"splits": [vars(split) for split in task.summary.splits], "sources": []}, 80)
    assert "blocks of 16 tokens" in text
    assert "documents" in text


def test_a_limit_keeps_blocks(corpus):
    task, _ = made(corpus, tokenizer=tokenizer(), length=16, select=20, dev_share=20, train_limit=3)
    whole, _ = made(corpus, tokenizer=tokenizer(), length=16, select=20, dev_share=20)
    assert task.sizes["train"] == 3
    assert task.sizes["dev"] == whole.sizes["dev"]
    assert torch.equal(
        task.batch("train", np.arange(3)).inputs["input_ids"], whole.batch("train", np.arange(3)).inputs["input_ids"]
    )
    assert task.fingerprint != whole.fingerprint


# ---- what is refused


def test_what_is_wrong_is_refused_with_its_place(tmp_path, corpus):
    empty = write(tmp_path / "empty.txt", "\n \n")
    with pytest.raises(UsageError, match=r"empty\.txt: no text. Expected at least one paragraph"):
        made(empty)
    (tmp_path / "latin.txt").write_bytes("eins\nzwei\nüber".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt:3: byte 0xfc is not UTF-8"):
        made(tmp_path / "latin.txt")
    with pytest.raises(UsageError, match=r"length  2000 is more than the network can read. Expected at most 1000"):
        made(corpus, tokenizer=tokenizer(), length=2000)
    with pytest.raises(
        UsageError, match=r"split 'select': its texts have \d+ tokens, which is less than one block of 900"
    ):
        _ = made(corpus, tokenizer=tokenizer(), length=900)[0].sizes
    problems = dict(causal_lm.on_files({"train": ["a.txt", "b.txt"]}, tmp_path))
    assert "b.txt: no such file" in problems["train"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "train: missing"),
        ({"train": "a.txt", "packages": ["numpy"]}, "packages: the texts are named twice"),
        ({"packages": ["numpy"], "dev": "a.txt"}, "dev: needs train"),
        ({"packages": ["numpy", "numpy"]}, "numpy is named twice"),
        ({"packages": []}, "packages: none named"),
    ],
)
def test_options_that_exclude_each_other(options, text):
    with pytest.raises(UsageError, match=text):
        causal_lm(**options)


def test_documents_of_dev_in_training_are_told(tmp_path, corpus):
    dev = write(tmp_path / "dev.txt", "text 3: fish fish fish end\n\nsomething else")
    _, notices = made(corpus, dev)
    assert any("1 of 2 documents stand in the training files too" in notice.text for notice in notices)


# ---- metrics


def test_perplexity_is_that_of_the_tokens(corpus):
    task, _ = made(corpus, tokenizer=tokenizer(97 + 256), length=16, select=20, dev_share=20)
    net = tiny_net("llama", head="AutoModelForCausalLM", vocab_size=97 + 256)
    result = task.evaluate(net, "dev")
    total = 0.0
    count = 0
    with torch.no_grad():
        for block in range(task.sizes["dev"]):  # one by one, token by token
            batch = task.batch("dev", np.array([block]))
            log_p = net(**batch.inputs).logits[0].double().log_softmax(-1)
            for position, label in enumerate(batch.labels[0].tolist()):
                total -= float(log_p[position, label])
                count += 1
    assert result.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert result.tokens == count
    assert result.examples == task.sizes["dev"]


def test_a_uniform_network_is_as_perplexed_as_its_vocabulary(corpus):
    task, _ = made(corpus, tokenizer=tokenizer(), length=16, select=20, dev_share=20)

    def forward(input_ids):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 300))

    assert task.evaluate(forward, "dev").metrics["perplexity"] == pytest.approx(300, rel=1e-5)
    assert perplexity(1e4) == math.inf


def test_less_perplexity_is_better(corpus):
    task, _ = made(corpus, tokenizer=tokenizer(), length=16)
    assert objective_of(task) == "-perplexity"
    assert score_of(task, {"perplexity": 20.0}) == -20.0
    assert objective_of(ToyTask()) == "accuracy"
    assert is_categorical(task)
    assert task.labels is None


def test_distillation_counts_every_token_alike():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 7, generator=generator) for _ in range(2))
    rows = [distillation(student[i, j][None], teacher[i, j][None], 2.0) for i in range(2) for j in range(5)]
    assert torch.isclose(distillation(student, teacher, 2.0), torch.stack(rows).mean())


# ---- docstrings and tokenizers


def test_docstrings_of_a_package_are_always_the_same():
    first = [text for text, _ in zip(docstrings("numpy"), range(30), strict=False)]
    again = [text for text, _ in zip(docstrings("numpy"), range(30), strict=False)]
    assert first == again
    assert len(set(first)) == 30


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=50, deadline=None)
def test_every_text_comes_back(text):
    made_tokenizer = ROUND_TRIP
    ids = made_tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(token in text for token in bpe.SPECIAL.values()):
        assert made_tokenizer.decode(ids) == text


ROUND_TRIP = tokenizer(400)


def test_special_tokens_have_their_ids():
    made_tokenizer = tokenizer()
    assert made_tokenizer.pad_token_id == 0
    assert {name: getattr(made_tokenizer, name) for name in bpe.special_ids()} == bpe.special_ids()
    encoder = bpe.made([TEXT], 300, 64, encoder=True)
    assert encoder.decode(encoder("a", "b")["input_ids"]) == "<s>a</s></s>b</s>"
    with pytest.raises(UsageError, match=r"vocab_size: 200 is too few for a byte-level tokenizer"):
        bpe.untrained(200, 64, encoder=False)


def test_another_process_makes_the_same_tokenizer(tmp_path):
    code = (
        "from nasframe_basics import bpe\nimport itertools\nfrom nasframe_basics.kept_docstrings import docstrings\n"
        "texts = list(itertools.islice(docstrings('numpy'), 60))\n"
        "print(bpe.made(texts, 500, 64, encoder=False).backend_tokenizer.to_str())"
    )
    outputs = []
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_seed(hash_seed)
        )
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1000


def with_seed(seed):
    import os

    return {**os.environ, "PYTHONHASHSEED": seed}
