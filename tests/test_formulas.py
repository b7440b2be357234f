"""The table of formulas in a method's README points at lines that exist, once each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| .* \| `([\w/]+\.py)`, `(.+)` \|$", re.MULTILINE)
SECTION = "\n## From the formulas to the lines\n"
HEADER = ("formula | line |", "--- | --- |")
METHODS = sorted(path.parent for path in (ROOT / "plugins").glob("*/README.md") if SECTION in path.read_text("utf-8"))


@pytest.mark.parametrize("folder", METHODS, ids=lambda folder: folder.name)
def test_every_formula_has_its_line(folder: Path) -> None:
    section = (folder / "README.md").read_text("utf-8").split(SECTION)[1].split("\n## ")[0]
    rows = ROW.findall(section)
    written = [line for line in section.splitlines() if line.startswith("| ") and line[2:] not in HEADER]
    assert len(rows) == len(written) >= 6
    for file, line in rows:
        place = next(base / file for base in (folder, ROOT) if (base / file).is_file())
        assert place.read_text("utf-8").count(line.replace(r"\|", "|")) == 1, (file, line)


def test_every_method_has_such_a_table() -> None:
    names = {"dynabert", "frontier", "hspg", "nxmiformer", "rosita", "slimming", "yoco_bert"}
    assert {f"nasframe_{name}" for name in names} == {folder.name for folder in METHODS}
