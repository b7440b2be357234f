import json

import pandas as pd
import pytest
from words import Words, seeing

from nasframe.errors import UsageError
from nasframe_basics.text_classification import text_classification

ROWS = [
    {"review": f'say "{i}", twice\nor, more', "topic": f"topic {i}", "mood": ["bad", "good"][i % 2]} for i in range(60)
]


def flat(rows):
    return [{key: str(value).replace("\n", " ").replace('"', "'") for key, value in row.items()} for row in rows]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".tsv":
        names = list(rows[0])
        path.write_text(
            "\n".join(
                "\t".join(str(row[name]) for name in names) for row in [dict(zip(names, names, strict=True)), *rows]
            )
        )
    else:
        pytest.importorskip("pyarrow", reason="needs the extra hub")
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_data(ending, tmp_path):
    columns = {"text": "review", "label": "mood"}
    rows = flat(ROWS) if ending == "tsv" else ROWS
    write(tmp_path / f"train.{ending}", rows[:50])
    write(tmp_path / f"dev.{ending}", rows[50:])
    write(tmp_path / "train.jsonl", rows[:50])
    write(tmp_path / "dev.jsonl", rows[50:])
    made = text_classification(f"train.{ending}", f"dev.{ending}", base=tmp_path, **columns)
    same = text_classification("train.jsonl", "dev.jsonl", base=tmp_path, **columns)
    assert made.fingerprint == same.fingerprint
    assert list(made.labels) == ["bad", "good"]
    assert dict(made.sizes) == {"train": 45, "dev": 10, "select": 5}
    assert made._splits["dev"].texts == [(row["review"],) for row in rows[50:]]


def test_two_texts_and_a_carved_dev(tmp_path):
    write(tmp_path / "all.csv", ROWS)
    made = text_classification(
        "all.csv", text=["review", "topic"], label="mood", base=tmp_path, tokenizer=Words(), dev_share=12, select=8
    )
    assert dict(made.sizes) == {"train": 40, "dev": 12, "select": 8}
    seen = [text for split in made._splits.values() for text in split.texts]
    assert len(set(seen)) == 60
    assert all(len(text) == 2 for text in seen)
    result = made.evaluate(lambda **i: seeing(i), "dev")
    assert {"accuracy", "macro_f1", "f1"} <= set(result.metrics)
    assert sum(result.predictions["label"]) == 6


def test_numbers_are_regressed_or_classes_in_the_order_of_their_values(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 11} for i in range(66)]
    write(tmp_path / "train.csv", rows)
    classes = text_classification("train.csv", base=tmp_path)
    assert list(classes.labels) == [str(i) for i in range(11)]
    line = text_classification("train.csv", base=tmp_path, regression=True, metric="spearman", tokenizer=Words())
    assert line.labels is None
    assert line.primary == "spearman"
    assert line.evaluate(lambda **i: seeing(i, 1), "select").metrics["negative_rmse"] < 0
    assert line.train_batches(0, 0, 4)[0].labels.dtype.is_floating_point


