"""``nasframe cache``: what is kept of stages, why a stage was not found there, and making room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Results of stages, kept by their content.", no_args_is_help=True)
Folder = Annotated[
    Path | None, typer.Option("--cache", envvar="NASFRAME_CACHE", help="The cache; default: ~/.cache/nasframe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _cache(folder: Path | None) -> Any:
    from nasframe.errors import UsageError
    from nasframe.running.cache import Cache, default_folder

    cache = Cache(folder or default_folder())
    if cache.root.exists() and not cache.root.is_dir():
        raise UsageError(f"--cache {cache.root}: a file. Expected a folder, or a place where one can be made.")
    return cache


@app.command("list")
def list_(cache: Folder = None, json_: Json = False) -> None:
    """List the stages that are kept, the least recently used first."""
    import json
    import time

    from nasframe.report.tables import duration, size

    kept = _cache(cache)
    rows = [
        {"key": key, **{name: entry.parts[name] for name in ("stage", "verb", "seed")}, "run": entry.run}
        | {"run_seconds": entry.run_seconds, "made_at": entry.made_at, "bytes": kept.size(entry)}
        for key, entry in kept.entries().items()
    ]
    if json_:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "stage", "seed", "made", "took", "files", "run", box=None, header_style="bold")
    for row in rows:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["made_at"]))
        cells = (
            row["key"][:12],
            row["stage"],
            str(row["seed"]),
            made,
            duration(row["run_seconds"]),
            size(row["bytes"]),
        )
        table.add_row(*cells, row["run"])
    console = Console()
    if rows:
        console.print(table)
    console.print(f"{len(rows)} stages, {size(kept.total())} in {kept.root}", highlight=False, soft_wrap=True)


@app.command()
def why(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    stage: Annotated[str, typer.Argument(help="One of its stages.")],
    cache: Folder = None,
    json_: Json = False,
) -> None:
    """Say whether a stage came from the cache, and if not, which files changed or where its key differs from others."""
    import json

    from nasframe.errors import UsageError, listing, suggestion
    from nasframe.running.cache import Cache, nearest
    from nasframe.store import RunStore

    store = RunStore(run, shared=True)
    store.check()
    names = list(store.stage_states())
    parts, origin = store.get(f"key {stage}"), store.stage_result(stage).get("cached")
    changed = store.get(f"changed {stage}", [])
    kept = _cache(cache) if cache or not store.get("cache") else Cache(Path(store.get("cache")))
    store.close()
    if stage not in names:
        raise UsageError(f"{run}: no stage {stage!r}. Stages: {listing(names)}.{suggestion(stage, names)}")
    if parts is None:
        raise UsageError(f"{run}: this run used no cache. Expected one made by 'nasframe ablate' or with --cache.")
    entry, where, found = nearest(kept, parts)
    if json_:
        rows = [{"part": path, "this": mine, "nearest": other} for path, mine, other in found]
        files = [{"file": name, "then": then, "now": now} for name, then, now in changed]
        nearest_key = entry.key if entry else None
        facts = {"cached": origin, "changed": files, "nearest": nearest_key, "stage": where, "differs": rows}
        print(json.dumps(facts, indent=1))
        return
    print(f"{stage}: taken from the cache, made by {origin['run']}" if origin else f"{stage}: run here")
    if changed:
        print("there was an entry of the same key, but files that its stages had opened were not as they had been:")
        for name, then, now in changed:
            print(f"  {name}: {_short(now)} here, {_short(then)} there")
    if entry is None:
        print(f"no other entry of a stage {stage!r} in {kept.root}")
        return
    print(f"the nearest other entry, {entry.key[:12]} of {entry.run}, differs in the stage {where}:")
    for path, mine, other in found:
        print(f"  {path}: {_short(mine)} here, {_short(other)} there")


def _short(value: Any) -> str:
    text = str(value)
    words, _, digest = text.rpartition(" ")
    return f"{words} {digest[:12]}…".lstrip() if len(digest) == 64 else text


def _size(text: str) -> float:
    """Read what may stay, in bytes."""
    from nasframe.errors import UsageError
    from nasframe.units import parse_number, unit_fault

    fault = unit_fault(text, "bytes")
    size = 0.0 if fault else parse_number(text)
    if fault or size < 0:
        raise UsageError(f"--max-size {text}: {fault or 'below 0.'} Expected a size such as 10G.")
    return size


@app.command()
def prune(
    max_size: Annotated[str, typer.Option("--max-size", help="What may stay, as in 10G; 0 empties the cache.")],
    cache: Folder = None,
    json_: Json = False,
) -> None:
    """Drop the least recently used stages until the cache is no larger."""
    import json

    from nasframe.report.tables import size

    kept = _cache(cache)
    before = kept.total()
    dropped = kept.prune(_size(max_size))
    if json_:
        print(json.dumps({"dropped": dropped, "bytes": kept.total()}))
        return
    print(
        f"{len(dropped)} stages dropped, {size(before - kept.total())} freed, {size(kept.total())} left in {kept.root}"
    )
