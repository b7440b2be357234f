"""What happened to the data: its numbers, and what is told of it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from words import Words

from nasframe.notices import Notices
from nasframe.report.data_table import data_lines, data_rows
from nasframe_basics import summary
from nasframe_basics.glue import glue
from nasframe_basics.splits import Split
from nasframe_basics.text_classification import text_classification


def write(path, rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def of(task):
    return {split.name: split for split in task.summary.splits}


@pytest.fixture
def repeated(tmp_path):
    """A training file of 120 rows and 40 texts, and a dev file that shares two of them."""
    write(tmp_path / "train.csv", [(f"text {i % 40}", "no" if i % 2 else "yes") for i in range(120)])
    write(tmp_path / "dev.csv", [("text 1", "no"), ("text 2", "yes"), ("TEXT 3!", "no"), ("new", "yes"), ("new", "no")])
    return tmp_path


def test_every_number_is_counted(repeated):
    task = text_classification("train.csv", "dev.csv", base=repeated, tokenizer=Words(), max_length=3, notify=Notices())
    made, splits = task.summary, of(task)
    assert [(source.split, source.name, source.rows) for source in made.sources] == [
        ("train", f"{repeated}/train.csv", 120),
        ("dev", f"{repeated}/dev.csv", 5),
    ]
    assert (splits["train"].rows, splits["train"].texts) == (108, 36)
    assert (splits["select"].rows, splits["select"].texts, splits["select"].in_train) == (12, 4, 0)
    dev = splits["dev"]
    shared = sum(text in set(task._splits["train"].texts) for text in task._splits["dev"].texts)
    assert (dev.rows, dev.texts, dev.in_train, dev.conflicting) == (5, 4, shared, 2)
    assert dev.near_train == (("text 3",) in task._splits["train"].texts)
    assert list(dev.classes) == [3, 2]
    assert (dev.longest, dev.cut) == (4, 0.6)
    assert made.unused == 0
    assert json.loads(json.dumps(asdict(made)))["labels"] == ["no", "yes"]


def test_a_train_limit_leaves_rows_unused(repeated):
    task = text_classification("train.csv", base=repeated, train_limit=20, notify=Notices())
    assert task.summary.unused == 120 - sum(task.sizes.values()) > 0
    assert of(task)["train"].longest is None


def test_regression_has_no_classes(tmp_path):
    write(tmp_path / "a.csv", [(f"text {i}", i / 7) for i in range(40)])
    task = text_classification("a.csv", base=tmp_path, regression=True)
    assert task.summary.labels is None
    assert all(split.classes is None for split in task.summary.splits)


SAME = {"It's  good.", "its GOOD", "ＩＴＳ ｇｏｏｄ"}
NEAR = st.sampled_from([*sorted(SAME), "It is good", "", "?!", "…", "कि", "का", "naïve", "naive"])


@settings(deadline=None)
@given(NEAR, NEAR)
def test_near_copies_differ_in_form_alone(one, other):
    alike = one == other or {one, other} <= SAME
    assert (summary.near_key(one) == summary.near_key(other)) == alike


def test_texts_beyond_the_sample_are_estimated_from_it():
    """The longest are always looked at, so that their length is exact."""
    texts = [("a " * (3 + i % 10),) for i in range(6000)] + [("a " * 99,)]
    longest, cut, measured = summary.token_lengths(Words(), texts, 9)
    exact = np.mean([len(text.split()) + 2 > 9 for (text,) in texts])
    assert (longest, measured) == (101, summary.MEASURED)
    assert cut == pytest.approx(exact, abs=0.02)


def test_the_tokenizers_own_limit_cuts_too():
    tokenizer = type("Short", (Words,), {"model_max_length": 4})()
    data = {"train": Split([("a b",), ("a b c",)], np.array([0, 1]))}
    made = summary.summarise(data, ["n", "y"], (), tokenizer, 128)
    assert (made.max_length, made.splits[0].cut) == (4, 0.5)


def notices_of(folder, *files, **options):
    notices = Notices()
    text_classification(*files, base=folder, notify=notices, **options)
    of_data = [notice for notice in notices if notice.place != "task.positive"]
    return [(notice.place.removeprefix(f"{folder}/"), notice.text) for notice in of_data]


def test_plain_data_need_no_notice(tmp_path):
    write(tmp_path / "a.csv", [(f"text {i}", "xy"[i % 2]) for i in range(40)])
    assert notices_of(tmp_path, "a.csv") == []


def test_texts_of_dev_in_train_are_told_once_and_kept(repeated):
    places = [place for place, text in notices_of(repeated, "train.csv", "dev.csv") if "2 of 5 rows" in text]
    assert places == ["dev.csv"]


def test_a_text_of_several_labels_is_told_with_both_rows(tmp_path):
    write(tmp_path / "a.csv", [(f"text {i}", "xy"[i % 2]) for i in range(40)] + [("text 4", "y")])
    ((place, text),) = notices_of(tmp_path, "a.csv")
    assert place == "a.csv:6"
    assert "a.csv:42" in text
    write(tmp_path / "b.csv", [(f"text {i}", i / 7) for i in range(40)] + [("text 4", 3)])
    assert [place for place, _ in notices_of(tmp_path, "b.csv", regression=True)] == ["b.csv:6"]


def test_classes_of_one_example_and_classes_not_trained_on_are_told(tmp_path):
    write(tmp_path / "a.csv", [(f"text {i}", "xy"[i % 2]) for i in range(40)] + [("one", "z"), ("two", "w")])
    places = [place for place, _ in notices_of(tmp_path, "a.csv", dev_share="60%", select="60%")]
    assert places[0] == "a.csv:43"
    assert places[1:] == ["task"]


def test_empty_texts_are_told(tmp_path):
    write(tmp_path / "a.csv", [(f"text {i}", "xy"[i % 2]) for i in range(40)] + [("", "x"), ("  ", "y")])
    assert [place for place, _ in notices_of(tmp_path, "a.csv")] == ["a.csv:42"]


def test_broken_rows_of_qqp_are_told(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    for name in ("train", "dev"):
        lines = [f"0\t1\t2\tfirst {name} {i}\tsecond {i}\t{i % 2}\n" for i in range(40)]
        (tmp_path / f"{name}.tsv").write_text(header + "".join(lines) + "7\tcut\n")
    notices = Notices()
    task = glue("qqp", path=str(tmp_path), notify=notices)
    assert [source.left_out for source in task.summary.sources] == [1, 1]
    assert [notice.place for notice in notices] == [f"{tmp_path}/{name}.tsv:42" for name in ("train", "dev")]


def test_near_copies_are_not_counted_in_many_rows_and_that_is_said(monkeypatch):
    texts = [("Good!",), ("good",), ("bad",), ("bad",)]
    splits = {"train": Split(texts, np.array([1, 1, 0, 0])), "dev": Split([("GOOD",), ("bad",)], np.array([1, 0]))}
    few = summary.summarise(splits, ["bad", "good"])
    monkeypatch.setattr(summary, "NEAR_ROWS", 5)
    monkeypatch.setattr(summary, "near_key", None)  # no key is computed
    many = summary.summarise(splits, ["bad", "good"])
    assert [(split.near, split.near_train) for split in few.splits] == [(1, None), (0, 1)]
    assert [(split.near, split.near_train) for split in many.splits] == [(None, None), (None, None)]
    assert [split.in_train for split in many.splits] == [split.in_train for split in few.splits] == [None, 1]
    said = "Near copies, which differ in case, spaces or punctuation only, are not counted in so many rows."
    assert said in data_lines(json.loads(json.dumps(asdict(many))))
    assert said not in data_lines(asdict(few))
    assert not any(row[0].startswith("near") for row in data_rows(asdict(many)))


def test_a_pair_is_a_copy_where_both_texts_are():
    splits = {"train": Split([("a", "b"), ("A", "c")], np.array([0, 1])), "dev": Split([("a", "c")], np.array([1]))}
    train, dev = summary.summarise(splits, ["n", "y"]).splits
    assert (train.near, dev.in_train, dev.near_train) == (0, 0, 1)
