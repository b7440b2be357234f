"""Names that users choose for what nasframe writes: runs, stages, networks, arms. All become names of files."""

from __future__ import annotations

import re
from typing import Any

from nasframe.plan import NET

PLAIN = re.compile(r"[A-Za-z0-9][\w.+-]*")
"""Names of runs, stages and saved networks; overrides use ``=`` between path and value."""
RICH = re.compile(r"[A-Za-z0-9][\w.+=,@%-]*")
"""Names of studies, arms, tasks and found architectures, which hold values too, as ``best@50%``."""
LONGEST = 100
"""Most bytes of a name. Prefixes and endings are added to it, and file systems allow 255 in all."""
PORTS = [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
DEVICES = frozenset({"con", "prn", "aux", "nul", *PORTS})
"""Names that Windows allows for no file, whatever its ending."""


def name_fault(name: Any, *, rich: bool = False, network: bool = False) -> str:
    """Say why a name cannot name files, or nothing.

    Args:
        name: what was written.
        rich: whether the name may hold values, as ``best@50%`` does.
        network: whether it names a network; ``pretrained`` and ``random`` are taken, since every run has them.

    >>> name_fault("teacher"), name_fault("best@50%", rich=True)
    ('', '')
    >>> name_fault("../up")
    "'../up' cannot name files. Expected letters, digits, '.', '_', '-' or '+', the first a letter or digit."
    >>> name_fault("pretrained", network=True)
    "'pretrained' is the network that every run starts with. Expected another name."
    """
    pattern = RICH if rich else PLAIN
    fault = _form_fault(name, pattern)
    if fault or not network:
        return fault
    if name == "pretrained":
        return f"{name!r} is the network that every run starts with. Expected another name."
    if name == "random":
        return f"{name!r} is a network of random weights. Expected another name."
    if name.endswith(NET):
        return f"{name!r}: names that end in {NET!r} are kept for the networks of searches. Expected another name."
    return ""


def _form_fault(name: Any, pattern: re.Pattern[str]) -> str:
    """Say why no file can have a name, or nothing."""
    has_form = isinstance(name, str) and pattern.fullmatch(name)
    # Windows drops a full stop at the end, so two names would be one file.
    if not has_form or name.endswith("."):
        shown = repr(name)
        if len(shown) > LONGEST:
            shown = shown[:LONGEST] + "…"
        more = ", '=', ',', '@', '%'" if pattern is RICH else ""
        characters = f"letters, digits, '.', '_', '-'{more} or '+', the first a letter or digit"
        return f"{shown} cannot name files. Expected {characters}."
    # In bytes: ``\w`` also matches letters that take several of them.
    if len(name.encode()) > LONGEST:
        return f"{name[:20]}… cannot name files: too long. Expected at most {LONGEST} bytes."
    if name.lower().partition(".")[0] in DEVICES:
        return f"{name!r} cannot name files: some systems reserve it for a device. Expected another name."
    return ""
