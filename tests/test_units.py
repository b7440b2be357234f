import pytest

from nasframe.errors import UsageError
from nasframe.units import parse_number, parse_share


@pytest.mark.parametrize(
    ("text", "number"),
    [("66M", 66e6), (" 1.2 G ", 1.2e9), ("15ms", 15), ("0.2s", 200), ("500us", 0.5), ("300MB", 3e8), ("1MiB", 2**20),
     ("2e-5", 2e-5), ("-3", -3), (".5k", 500), (7, 7), (1.5, 1.5), ("1_000", 1000), ("40B", 40)],
)  # fmt: skip
def test_numbers(text, number):
    assert parse_number(text) == pytest.approx(number, rel=1e-15)


@pytest.mark.parametrize("text", ["", "M", "6x", "6 7", "nan", "inf", "60%", "1e", True, None, "1.2.3", "6m", "1e999"])
def test_not_numbers(text):
    with pytest.raises(UsageError, match=r"Expected a number|Known: "):
        parse_number(text)


def test_shares():
    assert parse_share(" 33% ") == 0.33
    assert parse_share("33") is None
    with pytest.raises(UsageError):
        parse_share("a%")
