"""Files of architectures: two kinds, one content; what is wrong is named with its row."""

import json

import pytest

from nasframe.errors import UsageError
from nasframe_bench.table_file import ArchTable, read_table, table_json, write_table

LAYERS = [[0], [0, 1]]
ARCHS = [
    {"layers": [0], "heads.0": 2, "kind": "a"},
    {"layers": [0, 1], "heads.0": 4, "heads.1": 2, "kind": "b"},
    {"layers": [0, 1], "heads.0": 2, "heads.1": 4, "kind": "a"},
]
NUMBERS = [(0.5, 1.25, 10.0), (0.75, 1.0, 30.0), (1.0, 0.1, 1e9)]
ROWS = [
    {"arch": arch, "metrics": {"accuracy": accuracy, "loss": loss}, "costs": {"macs": macs}}
    for arch, (accuracy, loss, macs) in zip(ARCHS, NUMBERS, strict=True)
]
ENDINGS = ["json", "csv"]


def table():
    knobs = {"layers": LAYERS, "heads.0": [2, 4], "heads.1": [2, 4], "kind": ["a", "b"]}
    rows = json.loads(json.dumps(ROWS))
    return ArchTable(
        knobs, {"heads.1": ("layers", [[0, 1]])}, ["accuracy", "loss"], ["loss"], ["macs"], rows, {"seed": 3}
    )  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read(tmp_path, ending):
    path = tmp_path / f"archs.{ending}"
    write_table(table(), path)
    found = read_table(path)
    assert found.rows == ROWS
    assert found.head() == table().head()
    assert found.domain().size == 2 * 2 + 2 * 2 * 2
    assert not list(tmp_path.glob("*.tmp"))


def test_without_its_side_file_the_domain_is_read_off_the_columns(tmp_path):
    path = tmp_path / "archs.csv"
    write_table(table(), path)
    (tmp_path / "archs.csv.json").unlink()
    found = read_table(path)
    assert found.rows == ROWS
    assert found.domain().rules == {"heads.1": ("layers", ([0, 1],))}
    assert dict(found.knobs) == {"layers": LAYERS, "heads.0": [2, 4], "heads.1": [2, 4], "kind": ["a", "b"]}


def test_a_table_made_by_hand(tmp_path):
    (tmp_path / "t.csv").write_text("width,op,metric.acc,cost.params\n8,conv,0.5,10\n16,pool,0.75,20\n")
    found = read_table(tmp_path / "t.csv")
    assert [row["arch"] for row in found.rows] == [{"width": 8, "op": "conv"}, {"width": 16, "op": "pool"}]
    assert (found.metrics, found.costs) == (["acc"], ["params"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["rows"].append(t["rows"][0]), "row 4: the same architecture again"),
        (lambda t: t["rows"][1]["arch"].update({"heads.0": 3}), "row 2: knob 'heads.0' has no value 3"),
        (lambda t: t["rows"][2]["metrics"].pop("loss"), "row 3: 'loss' is None. Expected a finite number"),
        (lambda t: t["rows"][0]["costs"].update(macs=float("nan")), "row 1: 'macs' is nan"),
        (lambda t: t.update(format=9), "format 9"),
        (lambda t: t.pop("rows"), "'domain' or 'rows' is missing"),
    ],
)
def test_a_bad_table_is_named_with_its_row(tmp_path, change, words):
    content = json.loads(table_json(table()))
    change(content)
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        read_table(tmp_path / "t.json")
    assert words in str(caught.value)
    assert "t.json" in str(caught.value)


def test_a_knob_that_nothing_explains_needs_the_side_file(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,metric.x\n1,1,1\n1,,2\n2,1,3\n")
    with pytest.raises(UsageError, match="no knob tells where 'b' is empty"):
        read_table(tmp_path / "t.csv")