def test_a_hub_data_set_is_read_by_its_splits(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub" / "train.csv", ROWS[:50])
    write(tmp_path / "hub" / "test.csv", ROWS[50:])
    made = text_classification(hub="hub", dev="test", text="review", label="mood", base=tmp_path)
    files = text_classification("hub/train.csv", "hub/test.csv", text="review", label="mood", base=tmp_path)
    assert made.fingerprint == files.fingerprint
    with pytest.raises(UsageError, match="hub data set 'hub', split 'absent'"):
        text_classification(hub="hub", train="absent", base=tmp_path)
    # The same as a directory that save_to_disk wrote, with splits and without.
    splits = datasets.load_dataset(str(tmp_path / "hub"))
    splits.save_to_disk(tmp_path / "disk")
    splits["train"].save_to_disk(tmp_path / "one")
    saved = text_classification(hub="disk", dev="test", text="review", label="mood", base=tmp_path)
    assert saved.fingerprint == files.fingerprint
    one = text_classification(hub="one", text="review", label="mood", base=tmp_path)
    assert sum(one.sizes.values()) == 50
    with pytest.raises(UsageError, match=r"no such split. There are: train, test"):
        text_classification(hub="disk", train="absent", base=tmp_path)
    with pytest.raises(UsageError, match=r"holds one table without splits"):
        text_classification(hub="one", dev="test", text="review", label="mood", base=tmp_path)


GOOD = b"text,label\nfine,a\nbad,b\n"
BAD = [
    (
        "train.csv",
        b"text,mood\nfine,a\n",
        r"train\.csv:2: no 'label'\. Expected a value in each row; the row has 'text', 'mood'",
    ),
    ("train.csv", GOOD + b"cut\n", r"train\.csv:4: unreadable row: 1 fields\. Expected 2\."),
    ("train.csv", GOOD + b'"open,a\n', r"train\.csv:4: unreadable row \("),
    ("train.csv", b'text,label\n"two\nlines",a\n\xe9t\xe9,b\n', r"train\.csv:4: byte 0xe9 is not UTF-8"),
    ("train.csv", b"text,label\n", r"train\.csv: no rows"),
    ("train.csv", b"", r"train\.csv: no rows"),
    ("train.csv", b"text,label\nfine,a\nbad,a\n", r"all labels in 'label' are 'a'\. Expected two classes"),
    ("train.jsonl", b'{"text": "fine", "label": "a"}\n\n{"text": \n', r"train\.jsonl:3: not JSON"),
    ("train.jsonl", b"[1]\n", r"train\.jsonl:1: a JSON list\. Expected one object a line"),
    (
        "train.jsonl",
        b'{"text": 3, "label": "a"}\n{"text": "x", "label": "b"}\n',
        r"train\.jsonl:1: 'text' is 3\. Expected text",
    ),
    ("train.jsonl", b'{"text": "x", "label": null}\n', r"train\.jsonl:1: 'label' is empty \(null\)\. Expected a value"),
    ("train.parquet", b"not parquet at all", r"train\.parquet: (not a Parquet file|reading Parquet needs pyarrow)"),
    ("train.xlsx", b"", r"train\.xlsx: unknown kind of file '\.xlsx'\. Expected \.csv, \.tsv, \.jsonl, \.parquet"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_bad_data_is_named_with_file_and_row(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        text_classification(name, base=tmp_path)


def test_an_unknown_label_in_dev_and_a_bad_number_are_named(tmp_path):
    write(tmp_path / "train.csv", [{"text": f"text {i}", "label": i % 2} for i in range(20)])
    (tmp_path / "dev.csv").write_text("text,label\nfine,1\nnew,7\n")
    with pytest.raises(UsageError, match=r"dev\.csv:3: unknown label '7' in 'label'\. Expected one of 0, 1"):
        text_classification("train.csv", "dev.csv", base=tmp_path)
    (tmp_path / "dev.csv").write_text("text,label\nfine,high\n")
    with pytest.raises(UsageError, match=r"dev\.csv:2: label 'high' in 'label'\. Expected a finite number"):
        text_classification("train.csv", "dev.csv", base=tmp_path, regression=True)


def test_what_is_not_said_is_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"Expected train: FILE, or hub: NAME"):
        text_classification()
    with pytest.raises(UsageError, match=r"absent\.csv: no such file"):
        text_classification("absent.csv", base=tmp_path)
    write(tmp_path / "train.csv", ROWS)
    with pytest.raises(UsageError, match=r"3 columns\. Expected one or two"):
        text_classification("train.csv", text=["review", "topic", "mood"], base=tmp_path)
    with pytest.raises(UsageError, match=r"metric: 'bleu' is not measured here"):
        text_classification("train.csv", text="review", label="mood", metric="bleu", base=tmp_path)
