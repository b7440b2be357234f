"""``nasframe cache``: list the cached stages, say why one was not found, and make room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nasframe.running.cache import Cache

SHOWN = 12
"""How many characters of a key or digest are printed."""
DIGEST = 64
"""How many characters a whole one has."""

app = typer.Typer(help="Results of stages, kept by their content.", no_args_is_help=True)
Folder = Annotated[
    Path | None, typer.Option("--cache", envvar="NASFRAME_CACHE", help="The cache; default: ~/.cache/nasframe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _cache(folder: Path | None) -> Cache:
    from nasframe.errors import UsageError
    from nasframe.running.cache import Cache, default_folder

    cache = Cache(folder or default_folder())
    # A folder that does not exist yet is an empty cache.
    if cache.root.exists() and not cache.root.is_dir():
        raise UsageError(f"--cache {cache.root}: a file. Expected a folder, or a path where one can be made.")
    return cache


@app.command("list")
def list_(cache: Folder = None, json_: Json = False) -> None:
    """List the cached stages, the least recently used first."""
    kept = _cache(cache)
    rows = []
    for key, entry in kept.entries().items():
        row = {
            "key": key,
            "stage": entry.parts["stage"],
            "verb": entry.parts["verb"],
            "seed": entry.parts["seed"],
            "run": entry.run,
            "run_seconds": entry.run_seconds,
            "made_at": entry.made_at,
            "bytes": kept.size(entry),
        }
        rows.append(row)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        _print_entries(kept, rows)


def _print_entries(kept: Cache, rows: Sequence[Mapping[str, Any]]) -> None:
    import time

    from rich.console import Console
    from rich.table import Table

    from nasframe.report.tables import duration, size

    table = Table("key", "stage", "seed", "made", "took", "files", "run", box=None, header_style="bold")
    for row in rows:
        key = row["key"][:SHOWN]
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["made_at"]))
        took = duration(row["run_seconds"])
        files = size(row["bytes"])
        table.add_row(key, row["stage"], str(row["seed"]), made, took, files, row["run"])
    console = Console()
    if rows:
        console.print(table)
    console.print(f"{len(rows)} stages, {size(kept.total())} in {kept.root}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _StageOfRun:
    """What a run keeps about one of its stages and the cache.

    Args:
        parts: what the stage's key was made of.
        origin: the entry that it was taken from, if it was.
        changed: files that its stages opened and that differ from an entry of the same key: name, then, now.
        cache: the folder of the run's cache, if it used one.
    """

    parts: Any
    origin: Mapping[str, Any] | None
    changed: Sequence[Sequence[Any]]
    cache: str | None


def _stage_of_run(run: Path, stage: str) -> _StageOfRun:
    from nasframe.errors import UsageError, listing, suggestion
    from nasframe.store import RunStore

    store = RunStore(run, shared=True)
    try:
        store.check()
        names = list(store.stage_states())
        if stage not in names:
            raise UsageError(f"{run}: no stage {stage!r}. Stages: {listing(names)}.{suggestion(stage, names)}")
        parts = store.get(f"key {stage}")
        if parts is None:
            raise UsageError(f"{run}: this run used no cache. Expected one made by 'nasframe ablate' or with --cache.")
        origin = store.stage_result(stage).get("cached")
        return _StageOfRun(parts, origin, store.get(f"changed {stage}", []), store.get("cache"))
    finally:
        store.close()


@app.command()
def why(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    stage: Annotated[str, typer.Argument(help="One of its stages.")],
    cache: Folder = None,
    json_: Json = False,
) -> None:
    """Say whether a stage came from the cache, and if not, which files changed or where its key differs from others."""
    from nasframe.running.cache import nearest

    facts = _stage_of_run(run, stage)
    # The run knows its cache, so `--cache` is only needed if that has moved.
    if cache is None and facts.cache:
        cache = Path(facts.cache)
    kept = _cache(cache)
    entry, differing_stage, differences = nearest(kept, facts.parts)
    if json_:
        answer = {
            "cached": facts.origin,
            "changed": [{"file": name, "then": then, "now": now} for name, then, now in facts.changed],
            "nearest": entry.key if entry else None,
            "stage": differing_stage,
            "differs": [{"part": path, "this": mine, "nearest": other} for path, mine, other in differences],
        }
        print(json.dumps(answer, indent=1))
        return
    _print_origin(stage, facts)
    if entry is None:
        print(f"no other entry for a stage {stage!r} in {kept.root}")
        return
    print(f"the nearest other entry, {entry.key[:SHOWN]} of {entry.run}, differs in the stage {differing_stage}:")
    for path, mine, other in differences:
        print(f"  {path}: {_short(mine)} here, {_short(other)} there")


def _print_origin(stage: str, facts: _StageOfRun) -> None:
    """Say whether a stage came from the cache, and which changed files kept it from that."""
    if facts.origin:
        print(f"{stage}: taken from the cache, made by {facts.origin['run']}")
    else:
        print(f"{stage}: run here")
    if facts.changed:
        print("there was an entry with the same key, but files that its stages had opened have changed:")
        for name, then, now in facts.changed:
            print(f"  {name}: {_short(now)} here, {_short(then)} there")


def _short(value: Any) -> str:
    """Write a part of a key; if it ends with a digest, only with the beginning of that."""
    text = str(value)
    words, _, digest = text.rpartition(" ")
    if len(digest) != DIGEST:
        return text
    return f"{words} {digest[:SHOWN]}…".lstrip()


def _size(text: str) -> float:
    """Read the size that the cache may keep, in bytes."""
    from nasframe.errors import UsageError
    from nasframe.units import parse_number, unit_fault

    fault = unit_fault(text, "bytes")
    if not fault:
        size = parse_number(text)
        if size >= 0:
            return size
        fault = "below 0."
    raise UsageError(f"--max-size {text}: {fault} Expected a size such as 10G.")


@app.command()
def prune(
    max_size: Annotated[str, typer.Option("--max-size", help="The size to keep, as in 10G; 0 empties the cache.")],
    cache: Folder = None,
    json_: Json = False,
) -> None:
    """Drop the least recently used stages until the cache is no larger than a size."""
    from nasframe.report.tables import size
    from nasframe.storage import refuse_unwritable

    kept = _cache(cache)
    refuse_unwritable(kept.root)
    before = kept.total()
    dropped = kept.prune(_size(max_size))
    left = kept.total()
    if json_:
        print(json.dumps({"dropped": dropped, "bytes": left}))
    else:
        print(f"{len(dropped)} stages dropped, {size(before - left)} freed, {size(left)} left in {kept.root}")
