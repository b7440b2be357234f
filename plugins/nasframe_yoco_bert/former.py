"""Options that sampler ``sng`` had when it was the published algorithm, too."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from nasframe.errors import UsageError
from nasframe.options import Fault

OF_PUBLISHED = ("explore", "inactive", "batches", "ties", "weights", "objective")


def _published(part: str) -> str:
    others = [other for other in OF_PUBLISHED if other != part]
    return f"is how it was published. Expected 'use: sng_published' with mend: [{', '.join(others)}]."


WENT = {
    ("reference_compat", True): "is gone. The published algorithm is a sampler of its own: 'use: sng_published'.",
    ("explore", "averaged"): _published("explore"),
    ("mask_inactive", False): _published("inactive"),
    ("ties", "relative"): _published("ties"),
    ("uniform_samples", "use"): _published("weights"),
    ("uniform_samples", "skip"): "is gone, and nothing replaces it: samples that explored are weighted.",
    ("clear_buffer", False): "is how it was published. Expected 'use: sng_published'.",
    ("penalty", "published"): "is how it was published. Expected 'use: sng_published'.",
}
"""Where former options went, by name and value."""


def former_faults(options: Mapping[str, Any]) -> list[Fault]:
    """Return the given options that ``sng`` no longer has, with where they went."""
    faults: list[Fault] = []
    for (name, value), text in WENT.items():
        if name in options and options[name] == value:
            shown = str(value).lower() if isinstance(value, bool) else value
            faults.append(((name,), f"'{name}: {shown}' {text}"))
    return faults


@dataclass(frozen=True)
class FormerOptions:
    """Options of earlier versions, ``None`` if they are not given.

    Args:
        reference_compat: gone; use the sampler ``sng_published``.
        objective: deprecated; ``loss`` is ``match: none``, and ``cost_matched`` is the default.
        mask_inactive: deprecated; always true. For false use ``sng_published``.
        ties: deprecated; always ``absolute``. For ``relative`` use ``sng_published``.
        uniform_samples: deprecated; always ``weight``. For ``use`` use ``sng_published``; ``skip`` is gone.
        clear_buffer: deprecated; always true. For false use ``sng_published``.
        penalty: deprecated; always ``monotone``. For ``published`` use ``sng_published``.
    """

    reference_compat: bool | None = None
    objective: Literal["cost_matched", "loss"] | None = None
    mask_inactive: bool | None = None
    ties: Literal["absolute", "relative"] | None = None
    uniform_samples: Literal["weight", "use", "skip"] | None = None
    clear_buffer: bool | None = None
    penalty: Literal["monotone", "published"] | None = None

    def warn(self) -> None:
        """Warn of each option that is given and still has a meaning; refuse the others.

        Raises:
            UsageError: an option that is gone.
        """
        given = {}
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None:
                given[option.name] = value
        faults = former_faults(given)
        if faults:
            raise UsageError("\n".join(f"sampler 'sng': {place[0]}: {text}" for place, text in faults))
        for name, value in given.items():
            advice = "write 'match: none' instead" if value == "loss" else "leave it out: this is what 'sng' does"
            warnings.warn(f"sampler 'sng': {name} is deprecated; {advice}.", DeprecationWarning, stacklevel=3)
