from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.report import tables
from nasframe.report.format import EARLIER_COSTS


@settings(deadline=None, max_examples=200)
@given(st.floats(min_value=1e-3, max_value=9.9e14))
def test_human_is_short_and_near(value):
    text = tables.human(value)
    unit = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.get(text[-1], 1.0)
    read = float(text.rstrip("TGMk")) * unit
    assert math.isclose(read, value, rel_tol=5.1e-3)
    assert len(text.rstrip("TGMk")) <= 9


@settings(deadline=None, max_examples=100)
@given(st.floats(min_value=0.02, max_value=1e5))
def test_duration_never_shows_sixty(value):
    assert not {"60 s", "60.0 s"} & {tables.duration(value), tables.duration(value).partition("min ")[2]}
    assert "60 min" not in tables.duration(value)


def test_costs_without_a_value_are_a_dash():
    assert {tables.cost(form, name, {}) for name, form in EARLIER_COSTS.items()} == {"–"}


def test_pipes_do_not_break_markdown():
    assert "a\\|b" in tables.markdown_table(["x"], [["a|b"]])
