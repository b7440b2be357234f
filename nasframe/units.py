"""Numbers with units, as recipes and commands write them: ``66M``, ``1.2G``, ``15ms``, ``300MB``, ``60%``.

Times are in milliseconds and sizes in bytes, the units of the estimators ``latency`` and ``size``.
"""

from __future__ import annotations

import math
import re

from nasframe.errors import UsageError

COUNTING = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BYTES = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
}  # fmt: skip
TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
UNITS = {"": 1.0, **COUNTING, **BYTES, **TIMES}
"""Unit → what a number with it is multiplied by."""
MOST = 10**9
"""The largest count, size, factor or rate in a recipe; a larger one is a typing mistake."""
KINDS = {"a time": TIMES, "a size": BYTES, "a count": COUNTING}
EXAMPLES = {"a time": "15ms or 0.2s", "a size": "300MB", "a count": "66M or 1.2G"}
KIND_OF_COST = {"ms": "a time", "bytes": "a size"}
"""Unit of a cost → what it measures; all other costs count something."""
EXPECTED = "Expected a number such as 66M, 1.2G, 15ms, 300MB or 2e-5."
NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]*)")


def parse_number(text: str | float) -> float:
    """Read a number with an optional unit.

    Args:
        text: the number, as text or as a number already.

    Returns:
        The number in base units: counts, milliseconds, bytes.

    Raises:
        UsageError: not a finite number, or an unknown unit.

    >>> [parse_number(text) for text in ("66M", "15ms", "0.2s", "300MB", "2e-5", 7)]
    [66000000.0, 15.0, 200.0, 300000000.0, 2e-05, 7.0]
    """
    match = NUMBER.fullmatch(str(text).strip())
    if match is None or isinstance(text, bool):
        raise UsageError(f"{text!r} is not a number. {EXPECTED}")
    digits, unit = match.groups()
    if unit not in UNITS:
        known = ", ".join(name for name in UNITS if name)
        raise UsageError(f"{text!r}: unknown unit {unit!r}. Known: {known}.")
    number = float(digits) * UNITS[unit]
    if not math.isfinite(number):
        raise UsageError(f"{text!r} is too large. {EXPECTED}")
    return number


def unit_fault(text: str | float, unit: str) -> str:
    """Return the reason why a number's unit does not fit a cost, or an empty text.

    Args:
        text: the number as written; one without a unit, and a percentage, fit every cost.
        unit: the unit of the cost, as its estimator names it: ``ms``, ``bytes``, or the things that it counts. If it
            is empty, it is not known, and every unit fits.

    >>> unit_fault("12ms", "ms"), unit_fault("300MB", "bytes"), unit_fault("66M", "parameters"), unit_fault("50%", "ms")
    ('', '', '', '')
    >>> unit_fault("12MB", "ms")
    "'12MB' is a size, but the cost is in ms. Expected a time such as 15ms or 0.2s."
    >>> unit_fault("1B", "parameters")
    "'1B' is a size, but the cost is in parameters. Expected a count such as 66M or 1.2G."
    """
    match = NUMBER.fullmatch(str(text).strip())
    written = match.group(2) if match else ""
    if not written or not unit:
        return ""
    wanted = KIND_OF_COST.get(unit, "a count")
    kind = next((name for name, units in KINDS.items() if written in units), wanted)  # an unknown unit shows later
    is_count_of_bytes = kind == "a count" and wanted == "a size"  # 300M for 300MB
    if kind == wanted or is_count_of_bytes:
        return ""
    return f"{text!r} is {kind}, but the cost is in {unit}. Expected {wanted} such as {EXAMPLES[wanted]}."


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
        ends: whether 0 and 1 are allowed, too.

    Raises:
        UsageError: it is not a share.

    >>> share("target", "25%"), share("target", 0.5)
    (0.25, 0.5)
    """
    part = parse_share(value) if isinstance(value, str) else float(value)
    if part is not None and 0 < part < 1:
        return part
    is_end = part in (0, 1)
    if part is None or not (ends and is_end):
        between = "0% to 100%" if ends else "above 0% and below 100%"
        raise UsageError(f"{option}: {value!r} is out of range. Expected a share such as '50%', {between}.")
    return part


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
    """Tell whether a value is a part of a number of things: a share below 100%, or a number of them.

    >>> is_portion("10%"), is_portion(0.1), is_portion(500), is_portion("500"), is_portion(0), is_portion("100%")
    (True, True, True, True, False, False)
    """
    try:
        part = parse_share(value)
        if part is not None:
            return 0 < part < 1
        return 0 < float(value) < MOST
    except (UsageError, ValueError):
        return False
