"""The README's table of formulas points at lines that exist, once each."""

import re
from pathlib import Path

import nasframe_yoco_bert
from nasframe_yoco_bert.sng import MENDED, SNG

from nasframe.options import options_of

HERE = Path(nasframe_yoco_bert.__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")


def test_every_formula_has_its_line():
    rows = re.findall(r"^\| .* \| `(\w+\.py)`, `(.+)` \|$", README, re.MULTILINE)
    assert len(rows) >= 16
    for file, line in rows:
        assert (HERE / file).read_text(encoding="utf-8").count(line) == 1, f"{file} has no line {line!r}"


def test_every_option_that_mends_something_is_listed():
    named = set(re.findall(r"`(\w+)`", README))
    assert set(MENDED) <= named
    others = {"match", "band", "cost_power", "reference_compat"}
    assert set(MENDED) | others == set(options_of(SNG, {"domain", "seed", "costs"}))
