"""Splits are of the asked size, stratified, fixed by the seed, and no text is on two sides; nothing is dropped."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe_basics import splits

SELECT = st.sampled_from(["10%", 0.25, 7])
SEEDS = st.integers(0, 3)
CHOSEN = ["7", "8", "15", "17", "19", "27"]
TRAIN = ["0", "4", "5", "10", "18", "20", "21", "22", "23", "24", "25", "26"]


@st.composite
def repeated(draw, classes=(0, 1, 2)):
    """Training data in which each text has one label and one to five rows, in any order."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=20, max_size=120))
    labels = draw(st.lists(st.sampled_from(classes), min_size=len(sizes), max_size=len(sizes)))
    order = np.random.default_rng(draw(SEEDS)).permutation(sum(sizes))
    texts = [(f"text {i}",) for i, size in enumerate(sizes) for _ in range(size)]
    return splits.Split(texts, np.repeat(labels, sizes)).take(order)


def pairs(*parts):
    return Counter((texts, label) for part in parts for texts, label in zip(part.texts, part.labels, strict=True))


@settings(deadline=None, max_examples=60)
@given(repeated(), SELECT, SEEDS)
def test_no_row_is_dropped_and_no_text_is_on_both_sides(data, select, seed):
    train, chosen = splits.carve(data, select, None, seed)
    assert pairs(train, chosen) == pairs(data)
    assert not set(train.texts) & set(chosen.texts)


@settings(deadline=None, max_examples=60)
@given(repeated(), SELECT, SEEDS)
def test_the_asked_size_is_met_as_nearly_as_repeats_allow(data, select, seed):
    _, chosen = splits.carve(data, select, None, seed)
    largest = max(Counter(data.texts).values())
    assert abs(len(chosen) - splits.portion(select, len(data), "select")) <= largest / 2


@settings(deadline=None, max_examples=60)
@given(repeated(), SELECT, SEEDS)
def test_classes_keep_their_shares_of_the_rows(data, select, seed):
    train, chosen = splits.carve(data, select, None, seed)
    largest = max(Counter(data.texts).values())
    for label in set(data.labels.tolist()):
        expected = np.mean(data.labels == label) * len(chosen)
        assert abs(np.sum(chosen.labels == label) - expected) <= largest + 2
        if len({text for text, own in zip(data.texts, data.labels, strict=True) if own == label}) > 1:
            assert label in train.labels


@settings(deadline=None, max_examples=40)
@given(repeated(), SELECT, st.sampled_from([None, 40, 1000]), SEEDS)
def test_the_seed_alone_draws_the_splits(data, select, limit, seed):
    first, again = (splits.carve(data, select, limit, seed) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.texts == other.texts
        assert one.labels.tolist() == other.labels.tolist()
    other_seed = splits.carve(data, 0.5, None, seed + 1)
    assert other_seed[1].texts != splits.carve(data, 0.5, None, seed)[1].texts


def test_a_thousand_rows_of_three_hundred_texts_are_all_used():
    draw = np.random.default_rng(0)
    data = splits.Split([(f"text {i}",) for i in draw.integers(0, 300, 1000)], draw.integers(0, 2, 1000))
    rest, dev = splits.carve(data, "20%", None, 0, "dev")
    train, select = splits.carve(rest, "10%", None, 0)
    assert (len(train), len(select), len(dev)) == (720, 80, 200)
    assert pairs(train, select, dev) == pairs(data)


def test_a_pair_is_a_repeat_where_both_texts_are():
    texts = [("a", str(i)) for i in range(20)]
    train, chosen = splits.carve(splits.Split(texts, np.arange(20) % 2), 5, None, 0)
    assert (len(train), len(chosen)) == (15, 5)
    both = splits.Split([("a", "b")] * 20, np.arange(20) % 2)
    with pytest.raises(UsageError, match="only 1 distinct text"):
        splits.carve(both, 5, None, 0)


def test_a_class_of_few_texts_in_many_rows_is_on_both_sides():
    texts = [(word,) for word in ("bad", "dull", "poor")] * 5 + [(f"good {i}",) for i in range(25)]
    train, chosen = splits.carve(splits.Split(texts, np.array([0] * 15 + [1] * 25)), 8, None, 0)
    assert np.bincount(chosen.labels).tolist() == [5, 3]
    assert np.bincount(train.labels).tolist() == [10, 22]


def test_a_text_of_several_labels_stays_together():
    texts = [("twice",), ("twice",)] + [(f"text {i}",) for i in range(18)]
    for seed in range(10):
        train, chosen = splits.carve(splits.Split(texts, np.arange(20) % 2), 8, None, seed)
        assert (("twice",) in train.texts) != (("twice",) in chosen.texts)


def test_regression_is_carved_too():
    data = splits.Split([(f"text {i // 2}",) for i in range(100)], np.linspace(0, 1, 100))
    train, chosen = splits.carve(data, "10%", None, 0)
    assert (len(train), len(chosen)) == (90, 10)
    assert not set(train.texts) & set(chosen.texts)


def test_data_without_repeats_are_split_as_ever():
    """Digits of a seed that results rest on: a change here changes everybody's splits."""
    data = splits.Split([(f"text {i}",) for i in range(30)], np.arange(30) % 3)
    train, chosen = splits.carve(data, 6, 12, 5)
    assert [text.removeprefix("text ") for (text,) in chosen.texts] == CHOSEN
    assert [text.removeprefix("text ") for (text,) in train.texts] == TRAIN


def test_carving_keeps_the_shares_of_the_classes():
    labels = np.array([0] * 900 + [1] * 100)
    data = splits.Split([(f"text {i}",) for i in range(1000)], labels)
    train, chosen = splits.carve(data, "10%", 200, 0)
    assert chosen.labels.mean() == pytest.approx(0.1)
    assert (len(chosen), len(train)) == (20, 200)
    assert train.labels.mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("texts", "count"), [(["same"] * 40, "1 distinct text"), (["one", "two"] * 20, "2 distinct")])
def test_texts_that_cannot_be_set_apart_are_counted(texts, count):
    data = splits.Split([(text,) for text in texts], np.arange(40) % 2)
    with pytest.raises(UsageError, match=rf"^dev: '20%' of 40 .* only {count}"):
        splits.carve(data, "20%", None, 0, "dev")


@pytest.mark.parametrize("value", ["abc", "0%", "100%", 0, -3, 50, "x%"])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(UsageError, match=r"select: .* Expected a share"):
        splits.portion(value, 50, "select")
