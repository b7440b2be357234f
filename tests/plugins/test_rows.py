"""What a table of texts may hold, and what is refused, with file and row."""

import csv
import json
import sys
import types

import pandas as pd
import pytest

from nasframe.errors import UsageError
from nasframe.notices import Notices
from nasframe_basics import rows
from nasframe_basics.text_classification import text_classification

LINES = "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(40))
CSV = f"text,label\n{LINES}"
JSONL = "".join(json.dumps({"text": f"text {i}", "label": i % 2}) + "\n" for i in range(40))


def load(folder, name, content, **options):
    """Make the task from one file; return it with its notices."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    notices = Notices()
    task = text_classification(name, base=folder, notify=notices, **options)
    return task, [notice for notice in notices if notice.place != "task.positive"]  # it concerns no file


def refusal(folder, name, content, **options):
    """Return the place that a refusal names, and its text."""
    with pytest.raises(UsageError) as caught:
        load(folder, name, content, **options)
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", CSV + "one more,\n", "a.csv:42: "),
        ("a.csv", CSV + "one more,  \n", "a.csv:42: "),
        ("a.csv", CSV + "one more,nan\n", "a.csv:42: "),
        ("a.csv", CSV + "one more,<NA>\n", "a.csv:42: "),
        ("a.tsv", CSV.replace(",", "\t") + "one more\t\n", "a.tsv:42: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": NaN}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": Infinity}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": ""}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": null}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more"}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": ["x"]}\n', "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "one more", "label": {"x": 1}}\n', "a.jsonl:41: "),
    ],
)
def test_a_label_that_is_none_is_refused_with_its_row(name, content, place, tmp_path):
    assert refusal(tmp_path, name, content).startswith(place)


@pytest.mark.parametrize("label", ["", "nan", "true", "1_000", "1e999", "high"])
def test_a_score_that_is_none_is_refused_with_its_row(label, tmp_path):
    table = "text,label\n" + "".join(f"text {i},{i / 7}\n" for i in range(40)) + f"one more,{label}\n"
    assert refusal(tmp_path, "a.csv", table, regression=True).startswith("a.csv:42: ")


@pytest.mark.parametrize("value", ["true", "1" * 400, '"1' + "1" * 400 + '"', "NaN"])
def test_a_json_score_that_is_none_is_refused_with_its_row(value, tmp_path):
    table = JSONL + f'{{"text": "one more", "label": {value}}}\n'
    assert refusal(tmp_path, "a.jsonl", table, regression=True).startswith("a.jsonl:41: ")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_integer_of_400_digits_is_no_class(name, tmp_path):
    digits = "7" * 400
    table = CSV + f"one more,{digits}\n" if name == "a.csv" else JSONL + f'{{"text": "a", "label": {digits}}}\n'
    place = "a.csv:42: " if name == "a.csv" else "a.jsonl:41: "
    assert refusal(tmp_path, name, table).startswith(place)


def test_whole_numbers_are_one_class_however_json_writes_them(tmp_path):
    made, _ = load(tmp_path, "a.jsonl", JSONL + '{"text": "one more", "label": 1.0}\n{"text": "two", "label": "0"}\n')
    assert list(made.labels) == ["0", "1"]


def test_spaces_around_labels_are_dropped_and_told(tmp_path):
    made, notices = load(tmp_path, "a.csv", CSV + "one more, x\ntwo more,y \n")
    assert list(made.labels) == ["x", "y"]
    (notice,) = notices
    assert notice.place == f"{tmp_path}/a.csv:42"
    assert "' x' and 1 more" in notice.text


def test_spaces_around_a_columns_name_are_dropped_and_told(tmp_path):
    made, notices = load(tmp_path, "a.csv", CSV.replace("text,label", "text , label"))
    assert made.sizes == load(tmp_path, "b.csv", CSV)[0].sizes
    assert [notice.place for notice in notices] == [f"{tmp_path}/a.csv"] * 2
    assert {repr(name) in notices[i].text for i, name in enumerate(["text ", " label"])} == {True}


def test_a_name_that_may_mean_missing_is_told(tmp_path):
    made, notices = load(tmp_path, "a.csv", CSV + "one more,None\ntwo more,None\n")
    assert list(made.labels) == ["None", "x", "y"]
    assert [(notice.place, "(2 rows)" in notice.text) for notice in notices] == [(f"{tmp_path}/a.csv:42", True)]


def test_a_missing_column_is_named_with_what_was_meant(tmp_path):
    assert "Did you mean 'label'?" in refusal(tmp_path, "a.csv", CSV, label="labels")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "text,text,label\n" + "".join(f"a {i},b {i},x\n" for i in range(9)), "a.csv:1: "),
        ("a.csv", "text,label, label\nfine,a,b\n", "a.csv:1: "),
        ("a.tsv", "text\ttext\tlabel\na\tb\tx\n", "a.tsv:1: "),
        ("a.jsonl", JSONL + '{"text": "one", "text": "two", "label": 1}\n', "a.jsonl:41: "),
    ],
)
def test_a_column_named_twice_is_refused(name, content, place, tmp_path):
    text = refusal(tmp_path, name, content)
    assert text.startswith(place)
    assert "'text'" in text or "'label'" in text


def test_columns_without_a_name_may_be_many(tmp_path):
    table = "text,label,,\n" + "".join(f"text {i},{'xy'[i % 2]},,\n" for i in range(40))
    assert load(tmp_path, "a.csv", table)[0].sizes["train"] == 29


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", JSONL + '{"text": "half \\ud83d a pair", "label": 1}\n', "a.jsonl:41: 'text'"),
        ("a.jsonl", JSONL + '{"text": "fine", "label": "\\udc00"}\n', "a.jsonl:41: 'label'"),
        ("a.jsonl", JSONL + '{"text": "a \\u0000 b", "label": 1}\n', "a.jsonl:41: 'text'"),
        ("a.jsonl", JSONL + '{"text": "fine", "label": ' + "[" * 100_000 + "\n", "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "fine", "label": 1, "id": ' + "7" * 400 + "}\n", "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "fine", "label": 1, "id": ' + "7" * 5000 + "}\n", "a.jsonl:41: "),
        ("a.jsonl", JSONL + '{"text": "cut', "a.jsonl:41: "),
        ("a.csv", CSV + "a NUL \0 here,x\n", "a.csv:42: "),
        ("a.csv", CSV.encode() + b"caf\xe9,x\n", "a.csv:42: "),
        ("a.csv", CSV.encode("utf-16"), "a.csv:1: "),
        ("a.csv", CSV.encode("utf-16-le"), "a.csv:1: "),
        ("a.csv", CSV + "the last row is cu", "a.csv:42: "),
        ("a.csv", CSV + '"the last row is cu', "a.csv:42: "),
        ("a.tsv", CSV.replace(",", "\t") + "the last row is cu", "a.tsv:42: "),
        ("a.csv", "", "a.csv: "),
        ("a.csv", "\n\n", "a.csv: "),
        ("a.csv", "text,label\n", "a.csv: "),
        ("a.tsv", "", "a.tsv: "),
        ("a.jsonl", "\n", "a.jsonl: "),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row(name, content, place, tmp_path):
    assert refusal(tmp_path, name, content).startswith(place)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("change", ["mark", "crlf", "no end"])
def test_byte_order_marks_and_line_ends_do_not_count(name, change, tmp_path):
    table = {"a.csv": CSV, "a.tsv": CSV.replace(",", "\t"), "a.jsonl": JSONL}[name]
    changed = {"mark": "\ufeff" + table, "crlf": table.replace("\n", "\r\n"), "no end": table.rstrip("\n")}[change]
    same = load(tmp_path, name, table)[0]
    assert load(tmp_path, name, changed)[0].fingerprint == same.fingerprint


def test_a_field_beyond_pythons_limit_is_read_and_the_limit_stays(tmp_path):
    before = csv.field_size_limit()
    made, _ = load(tmp_path, "a.csv", CSV + "word " * 100_000 + ",x\n")
    assert max(len(text) for split in made._splits.values() for (text,) in split.texts) == 500_000
    assert csv.field_size_limit() == before


def test_one_column_cannot_be_text_and_label(tmp_path):
    refusal(tmp_path, "a.csv", CSV, text="label")
    refusal(tmp_path, "a.csv", CSV, text=["text", "text"])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("text", [1, 2]),
        ("text", [b"bytes", b"more"]),
        ("text", [["a"], ["b"]]),
        ("text", ["fine", None]),
        ("label", [["a"], ["b"]]),
        ("label", [1.0, float("nan")]),
        ("label", [b"a", b"b"]),
    ],
)
def test_parquet_columns_of_wrong_types_are_refused(column, values, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra hub")
    frame = pd.DataFrame({"text": ["one", "two"], "label": ["a", "b"], column: values})
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=rf"^{tmp_path}/a.parquet:[12]: "):
        text_classification("a.parquet", base=tmp_path)


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs the extra hub")
    from pyarrow import parquet

    columns = [arrow.array(["one"]), arrow.array(["two"]), arrow.array(["a"])]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["text", "text", "label"]), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: .*text"):
        text_classification("a.parquet", base=tmp_path)


class ClassLabel:
    names = ("neg", "pos")


@pytest.mark.parametrize("index", [-1, None])
def test_a_hub_row_without_a_label_is_refused(index, monkeypatch):
    """The hub writes -1 where there is none, which is no index."""
    table = type("Table", (list,), {"features": {"text": None, "label": ClassLabel()}})
    read = lambda *a, **k: table([{"text": "fine", "label": 1}, {"text": "bad", "label": index}])  # noqa: E731
    module = types.SimpleNamespace(load_dataset=read, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert rows.read_hub("reviews", None, "train")[0].values["label"] == "pos"
    with pytest.raises(UsageError, match=r"^reviews/train:2: "):
        text_classification(hub="reviews")


def hub_of(labels, monkeypatch):
    """Let ``datasets`` read rows whose labels are lists of class indices."""
    kind = types.SimpleNamespace(feature=ClassLabel())
    table = type("Table", (list,), {"features": {"text": None, "labels": kind}})
    content = [{"text": f"text {number}", "labels": indices} for number, indices in enumerate(labels)]
    module = types.SimpleNamespace(load_dataset=lambda *a, **k: table(content), ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_class_indices_in_lists_become_names_and_minus_one_none_of_them(monkeypatch):
    hub_of([[0, 1], [], None, [1, -1]], monkeypatch)
    values = [row.values["labels"] for row in rows.read_hub("reviews", None, "train")]
    assert values == [["neg", "pos"], [], None, ["pos", None]]
    hub_of([[0, 1], [0], [1, -1]], monkeypatch)
    with pytest.raises(UsageError, match=r"^reviews/train:3: a label in the list in 'labels' is missing"):
        text_classification(hub="reviews", label="labels", multi_label=True)
    hub_of([[0, 1], [2]], monkeypatch)
    with pytest.raises(UsageError, match=r"^reviews/train:2: class index 2 in 'labels'. Expected 0 to 1"):
        text_classification(hub="reviews", label="labels", multi_label=True)


@pytest.mark.parametrize(("labels", "most"), [([0, 1, -1, 2], 2), ([[0], [1, 0], [0, -1]], 1)])
def test_minus_one_beside_class_indices_is_no_class(tmp_path, labels, most):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"text {number}", "label": label}) for number, label in enumerate(labels * 5)]
    path.write_text("\n".join(lines))
    multi_label = isinstance(labels[0], list)
    expected = rf"a\.jsonl:3: label -1 in 'label', beside the class indices 0 to {most}, means"
    with pytest.raises(UsageError, match=expected):
        text_classification(path, multi_label=multi_label)


@pytest.mark.parametrize("labels", [[-1, 1], [-1, 0], ["-1", "a", "b"], [-1, 1, 3]])
def test_minus_one_may_be_a_class_where_there_are_no_indices(tmp_path, labels):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"text {number}", "label": label}) for number, label in enumerate(labels * 20)]
    path.write_text("\n".join(lines))
    assert "-1" in text_classification(path).labels


def test_minus_one_zero_and_one_are_three_classes_and_that_is_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {n},{n % 3 - 1}\n" for n in range(60)))
    said = []
    task = text_classification(path, notify=lambda place, text: said.append(text))
    assert list(task.labels) == ["-1", "0", "1"]
    assert any("If -1 means that a row has no label, leave such rows out" in text for text in said)


@pytest.mark.parametrize(("name", "row"), [("a.csv", "text,label"), ("a.tsv", "text\tlabel")])
def test_a_header_after_an_empty_line_is_read(tmp_path, name, row):
    (tmp_path / name).write_text(f"\n{row}\n")
    header = rows.read_header(tmp_path / name)
    assert list(header.values) == ["text", "label"]
    assert header.place.endswith(f"{name}:2")
