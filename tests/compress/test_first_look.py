"""Which columns of a table hold texts and labels, and what the labels are."""

import json

import pandas as pd
import pytest

from nasframe.errors import UsageError
from nasframe_compress.table import Ambiguous, choose_columns, peek

TEXTS = [f"this is text number {number}" for number in range(40)]
OTHERS = [f"and this is another one {number}" for number in range(40)]
IDS = [str(number) for number in range(40)]


def table(**columns):
    return pd.DataFrame(columns)


def chosen(frame, text=(), label=None, kind="auto"):
    return choose_columns(frame, "t.csv", text, (label,) if label else (), kind)


@pytest.mark.parametrize(
    ("columns", "text", "label", "kind"),
    [
        ({"id": IDS, "review": TEXTS, "stars": ["1", "2"] * 20}, ("review",), "stars", "classification"),
        ({"x": TEXTS, "outcome": ["yes", "no"] * 20}, ("x",), "outcome", "classification"),
        ({"sentence1": TEXTS, "sentence2": OTHERS, "label": ["0", "1"] * 20}, ("sentence1", "sentence2"), "label",
         "classification"),
        ({"text": TEXTS, "score": ["0.5", "1"] * 20}, ("text",), "score", "regression"),
        ({"text": TEXTS, "score": [str(n % 21) for n in range(40)]}, ("text",), "score", "regression"),
        ({"text": TEXTS, "score": [str(n % 20) for n in range(40)]}, ("text",), "score", "classification"),
        ({"id": IDS, "text": TEXTS, "value": [f"{n / 7:.3f}" for n in range(40)]}, ("text",), "value", "regression"),
    ],
)  # fmt: skip
def test_obvious_columns_are_chosen_and_said(columns, text, label, kind):
    columns = chosen(table(**columns))
    assert (columns.text, columns.label, columns.kind) == (text, (label,), kind)
    said = " ".join(columns.said)
    assert all(repr(name) in said for name in (*text, label))


def test_nothing_is_said_of_columns_that_are_given():
    columns = chosen(table(a=TEXTS, b=["x", "y"] * 20), ["a"], "b", "classification")
    assert columns.said == ()


def test_several_texts_are_refused_with_the_flag_to_add():
    frame = table(title=TEXTS, body=OTHERS, label=["a", "b"] * 20)
    with pytest.raises(Ambiguous, match=r"several columns look like texts: 'title', 'body'.*--text title --text body"):
        chosen(frame)


def test_two_possible_labels_are_refused_with_the_flag_to_add():
    frame = table(text=TEXTS, first=["a", "b"] * 20, second=["c", "d"] * 20)
    with pytest.raises(Ambiguous, match=r"several columns may hold the labels: 'first', 'second'. Expected --label"):
        chosen(frame)


def test_a_row_number_is_no_label():
    frame = table(text=TEXTS, number=IDS)
    with pytest.raises(Ambiguous, match="no column looks like labels"):
        chosen(frame)


def test_a_column_that_does_not_exist_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"no column 'reviw'.*Did you mean 'review'"):
        chosen(table(review=TEXTS, stars=["1", "2"] * 20), ["reviw"], "stars")


def test_words_are_no_scores():
    with pytest.raises(UsageError, match=r"label 'good' in 'stars' is no number. Expected numbers"):
        chosen(table(review=TEXTS, stars=["good", "bad"] * 20), kind="regression")


@pytest.mark.parametrize(
    "labels",
    [
        [["a"], ["a", "b"]] * 20,
        ["['a']", "['a', 'b']"] * 20,
        ["fun", "sad", "fun;sad", "odd|fun", "odd", "sad;odd;fun", "", "sad;odd"] * 5,
        ["fun", "sad", "sad, fun", "odd, fun", "odd", "sad, odd, fun", "fun, odd", "odd, sad"] * 5,
    ],
)
def test_several_labels_in_a_row_are_seen_and_said(labels):
    columns = chosen(table(text=TEXTS, tags=labels))
    assert (columns.label, columns.kind) == (("tags",), "multi_label")
    assert any("labels" in sentence and "as in" in sentence for sentence in columns.said)


@pytest.mark.parametrize("labels", [["Home, Garden", "Arts, Crafts"] * 20, ["1,5", "2", "2,5", "1"] * 10])
def test_a_comma_alone_makes_no_several_labels(labels):
    assert chosen(table(text=TEXTS, label=labels)).kind == "classification"


def test_columns_of_answers_are_labels():
    frame = table(text=TEXTS, fun=["0", "1"] * 20, sad=["1", "0"] * 20)
    columns = choose_columns(frame, "t.csv", (), ("fun", "sad"), "auto")
    assert (columns.text, columns.label, columns.kind) == (("text",), ("fun", "sad"), "multi_label")


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_lists_of_labels_are_neither_classes_nor_scores(kind):
    with pytest.raises(UsageError, match=r"'label' has lists of labels, as in \['a'\]. Expected --task multi_label"):
        chosen(table(text=TEXTS, label=[["a"], ["a", "b"]] * 20), kind=kind)


def test_columns_of_answers_are_no_classes():
    frame = table(text=TEXTS, fun=["0", "1"] * 20, sad=["1", "0"] * 20)
    with pytest.raises(UsageError, match=r"2 columns, one for each label. Expected one column for --task regression"):
        choose_columns(frame, "t.csv", (), ("fun", "sad"), "regression")
    with pytest.raises(UsageError, match="--separator: stands between the labels of one column"):
        choose_columns(frame, "t.csv", (), ("fun", "sad"), "auto", ";")


def test_formats_give_the_same_table(tmp_path):
    rows = [{"text": text, "label": str(number % 3)} for number, text in enumerate(TEXTS)]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    frame.to_parquet(tmp_path / "t.parquet")
    tables = [peek(tmp_path / f"t.{suffix}") for suffix in ("csv", "tsv", "jsonl", "parquet")]
    for other in tables:
        assert chosen(other) == chosen(tables[0])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", "", "empty. Expected a header"),
        ("t.csv", "text,label\n", "no rows"),
        ("t.jsonl", "[1", "t.jsonl:1: not JSON"),
        ("t.xlsx", "x", "unknown kind of file '.xlsx'"),
        ("t.parquet", "x", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=problem):
        peek(tmp_path / name)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        peek(tmp_path / "t.csv")
