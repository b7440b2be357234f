"""The formulas that a method's README claims are cited in the code, on one line each.

A README has a table ``| formula | label | file |``. The label, such as ``eq. 5``, ``§3.2`` or ``(F1)``, stands in
exactly one comment of that file. Labels in parentheses are our own, for formulas that the paper does not number.
"""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "plugins"
LABELLED = "| formula | label | file |"
LABELLED_ROW = re.compile(r"^\| .+ \| `(?P<label>[^`]+)` \| `(?P<file>[\w/]+\.py)` \|$")
OWN_LABEL = re.compile(r"\([A-Z]\d+\)")
METHODS = {
    "nasframe_autobert_zero",
    "nasframe_adabert",
    "nasframe_dynabert",
    "nasframe_frontier",
    "nasframe_hspg",
    "nasframe_nxmiformer",
    "nasframe_pictures",
    "nasframe_rosita",
    "nasframe_slimming",
    "nasframe_yoco_bert",
}


def rows_below(header: str, text: str) -> list[str]:
    """Return the rows of all tables with this header."""
    rows = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line != header:
            continue
        for row in lines[number + 2 :]:  # after the header and its rule
            if not row.startswith("|"):
                break
            rows.append(row)
    return rows


def folders_with(header: str) -> list[Path]:
    readmes = sorted(PLUGINS.glob("*/README.md"))
    return [readme.parent for readme in readmes if rows_below(header, readme.read_text("utf-8"))]


def source_of(folder: Path, file: str) -> Path:
    """Find a file that a README names, relative to the package or to the repository."""
    return next(base / file for base in (folder, ROOT) if (base / file).is_file())


def comments_of(path: Path) -> list[str]:
    source = io.StringIO(path.read_text("utf-8"))
    return [token.string for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT]


def citations(label: str, comments: list[str]) -> int:
    """Count citations of a label; ``eq. 5`` is not cited by ``eq. 51`` or ``eq. 5.1``."""
    pattern = re.compile(rf"(?<!\w){re.escape(label)}(?!\w|\.\d)")
    return sum(len(pattern.findall(comment)) for comment in comments)


@pytest.mark.parametrize("folder", folders_with(LABELLED), ids=lambda folder: folder.name)
def test_every_label_is_cited_on_one_line(folder: Path) -> None:
    rows = rows_below(LABELLED, (folder / "README.md").read_text("utf-8"))
    assert len(rows) >= 4
    claims = []
    for row in rows:
        match = LABELLED_ROW.match(row)
        assert match, row
        claims.append((match["label"], source_of(folder, match["file"])))
    assert len(set(claims)) == len(claims)
    for label, path in claims:
        assert citations(label, comments_of(path)) == 1, (label, path.name)


@pytest.mark.parametrize("folder", folders_with(LABELLED), ids=lambda folder: folder.name)
def test_every_label_of_our_own_is_explained(folder: Path) -> None:
    readme = (folder / "README.md").read_text("utf-8")
    for path in folder.rglob("*.py"):
        for label in OWN_LABEL.findall("\n".join(comments_of(path))):
            assert f"`{label}` | `{path.relative_to(folder)}` |" in readme, (path.name, label)


def test_every_method_has_such_a_table() -> None:
    assert {folder.name for folder in folders_with(LABELLED)} == METHODS


@pytest.mark.parametrize(
    ("label", "comment", "count"),
    [
        ("eq. 5", "# eq. 5: the mean", 1),
        ("eq. 5", "# eq. 51, eq. 5.1, eq. 5a", 0),
        ("§3", "# §3.2", 0),
        ("(F1)", "# (F1) and (F12)", 1),
    ],
)
def test_a_citation_is_the_whole_label(label: str, comment: str, count: int) -> None:
    assert citations(label, [comment]) == count
