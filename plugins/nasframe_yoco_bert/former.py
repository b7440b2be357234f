"""Reads options that sampler ``sng`` had when it was the published algorithm, too.

Most of them chose between two ways of doing one thing, and ``sng`` now does what was the default. The other way is a
part of sampler ``sng_published``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasframe.records import Translation

OF_PUBLISHED = ("explore", "inactive", "batches", "ties", "weights", "objective")


def _published(part: str) -> str:
    """Say that ``sng_published`` with all parts but one mended does what an option asks for."""
    others = [other for other in OF_PUBLISHED if other != part]
    return f"is how it was published. Expected 'use: sng_published' with mend: [{', '.join(others)}]."


GONE = {
    ("reference_compat", True): "is gone. The published algorithm is a sampler of its own: 'use: sng_published'.",
    ("explore", "averaged"): _published("explore"),
    ("mask_inactive", False): _published("inactive"),
    ("ties", "relative"): _published("ties"),
    ("uniform_samples", "use"): _published("weights"),
    ("uniform_samples", "skip"): "is gone, and nothing replaces it: samples that explored are weighted.",
    ("clear_buffer", False): "is how it was published. Expected 'use: sng_published'.",
    ("penalty", "published"): "is how it was published. Expected 'use: sng_published'.",
}
"""Values that ``sng`` no longer does, and where they went."""
ALWAYS = {
    "reference_compat": False,
    "objective": "cost_matched",
    "mask_inactive": True,
    "ties": "absolute",
    "uniform_samples": "weight",
    "clear_buffer": True,
    "penalty": "monotone",
}
"""Options that are gone, each with the value that ``sng`` acts on now."""
NULLABLE = ("lam", "delta", "explore", "same_batch", "cost_targets", "warm_up")
"""Options of today that could be ``null``, which meant their default."""


def translate_options(options: Mapping[str, Any]) -> Translation:
    """Return the options as ``sng`` has them now, with advice on old ones, and why others cannot be translated."""
    today: dict[str, Any] = {}
    advice: list[str] = []
    faults: dict[str, str] = {}
    for name, value in options.items():
        # An option with a fault is left out of the others, so that it is reported once.
        fault = _fault(name, value, options)
        if fault:
            faults[name] = fault
        elif name == "objective" and value == "loss":
            advice.append("sampler 'sng': objective is deprecated; write 'match: none' instead.")
        elif name in ALWAYS:
            advice.append(f"sampler 'sng': {name} is deprecated; leave it out: this is what 'sng' does.")
        elif name in NULLABLE and value is None:
            advice.append(f"sampler 'sng': '{name}: null' is deprecated; leave it out: this is what 'sng' does.")
        else:
            today[name] = value
    if options.get("objective") == "loss" and "objective" not in faults:
        today["match"] = "none"
    return Translation(today, tuple(advice), faults)


def _fault(name: str, value: Any, options: Mapping[str, Any]) -> str:
    """Say why an option cannot be translated; return an empty text if it can, or needs no translation."""
    for (gone_name, gone_value), where_it_went in GONE.items():
        if name == gone_name and _equal(value, gone_value):
            return f"{_written(name, value)} {where_it_went}"
    if name == "objective" and _contradicts_match(value, options):
        return "is the old way to say what 'match' says, which is given, too. Expected only 'match'."
    # `null` was the default of every option in ALWAYS, and meant the value there.
    is_readable = name not in ALWAYS or value is None or _equal(value, ALWAYS[name])
    if is_readable or (name == "objective" and value == "loss"):
        return ""
    return f"{_written(name, value)} does not fit, and the option is gone. Expected that you leave it out."


def _contradicts_match(objective: Any, options: Mapping[str, Any]) -> bool:
    """Tell whether ``match`` is given, too, so that one of the two would be ignored.

    In earlier versions ``match`` only counted with ``objective: cost_matched``, and resolved recipes have it beside any
    objective. They are recognised by ``reference_compat``, which they always have.
    """
    if "match" not in options or "reference_compat" in options:
        return False
    if objective == "loss":
        return True
    return bool(objective == "cost_matched" and options["match"] == "none")


def _equal(value: Any, other: Any) -> bool:
    """Compare two values as YAML does, where 1 is not ``true``."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _written(name: str, value: Any) -> str:
    """Write an option as a recipe does."""
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"'{name}: {shown}'"
