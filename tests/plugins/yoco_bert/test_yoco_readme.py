"""The README lists every part that ``sng_published`` can have mended."""

import re
from pathlib import Path
from typing import get_args

import nasframe_yoco_bert
from nasframe_yoco_bert.sng_published import Part

HERE = Path(nasframe_yoco_bert.__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")


def test_every_part_that_can_be_mended_is_listed():
    named = set(re.findall(r"`(\w+)`", README))
    assert set(get_args(Part)) <= named
