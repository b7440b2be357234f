"""The table of the data fits narrow terminals, whatever the classes are called and however many there are."""

from dataclasses import asdict

import pytest

from nasframe.records import DataSource, DataSummary, SplitSummary
from nasframe.report.data_table import CLASSES, data_lines, data_rows, data_text


def made(classes=3, splits=("dev_mismatched", "dev", "train", "select"), rows=123_456, measured=2000):
    labels = [f"a class of a long name, number {i}" for i in range(classes)]
    counts = [rows - classes + 1, *[1] * (classes - 1)]
    parts = [
        SplitSummary(name, rows, rows - 10, 5, None if name == "train" else 3, 2, 4, counts, 512, 0.0123, measured)
        for name in splits
    ]
    sources = [DataSource("train", "/a/long/way/to/the/file/of/QQP/train.tsv", rows, 15)]
    return asdict(DataSummary(sources, parts, labels, 321, 128))


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("classes", [2, 150])
def test_it_fits(width, classes):
    text = data_text(made(classes), width)
    assert max(map(len, text.splitlines())) <= width
    assert "123,456" in text
    assert len(text.splitlines()) < 40


def test_splits_have_one_order():
    assert data_rows(made())[0] == ["", "train", "select", "dev", "dev mismatched"]


def test_most_frequent_classes_stand_for_many():
    rows = data_rows(made(150), CLASSES)
    named = [row for row in rows if row[0].startswith("class ")]
    (others,) = [row for row in rows if row[0].endswith("other classes")]
    assert len(named) == CLASSES - 1
    assert others[:2] == [f"{150 - len(named)} other classes", str(150 - len(named))]
    assert len([row for row in data_rows(made(150)) if row[0].startswith("class ")]) == 150


def test_estimates_are_marked():
    assert ["cut at 128 tokens", *["≈ 1.2 %"] * 4] in data_rows(made())
    exact = made(rows=1500, measured=1500)
    assert ["cut at 128 tokens", *["1.2 %"] * 4] in data_rows(exact)
    assert any("≈" in line for line in data_lines(made()))
    assert not any("≈" in line for line in data_lines(exact))


def test_what_is_left_out_is_said():
    text = " ".join(data_lines(made()))
    assert "QQP/train.tsv (123,456 rows, 15 broken ones left out)" in text
    assert "321 rows" in text
