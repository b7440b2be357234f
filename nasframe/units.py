"""Numbers with units, as recipes and commands write them: ``66M``, ``1.2G``, ``15ms``, ``300MB``, ``60%``.

Times are in milliseconds and sizes in bytes, the units of the estimators ``latency`` and ``size``.
"""

from __future__ import annotations

import math
import re

from nasframe.errors import UsageError

UNITS = {
    "": 1.0,
    "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1.0, "T": 1e12,
    "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
    "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3,
}  # fmt: skip
COUNTING = frozenset({"k", "K", "M", "G", "T"})
BYTES = frozenset({"B", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB"})
TIMES = frozenset({"us", "µs", "ms", "s"})
MOST = 10**9
"""What no count, size, factor or rate in a recipe exceeds: more is a typing mistake."""
EXPECTED = "Expected a number such as 66M, 1.2G, 15ms, 300MB or 2e-5."
NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]*)")


def parse_number(text: str | float) -> float:
    """Read a number with an optional unit.

    Args:
        text: the number; what is a number already passes through.

    Returns:
        The number in base units: counts, milliseconds, bytes.

    Raises:
        UsageError: not a finite number, or an unknown unit.

    >>> [parse_number(text) for text in ("66M", "15ms", "0.2s", "300MB", "2e-5", 7)]
    [66000000.0, 15.0, 200.0, 300000000.0, 2e-05, 7.0]
    """
    found = NUMBER.fullmatch(str(text).strip())
    if found is None or isinstance(text, bool):
        raise UsageError(f"{text!r} is not a number. {EXPECTED}")
    digits, unit = found.groups()
    if unit not in UNITS:
        raise UsageError(f"{text!r}: unknown unit {unit!r}. Known: {', '.join(filter(None, UNITS))}.")
    number = float(digits) * UNITS[unit]
    if not math.isfinite(number):
        raise UsageError(f"{text!r} is too large. {EXPECTED}")
    return number


def unit_fault(text: str | float, unit: str) -> str:
    """Say why a number's unit does not measure a cost, or nothing.

    Args:
        text: the number as written; one without a unit, and a percentage, fit every cost.
        unit: the cost's own, as its estimator names it: ``ms``, ``bytes``, or what it counts; if empty, it is not
            known, and every unit fits.

    >>> unit_fault("12ms", "ms"), unit_fault("300MB", "bytes"), unit_fault("66M", "parameters"), unit_fault("50%", "ms")
    ('', '', '', '')
    >>> unit_fault("12MB", "ms")
    "'12MB' is a size, but the cost is in ms. Expected a time such as 15ms or 0.2s."
    >>> unit_fault("1B", "parameters")
    "'1B' is a size, but the cost is in parameters. Expected a count such as 66M or 1.2G."
    """
    number = NUMBER.fullmatch(str(text).strip())
    written = number.group(2) if number else ""
    if not written or not unit:
        return ""
    kinds = [("a time", TIMES, "15ms or 0.2s"), ("a size", BYTES, "300MB"), ("a count", COUNTING, "66M or 1.2G")]
    kind = next((name for name, units, _ in kinds if written in units), "")
    wanted = {"ms": "a time", "bytes": "a size"}.get(unit, "a count")
    if kind in ("", wanted) or (kind == "a count" and wanted == "a size"):
        return ""
    example = next(example for name, _, example in kinds if name == wanted)
    return f"{text!r} is {kind}, but the cost is in {unit}. Expected {wanted} such as {example}."


def parse_share(text: str | float) -> float | None:
    """Read a percentage as a share of one, or return ``None`` for anything else.

    >>> parse_share("60%"), parse_share("66M")
    (0.6, None)
    """
    stripped = str(text).strip()
    return parse_number(stripped[:-1]) / 100 if stripped.endswith("%") else None


def share(option: str, value: str | float, ends: bool = False) -> float:
    """Read a share of one.

    Args:
        option: its name, for the error.
        value: text such as ``50%``, or a number from 0 to 1.
        ends: whether nothing and all are shares, too.

    Raises:
        UsageError: it is none.

    >>> share("target", "25%"), share("target", 0.5)
    (0.25, 0.5)
    """
    found = parse_share(value) if isinstance(value, str) else float(value)
    if found is None or not (0 <= found <= 1 if ends else 0 < found < 1):
        between = "0% to 100%" if ends else "above 0% and below 100%"
        raise UsageError(f"{option}: {value!r} is out of range. Expected a share such as '50%', {between}.")
    return found


def is_percent(value: str | float) -> bool:
    """Tell whether a value is a percentage from 0 to 100, as text.

    >>> is_percent("60%"), is_percent("-5%"), is_percent("120%"), is_percent("60")
    (True, False, False, False)
    """
    try:
        part = parse_share(value)
    except UsageError:
        return False
    return part is not None and 0 <= part <= 1


def is_share(value: str | float) -> bool:
    """Tell whether a value is a share of one, as text or as a number.

    >>> is_share("60%"), is_share(0.6), is_share("0.6"), is_share(60)
    (True, True, False, False)
    """
    return is_percent(value) if isinstance(value, str) else 0 <= value <= 1


def is_portion(value: str | float) -> bool:
    """Tell whether a value says how much of a number of things: a share that is not all of them, or how many.

    >>> is_portion("10%"), is_portion(0.1), is_portion(500), is_portion("500"), is_portion(0), is_portion("100%")
    (True, True, True, True, False, False)
    """
    try:
        part = parse_share(value)
        number = float(value) if part is None else part
    except (UsageError, ValueError):
        return False
    return 0 < number < (MOST if part is None else 1)
