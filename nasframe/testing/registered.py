"""Which contract a registered plugin has to meet, and with which options it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nasframe.errors import UsageError
from nasframe.testing.kit import Contract, require


def contract_of(entry: Any, options: Mapping[str, Any] | None = None) -> type[Contract]:
    """Make the contract of a registered plugin, with its example options where it registers any.

    Args:
        entry: a ``nasframe.registry.Registered``.
        options: options that go before the example's.

    Raises:
        UsageError: an option that the plugin does not have, or not of this type.
    """
    from nasframe import registry, testing
    from nasframe.options import options_of, validate

    example, base = entry.load_example(), getattr(testing, f"{entry.kind.capitalize()}Contract")
    if isinstance(example, type):
        base, example = example, {}
    factory, reserved = entry.load(), registry.RESERVED.get(entry.kind, ())
    own = {key: value for key, value in (options or {}).items() if key not in reserved}
    for at, text in validate(own, factory)[1] if own else ():
        if not text.startswith("missing"):
            raise UsageError(f"{entry.kind} {entry.name!r}: {'.'.join(map(str, at))}: {text}")
    given = {**example, **(options or {})}
    missing = [o.name for o in options_of(factory).values() if o.required and o.name not in given]
    if missing and base.options is Contract.options:
        return type("Unmade", (_Unmade,), {"entry": entry, "missing": missing})
    return type(base.__name__, (base,), {"use": {"use": entry.name, **given}})


class _Unmade(Contract):
    """Stands for the contract of a plugin that has required options and no example."""

    entry: Any = None
    missing: ClassVar[list[str]] = []

    def test_it_can_be_made(self) -> None:
        name, kind, first = self.entry.name, self.entry.kind, self.missing[0]
        require(
            False,
            f"{kind} {name!r} cannot be made without {', '.join(map(repr, self.missing))}. Register it with an "
            f"example, register({name!r}, ..., example={{{first!r}: ...}}), or give options: "
            f"nasframe plugins check {kind}/{name} {first}=...",
        )
