"""The README lists every option that mends something."""

import re
from pathlib import Path

import nasframe_yoco_bert
from nasframe.options import options_of
from nasframe_yoco_bert.sng import MENDED, SNG

HERE = Path(nasframe_yoco_bert.__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")


def test_every_option_that_mends_something_is_listed():
    named = set(re.findall(r"`(\w+)`", README))
    assert set(MENDED) <= named
    others = {"match", "band", "cost_power", "reference_compat"}
    assert set(MENDED) | others == set(options_of(SNG, {"domain", "seed", "costs"}))
