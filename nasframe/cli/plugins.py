"""``nasframe plugins``: what is installed, from where, with which options, and what failed to load."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nasframe.registry import Registered

app = typer.Typer(
    help="List plugins, show one with its options, or check that it keeps its promises.", invoke_without_command=True
)


@app.callback()
def plugins(
    context: typer.Context, json_: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False
) -> None:
    """List every plugin by kind, where it comes from, and what failed to load."""
    if context.invoked_subcommand:
        return
    from nasframe import registry

    found = {kind: list(registry.factories(kind).values()) for kind in registry.KINDS}
    failed = registry.failures()
    if json_:
        rows = [_facts(entry) for entries in found.values() for entry in entries]
        faults = [{"plugin": f.plugin, "package": f.source.package, "cause": f.cause} for f in failed]
        print(json.dumps({"plugins": rows, "failures": faults}, indent=2))
        return
    from rich.console import Console

    console = Console(soft_wrap=False)
    for kind, entries in found.items():
        for source in sorted({str(entry.source) for entry in entries}):
            names = ", ".join(entry.name for entry in entries if str(entry.source) == source)
            console.print(f"[bold]{kind}[/bold]  {names}  [dim]{source}[/dim]", highlight=False)
    for failure in failed:
        print(f"failed: {failure.plugin} of {failure.source}: {failure.cause}", file=sys.stderr)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, with its kind where several share it: sampler/random.")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what plugins of a name do, where they come from, and their options."""
    entries = _named(name)
    if json_:
        facts = [_facts(entry) | {"options": _options(entry)} | _metrics(entry) for entry in entries]
        print(json.dumps(facts[0] if len(facts) == 1 else facts, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from nasframe.options import summary

    console = Console()
    for entry in entries:
        console.print(f"[bold]{entry.kind}/{entry.name}[/bold]  [dim]{entry.source}[/dim]", highlight=False)
        console.print(summary(entry.load()), markup=False, highlight=False)
        table = Table("option", "type", "default", "meaning", box=None, header_style="bold")
        for row in _options(entry):
            default = "required" if row["required"] else json.dumps(row["default"])
            table.add_row(*(_literal(text) for text in (row["name"], row["type"], default, row["doc"])))
        console.print(table if table.row_count else "no options")
        for line in _measured(entry):
            console.print(line, markup=False, highlight=False)


@app.command("check")
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Plugins by name, or kind/name; files that register some; options to make them with. Default: all.",
            metavar="[[KIND/]NAME | FILE.py]... [OPTION=VALUE]...",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check that plugins keep the promises of their kind, as the contracts of ``nasframe.testing`` do in tests."""
    from nasframe import registry
    from nasframe.errors import VerificationError
    from nasframe.testing.kit import run_checks
    from nasframe.testing.registered import contract_of

    options, entries = _chosen(names or [])
    contracts = [(entry, contract_of(entry, options)) for entry in entries]
    rows: list[dict[str, Any]] = []
    for entry, contract in contracts:
        outcomes = []
        if not json_:
            print(f"{entry.kind}/{entry.name}  {entry.source}")
        with registry.file_plugins([entry.source.file]) if entry.source.file else nullcontext():
            for outcome in run_checks(contract):
                outcomes.append(outcome)
                if not json_:
                    print(f"  {'ok    ' if outcome.passed else 'FAILED'}  {outcome.check}", flush=True)
                    print(f"          {outcome.message}\n" * (not outcome.passed), end="", flush=True)
        facts = {"kind": entry.kind, "name": entry.name, "package": entry.package, "version": entry.source.version}
        rows.append(facts | {"passed": all(o.passed for o in outcomes), "checks": [vars(o) for o in outcomes]})
    if json_:
        print(json.dumps(rows, indent=2))
    if failed := [f"{row['kind']}/{row['name']}" for row in rows if not row["passed"]]:
        raise VerificationError(f"{len(failed)} of {len(rows)} fail: {', '.join(failed)}.")


def _chosen(words: list[str]) -> tuple[dict[str, Any], list[Registered]]:
    """Split the arguments of ``plugins check`` into options and the plugins that are meant."""
    from nasframe import registry
    from nasframe.errors import RecipeError
    from nasframe.recipe.yaml import Position, parse

    options: dict[str, Any] = {}
    for key, equals, value in (word.partition("=") for word in words):
        if equals:
            node, problems = parse(value, Position(f"option {key!r}", 0, 0))
            if node is None or problems:
                raise RecipeError(problems)
            options[key] = node.plain()
    entries: list[Registered] = []
    names = [word for word in words if "=" not in word]
    for name in names:
        if not name.endswith(".py"):
            entries += _named(name)
            continue
        entries += _of_file(Path(name).resolve())
    if not names:
        entries = [entry for kind in registry.KINDS for entry in registry.factories(kind).values()]
    return options, entries


def _of_file(path: Path) -> list[Registered]:
    """Load a one-file plugin and list what it registers, as a recipe that names this file alone would find it."""
    from nasframe import registry
    from nasframe.errors import UsageError

    registry.add_file(path)
    with registry.file_plugins([path]):
        if faults := registry.file_faults(path):
            raise UsageError("\n".join(faults))
        everything = [entry for kind in registry.KINDS for entry in registry.factories(kind).values()]
    return [entry for entry in everything if entry.source.file == str(path)]


def _named(name: str) -> list[Registered]:
    """Find plugins by ``name`` or ``kind/name``; a name that several kinds share gives several."""
    from nasframe import registry
    from nasframe.errors import UsageError, listing, suggestion

    kind, slash, rest = name.partition("/")
    if slash and kind in registry.KINDS:
        return [registry.find(kind, rest)]
    found = [registry.factories(kind)[name] for kind in registry.KINDS if name in registry.factories(kind)]
    if not found:
        known = sorted({key for kind in registry.KINDS for key in registry.factories(kind)})
        raise UsageError(f"unknown plugin {name!r}. There are: {listing(known)}.{suggestion(name, known)}")
    return found


def _facts(entry: Registered) -> dict[str, Any]:
    target = entry.target if isinstance(entry.target, str) else f"{entry.target.__module__}:{entry.target.__qualname__}"
    return {
        "kind": entry.kind, "name": entry.name, "plugin": entry.plugin, "package": entry.package,
        "version": entry.source.version, "factory": target,
    }  # fmt: skip


def _options(entry: Registered) -> list[dict[str, Any]]:
    from nasframe.options import options_of, plain_default

    return [
        {"name": o.name, "type": o.type_name, "required": o.required, "default": plain_default(o), "doc": o.doc}
        for o in options_of(entry.load()).values()
    ]


def _metrics(entry: Registered) -> dict[str, Any]:
    """Return what a task may measure, with what each metric means to a reader; nothing of what does not tell."""
    from nasframe.measures import possible_metrics

    metrics = possible_metrics(entry.load(), {})
    return {} if metrics is None else {"metrics": {name: asdict(form) for name, form in metrics.items()}}


def _measured(entry: Registered) -> list[str]:
    """Say in a line each what a task may measure."""
    from nasframe.measures import described, possible_metrics

    metrics = possible_metrics(entry.load(), {})
    return [] if metrics is None else [f"metrics: {described(metrics)}"]


def _literal(text: str) -> Any:
    from rich.text import Text

    return Text(text)
