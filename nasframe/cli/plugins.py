"""``nasframe plugins``: the installed plugins with their packages and options, and those that failed to load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe.registry import Registered
    from nasframe.testing.kit import Outcome

app = typer.Typer(
    help="List plugins, show one with its options, or check that it keeps its promises.", invoke_without_command=True
)


@app.callback()
def plugins(
    context: typer.Context, json_: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False
) -> None:
    """List every plugin by kind, with its package, and those that failed to load."""
    if context.invoked_subcommand:
        return
    from nasframe import registry

    failures = registry.failures()
    if json_:
        rows = [_facts(entry) for entry in _all_entries()]
        causes = []
        for failure in failures:
            causes.append({"plugin": failure.plugin, "package": failure.source.package, "cause": failure.cause})
        print(json.dumps({"plugins": rows, "failures": causes}, indent=2))
        return
    _print_plugins()
    for failure in failures:
        tell(f"failed: {failure.plugin} of {failure.source}: {failure.cause}")


def _all_entries() -> list[Registered]:
    """Return every registered plugin, kind by kind."""
    from nasframe import registry

    entries: list[Registered] = []
    for kind in registry.KINDS:
        entries += registry.factories(kind).values()
    return entries


def _print_plugins() -> None:
    """Print a line for each kind and package."""
    from rich.console import Console

    from nasframe import registry

    console = Console(soft_wrap=False)
    for kind in registry.KINDS:
        names_of_sources: dict[str, list[str]] = {}
        for entry in registry.factories(kind).values():
            names_of_sources.setdefault(str(entry.source), []).append(entry.name)
        for source, names in sorted(names_of_sources.items()):
            console.print(f"[bold]{kind}[/bold]  {', '.join(names)}  [dim]{source}[/dim]", highlight=False)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, with its kind if several share it: sampler/random.")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what the plugins of a name do, where they come from, and their options."""
    entries = _named(name)
    if json_:
        facts = [_facts(entry) | {"options": _options(entry)} | _metrics(entry) for entry in entries]
        answer = facts[0] if len(facts) == 1 else facts
        print(json.dumps(answer, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nasframe.options import summary

    console = Console()
    for entry in entries:
        console.print(f"[bold]{entry.kind}/{entry.name}[/bold]  [dim]{entry.source}[/dim]", highlight=False)
        console.print(summary(entry.load()), markup=False, highlight=False)
        table = Table("option", "type", "default", "meaning", box=None, header_style="bold")
        for row in _options(entry):
            default = "required" if row["required"] else json.dumps(row["default"])
            cells = [row["name"], row["type"], default, row["doc"]]
            # As Text, in which brackets such as those of "[]" are no markup.
            table.add_row(*[Text(cell) for cell in cells])
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
    json_: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
) -> None:
    """Check that plugins keep the promises of their kind, as the contracts of ``nasframe.testing`` do in tests."""
    from nasframe.errors import VerificationError
    from nasframe.testing.registered import contract_of

    words = names or []
    options = _options_in(words)
    # Contracts are made first, so that options which do not fit are reported before minutes of checks.
    contracts = [(entry, contract_of(entry, options)) for entry in _entries_in(words)]
    rows = []
    failed = []
    for entry, contract in contracts:
        outcomes = _check_one(entry, contract, quiet=json_)
        passed = all(outcome.passed for outcome in outcomes)
        row = {
            "kind": entry.kind,
            "name": entry.name,
            "package": entry.package,
            "version": entry.source.version,
            "passed": passed,
            "checks": [vars(outcome) for outcome in outcomes],
        }
        rows.append(row)
        if not passed:
            failed.append(f"{entry.kind}/{entry.name}")
    if json_:
        print(json.dumps(rows, indent=2))
    if failed:
        raise VerificationError(f"{len(failed)} of {len(rows)} fail: {', '.join(failed)}.")


def _check_one(entry: Registered, contract: Any, quiet: bool) -> list[Outcome]:
    """Run the checks of one plugin; print each as soon as it ends, unless ``quiet``."""
    from nasframe import registry
    from nasframe.testing.kit import run_checks

    if not quiet:
        print(f"{entry.kind}/{entry.name}  {entry.source}")
    # What a one-file plugin registers is only found while the file is named.
    file = entry.source.file
    outcomes = []
    with registry.file_plugins([file]) if file else nullcontext():
        for outcome in run_checks(contract):
            outcomes.append(outcome)
            if quiet:
                continue
            verdict = "ok" if outcome.passed else "FAILED"
            print(f"  {verdict:6}  {outcome.check}", flush=True)
            if not outcome.passed:
                print(f"          {outcome.message}", flush=True)
    return outcomes


def _options_in(words: Sequence[str]) -> dict[str, Any]:
    """Read those arguments of ``plugins check`` that are options, as ``option=value``."""
    from nasframe.errors import RecipeError
    from nasframe.recipe.yaml import Position, parse

    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            continue
        node, problems = parse(value, Position(f"option {key!r}"))
        if node is None or problems:
            raise RecipeError(problems)
        options[key] = node.plain()
    return options


def _entries_in(words: Sequence[str]) -> list[Registered]:
    """Return the plugins that the arguments of ``plugins check`` name; all, if they name none."""
    names = [word for word in words if "=" not in word]
    if not names:
        return _all_entries()
    entries: list[Registered] = []
    for name in names:
        if name.endswith(".py"):
            entries += _of_file(Path(name).resolve())
        else:
            entries += _named(name)
    return entries


def _of_file(path: Path) -> list[Registered]:
    """Load a one-file plugin and list what it registers, as a recipe that names this file alone would find it."""
    from nasframe import registry
    from nasframe.errors import UsageError

    registry.add_file(path)
    with registry.file_plugins([path]):
        faults = registry.file_faults(path)
        if faults:
            raise UsageError("\n".join(faults))
        return [entry for entry in _all_entries() if entry.source.file == str(path)]


def _named(name: str) -> list[Registered]:
    """Find plugins by ``name`` or ``kind/name``; a name that several kinds share gives several."""
    from nasframe import registry
    from nasframe.errors import UsageError, listing, suggestion

    kind, slash, rest = name.partition("/")
    if slash and kind in registry.KINDS:
        return [registry.find(kind, rest)]
    all_entries = _all_entries()
    entries = [entry for entry in all_entries if entry.name == name]
    if not entries:
        names = {entry.name for entry in all_entries}
        raise UsageError(f"unknown plugin {name!r}. There are: {listing(names)}.{suggestion(name, names)}")
    return entries


def _facts(entry: Registered) -> dict[str, Any]:
    target = entry.target
    if not isinstance(target, str):
        target = f"{target.__module__}:{target.__qualname__}"
    return {
        "kind": entry.kind,
        "name": entry.name,
        "plugin": entry.plugin,
        "package": entry.package,
        "version": entry.source.version,
        "factory": target,
    }


def _options(entry: Registered) -> list[dict[str, Any]]:
    from nasframe.options import options_of, plain_default

    rows = []
    for option in options_of(entry.load()).values():
        row = {
            "name": option.name,
            "type": option.type_name,
            "required": option.required,
            "default": plain_default(option),
            "doc": option.doc,
        }
        rows.append(row)
    return rows


def _metrics(entry: Registered) -> dict[str, Any]:
    """Return the metrics that a task may measure and their formats; empty if that is not known."""
    from nasframe.measures import possible_metrics

    metrics = possible_metrics(entry.load(), {})
    if metrics is None:
        return {}
    return {"metrics": {name: asdict(form) for name, form in metrics.items()}}


def _measured(entry: Registered) -> list[str]:
    """Return a line about the metrics that a task may measure; none if that is not known."""
    from nasframe.measures import described, possible_metrics

    metrics = possible_metrics(entry.load(), {})
    if metrics is None:
        return []
    return [f"metrics: {described(metrics)}"]
