"""Which contract a registered plugin has to keep, and with which options it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nasframe.errors import UsageError
from nasframe.testing.kit import Contract, require


def contract_of(entry: Any, options: Mapping[str, Any] | None = None) -> type[Contract]:
    """Return the contract of a registered plugin, with the plugin's example options if it was registered with any.

    Args:
        entry: a ``nasframe.registry.Registered``.
        options: options that override the example's.

    Raises:
        UsageError: the plugin does not have an option, or the option's value has the wrong type.
    """
    from nasframe import testing
    from nasframe.options import options_of

    options = dict(options or {})
    _validate(entry, options)
    base = getattr(testing, f"{entry.kind.capitalize()}Contract")
    example = entry.load_example()
    if isinstance(example, type):  # a plugin may bring a contract of its own in place of options
        base = example
        example = {}
    all_options = {**example, **options}
    missing = []
    for option in options_of(entry.load()).values():
        if option.required and option.name not in all_options:
            missing.append(option.name)
    # A contract that overrides `options` may supply what is missing.
    if missing and base.options is Contract.options:
        return type("CannotBeMade", (_CannotBeMade,), {"entry": entry, "missing": missing})
    return type(base.__name__, (base,), {"use": {"use": entry.name, **all_options}})


def _validate(entry: Any, options: Mapping[str, Any]) -> None:
    """Raise UsageError for the first option that does not fit; missing options may come from the example."""
    from nasframe import registry
    from nasframe.options import validate

    reserved = registry.RESERVED.get(entry.kind, ())
    plugin_options = {key: value for key, value in options.items() if key not in reserved}
    if not plugin_options:
        return
    _, problems = validate(plugin_options, entry.load())
    for place, text in problems:
        if not text.startswith("missing"):
            path = ".".join(str(part) for part in place)
            raise UsageError(f"{entry.kind} {entry.name!r}: {path}: {text}")


class _CannotBeMade(Contract):
    """The contract of a plugin that has required options and no example: its one check fails and says so."""

    entry: Any = None
    missing: ClassVar[list[str]] = []

    def test_it_can_be_made(self) -> None:
        name = self.entry.name
        kind = self.entry.kind
        names = ", ".join(repr(option) for option in self.missing)
        first = self.missing[0]
        require(
            False,
            f"{kind} {name!r} cannot be made without {names}. Register it with an example, "
            f"register({name!r}, ..., example={{{first!r}: ...}}), or give options: "
            f"nasframe plugins check {kind}/{name} {first}=...",
        )
