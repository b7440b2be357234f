import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from words import Words, seeing

from nasframe.errors import RecipeError, UsageError
from nasframe.notices import Notices
from nasframe_basics import text


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(" ".join("x" * n for n in rng.integers(1, 9, rng.integers(1, 20))),) for _ in range(count)]


def task(count=40, labels=("no", "yes"), metrics=("accuracy",), **options):
    texts = sentences(count)
    values = np.arange(count) % 2 if labels else np.linspace(0, 1, count)
    split = text.Split(texts, values)
    return text.TextTask({"train": split, "dev": split}, labels, metrics, metrics[0], Words(), **options)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 3))
def test_buckets_hold_every_example_once_in_batches_of_the_asked_size(lengths, size, seed):
    batches = text.bucketed(np.array(lengths), size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, batches), reverse=True)[:-1] == [size] * (len(batches) - 1)


def test_buckets_waste_little_and_differ_between_epochs():
    lengths = np.random.default_rng(0).geometric(0.1, 3200) + 2
    first, second = (text.bucketed(lengths, 32, np.random.default_rng(epoch)) for epoch in (0, 1))
    padded = sum(lengths[b].max() * len(b) for b in first)
    assert padded < 1.2 * lengths.sum() < sum(lengths[i : i + 32].max() * 32 for i in range(0, 3200, 32))
    assert {tuple(sorted(b)) for b in first}.isdisjoint(tuple(sorted(b)) for b in second)
    means = np.array([lengths[b].mean() for b in first])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4  # the order of lengths is shuffled


def test_an_epoch_is_a_function_of_seed_and_epoch_alone():
    def ids(*key):
        return [batch.ids.tolist() for batch in task().train_batches(*key, batch_size=8)]

    assert ids(1, 2) == ids(1, 2)
    assert len({str(ids(*key)) for key in [(1, 2), (1, 3), (2, 2)]}) == 3


def test_batches_by_position_are_the_iterated_ones():
    batches = task().train_batches(0, 0, 8)
    assert len(batches) == 5
    for position, batch in enumerate(batches):
        assert batches[position].ids.tolist() == batch.ids.tolist()
        assert torch.equal(batches[position].inputs["input_ids"], batch.inputs["input_ids"])


def test_collate_pads_and_masks_pairs():
    pairs = text.Split([("aa b", "ccc"), ("a", "b")], np.array([0, 1]))
    batch = text.TextTask({"dev": pairs}, ["n", "y"], ["accuracy"], "accuracy", Words()).batch("dev", np.array([1, 0]))
    assert batch.inputs["input_ids"].tolist() == [[1, 11, 2, 11, 2, 7], [1, 12, 11, 2, 13, 2]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert batch.labels.tolist() == [1, 0]
    assert batch.tokens == 12


def test_texts_are_cut_and_tokenised_once():
    calls = []
    tokenizer = Words()
    counting = type("Counting", (Words,), {"__call__": lambda self, *a, **k: calls.append(1) or tokenizer(*a, **k)})
    split = text.Split(sentences(20), np.arange(20) % 2)
    made = text.TextTask({"train": split}, ["n", "y"], ["accuracy"], "accuracy", counting(), max_length=5)
    widths = [b.inputs["input_ids"].shape[1] for epoch in range(3) for b in made.train_batches(0, epoch, 4)]
    assert max(widths) == 5
    assert len(calls) == 1


def test_evaluation_is_in_id_order_and_agrees_with_single_examples():
    made = task(150)
    result = made.evaluate(lambda **inputs: seeing(inputs), "dev")
    assert result.predictions["id"] == list(range(150))
    alone = [int(seeing(made.batch("dev", np.array([i])).inputs).logits.argmax()) for i in range(150)]
    assert result.predictions["prediction"] == alone
    assert result.metrics["accuracy"] == np.mean(np.array(alone) == np.arange(150) % 2)
    assert np.allclose(np.array(result.predictions["p_no"]) + result.predictions["p_yes"], 1, atol=2e-6)
    expected = metrics.log_loss(np.arange(150) % 2, np.array(result.predictions["p_yes"]))
    assert result.metrics["loss"] == pytest.approx(expected, abs=1e-5)
    assert result.examples == 150


def test_a_subset_is_fixed_stratified_and_nested():
    made = task(150)
    small, large = (made.evaluate(lambda **i: seeing(i), "dev", n).predictions for n in (20, 40))
    assert sum(small["label"]) == 10
    assert set(small["id"]) < set(large["id"])
    assert task(150).evaluate(lambda **i: seeing(i), "dev", 20).predictions["id"] == small["id"]
    assert task(150, seed=1).evaluate(lambda **i: seeing(i), "dev", 20).predictions["id"] != small["id"]


def test_evaluation_takes_no_gradient():
    def forward(**inputs):
        assert not torch.is_grad_enabled()
        return seeing(inputs)

    task().evaluate(forward, "dev")


def test_regression_is_measured_and_trained_on_one_output():
    made = task(50, labels=None, metrics=("pearson", "spearman", "negative_rmse"))
    result = made.evaluate(lambda **i: types.SimpleNamespace(logits=seeing(i).logits[:, 1:]), "dev")
    truth, guess = np.array(result.predictions["label"]), np.array(result.predictions["prediction"])
    assert result.metrics["pearson"] == pytest.approx(stats.pearsonr(truth, guess).statistic)
    assert result.metrics["spearman"] == pytest.approx(stats.spearmanr(truth, guess).statistic)
    assert result.metrics["loss"] == pytest.approx(result.metrics["negative_rmse"] ** 2)
    batch = made.batch("dev", np.arange(4))
    outputs = types.SimpleNamespace(logits=torch.ones(4, 1))
    assert made.loss(outputs, batch).item() == pytest.approx(float(((1 - batch.labels) ** 2).mean()))


def test_classes_are_trained_by_cross_entropy():
    batch = task().batch("dev", np.arange(4))
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    expected = -logits.log_softmax(1)[torch.arange(4), batch.labels].mean()
    assert task().loss(types.SimpleNamespace(logits=logits.bfloat16().float()), batch).item() == pytest.approx(
        expected.item(), abs=0.02
    )


def test_the_fingerprint_is_the_datas():
    first, same, other = task(40), task(40, max_length=9), task(41)
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match="'select' is empty"):
        text.TextTask({"select": text.Split([], np.array([]))}, None, ["pearson"], "pearson")
    with pytest.raises(UsageError, match=r"'f2' is not measured.*accuracy"):
        task(metrics=("accuracy",)).__class__({}, None, ["accuracy"], "f2")
    with pytest.raises(UsageError, match=r"no 'test'\. Expected one of train, dev"):
        task().evaluate(lambda **i: seeing(i), "test")
    bare = text.TextTask({"train": text.Split([("a",)], np.array([0]))}, ["n", "y"], ["accuracy"], "accuracy")
    with pytest.raises(UsageError, match="no tokenizer"):
        bare.train_batches(0, 0, 1)


