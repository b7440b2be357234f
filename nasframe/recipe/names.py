"""Names that users choose for what nasframe writes: runs, stages, networks, arms. All become names of files."""

from __future__ import annotations

import re
from typing import Any

PLAIN = re.compile(r"[A-Za-z0-9][\w.+-]*")
"""Names of runs, stages and saved networks; overrides use ``=`` between path and value."""
RICH = re.compile(r"[A-Za-z0-9][\w.+=,@%-]*")
"""Names of studies, arms, tasks and found architectures, which hold values too, as ``best@50%``."""
LONGEST = 100
"""Bytes of a name. Endings and prefixes are put to it, and file systems allow 255 in all."""
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""What Windows does not allow as a file's name, with any ending."""
STARTS = frozenset({"pretrained", "random"})
"""Networks that every run has; a stage starts ``from`` them."""
NET = ".net"
"""Ends the name under which the network of a search is kept."""


def name_fault(name: Any, *, rich: bool = False, network: bool = False) -> str:
    """Say why a name cannot name files, or nothing.

    Args:
        name: what was written.
        rich: whether the name may hold values, as ``best@50%`` does.
        network: whether it names a network, beside those that every run has.

    >>> name_fault("teacher"), name_fault("best@50%", rich=True)
    ('', '')
    >>> name_fault("../up")
    "'../up' cannot name files. Expected letters, digits, '.', '_', '-' or '+', the first a letter or digit."
    >>> name_fault("pretrained", network=True)
    "'pretrained' is the network that every run starts with. Expected another name."
    """
    pattern = RICH if rich else PLAIN
    more = ", '=', ',', '@', '%'" if rich else ""
    if not isinstance(name, str) or not pattern.fullmatch(name) or name.endswith("."):
        shown = repr(name) if len(repr(name)) <= LONGEST else repr(name)[:LONGEST] + "…"
        kinds = f"letters, digits, '.', '_', '-'{more} or '+', the first a letter or digit"
        return f"{shown} cannot name files. Expected {kinds}."
    if len(name.encode()) > LONGEST:
        return f"{name[:20]}… cannot name files: too long. Expected at most {LONGEST} bytes."
    if name.lower().partition(".")[0] in DEVICES:
        return f"{name!r} cannot name files: some systems reserve it for a device. Expected another name."
    if network and name in STARTS:
        which = "the network that every run starts with" if name == "pretrained" else "a network of random weights"
        return f"{name!r} is {which}. Expected another name."
    if network and name.endswith(NET):
        return f"{name!r}: names that end in {NET!r} are kept for the networks of searches. Expected another name."
    return ""