class Reads(Words):
    """A tokenizer whose network reads so many tokens."""

    def __init__(self, longest):
        self.model_max_length = longest


@pytest.mark.parametrize(("longest", "expected"), [(512, 128), (128, 128), (127, 127), (20, 20), (int(1e30), 128)])
def test_by_default_texts_are_cut_at_what_the_network_reads(longest, expected):
    split = text.Split([("word " * 300,), ("word",)], np.array([1, 0]))
    notices = Notices()
    made = text.TextTask({"dev": split}, ["n", "y"], ["accuracy"], "accuracy", Reads(longest), notify=notices)
    assert made.max_length == expected
    assert made.tokens("dev").lengths.max() == expected
    assert [notice.place for notice in notices] == (["task.max_length"] if expected < 128 else [])


@pytest.mark.parametrize(("columns", "least"), [(1, 3), (2, 5)])
def test_a_written_length_is_kept_or_refused(columns, least):
    split = text.Split([("word " * 300,) * columns, ("word",) * columns], np.array([1, 0]))
    notices = Notices()

    def made(length):
        return text.TextTask(
            {"dev": split}, ["n", "y"], ["accuracy"], "accuracy", Reads(200), max_length=length, notify=notices
        )

    for length in (least, 64, 200):
        assert made(length).tokens("dev").lengths.max() == length
    for length in (-1, 0, 1, 2, least - 1, 201):
        with pytest.raises(RecipeError) as error:
            made(length)
        assert [problem.path for problem in error.value.problems] == ["max_length"]
    assert not list(notices)


def test_tokens_are_kept_in_few_bytes_and_batches_are_whole():
    class Tokenizer:
        pad_token_id = 50283

        def __call__(self, texts, **options):
            ids = [[3, 200][: len(text)] for text in texts]
            return {"input_ids": ids, "token_type_ids": [[0] * len(row) for row in ids]}

    tokens = text.tokenise(Tokenizer(), [("a",), ("ab",)], 8)
    assert {name: column.dtype for name, column in tokens.columns.items()} == {
        "input_ids": np.uint8,
        "token_type_ids": np.uint8,
    }
    batch = text.collate(tokens, np.array([0, 1]), np.array([1, 0]))
    assert batch.inputs["input_ids"].tolist() == [[3, 200], [3, 50283]], "the padding does not have to fit"
    assert all(tensor.dtype == torch.int64 for tensor in batch.inputs.values())
