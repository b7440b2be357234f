"""``nasframe bench sampler``: compare samplers on a table of architectures, paired over seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Compare plugins offline.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Compare plugins offline."""


@app.command("sampler")
def sampler(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Samplers: NAME, NAME,OPTION=VALUE… or '{use: NAME, …}'.", metavar="NAME...", show_default=False
        ),
    ],
    table: Annotated[Path, typer.Option(help="The table: JSON or CSV.", show_default=False)],
    seeds: Annotated[int, typer.Option(min=1, max=10**6, help="Seeds, the same for all samplers.")] = 20,
    budget: Annotated[int, typer.Option(min=1, max=10**6, help="Evaluations of one search.")] = 300,
    cap: Annotated[
        list[str] | None, typer.Option(help="Bound for every evaluated architecture, 'flops<=50M'; repeatable.")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="Objectives, 'accuracy,-flops'. Default: the first metric; without a cap also less of the first cost."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Worst values that count for the hypervolume, 'accuracy=80'. Default: the table's."),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Opponents, separated by ';'; 'default' for the built-ins and Optuna's, or 'none'.")
    ] = "default",
    at: Annotated[str | None, typer.Option(help="Evaluations at which samplers are compared, '100,300'.")] = None,
    missing: Annotated[str, typer.Option(help="Architectures that the table lacks: 'screen' or 'model'.")] = "screen",
    columns: Annotated[
        str | None, typer.Option(help="Columns of a table made elsewhere: '{acc: metric.accuracy, note: \"\"}'.")
    ] = None,
    plugins: Annotated[list[Path] | None, typer.Option(help="One-file plugin to load; repeatable.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Play also without nasframe's search loop, to see what it saves.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Processes.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for bench.html, .json, .md, figures and the plays, which another call goes on from."),
    ] = None,
) -> None:
    """Compare samplers by regret, hypervolume, waste and time, with intervals over paired seeds."""
    from nasframe.progress import Progress
    from nasframe.storage import refuse_unwritable
    from nasframe_bench import arena
    from nasframe_bench import report as bench_report
    from nasframe_bench.contest import made

    files = tuple(str(path.resolve()) for path in plugins or ())
    space: dict[str, Any] = {"use": "table", "path": str(table), "missing": missing}
    if out:
        refuse_unwritable(out)
    if columns:
        space["columns"] = _mapping(columns)
    contest = made(space, objectives, cap or [], budget, reference, raw, files)
    uses = _uses(names, against)
    marks = _marks(at, budget)
    folder = out / "plays" if out else None
    plays = arena.play_all(contest, uses, range(seeds), jobs=jobs, folder=folder, progress=Progress())
    result = bench_report.summarise(arena.arena_of(contest), uses, plays, range(seeds), marks)
    if out:
        bench_report.write(result, out)
    if json_:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        _show(result, out)


def _uses(names: list[str], against: str) -> dict[str, dict[str, Any]]:
    """Return label → sampler: the named samplers, then opponents that are not among them."""
    from nasframe_bench.contest import opponents, sampler_use

    if against == "default":
        others = opponents()
    elif against == "none":
        others = []
    else:
        others = [text.strip() for text in against.split(";")]
    named = {name: sampler_use(name) for name in names}
    uses = dict(named)
    for name in others:
        use = sampler_use(name)
        if use not in named.values():
            uses[name] = use
    return uses


def _marks(at: str | None, budget: int) -> list[int]:
    from nasframe.errors import UsageError

    if at is None:
        return sorted({max(budget // 3, 1), budget})
    try:
        marks = sorted({int(text) for text in at.split(",")})
    except ValueError:
        marks = []
    if not marks or marks[0] < 1 or marks[-1] > budget:
        raise UsageError(f"--at {at}: expected numbers from 1 to the budget, {budget}, as in '100,300'.")
    return marks


def _mapping(text: str) -> dict[str, str]:
    from nasframe.errors import UsageError
    from nasframe.recipe.yaml import Position, parse

    node, problems = parse(text, Position("--columns", 1, 1))
    columns = node.plain() if node and not problems else None
    if not isinstance(columns, dict):
        raise UsageError(f"--columns {text}: expected a mapping, as in '{{acc: metric.accuracy}}'.")
    return {str(column): str(name or "") for column, name in columns.items()}


def _show(result: dict[str, Any], out: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from nasframe_bench import report as bench_report

    console = Console()
    print(bench_report.about(result))
    parts = [
        (bench_report.quality_rows(result), 1),
        (bench_report.waste_rows(result), 1),
        (bench_report.difference_rows(result), 2),
    ]
    for (header, *rows), left in parts:
        if not rows:
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for number, heading in enumerate(header):
            table.add_column(heading, justify="left" if number < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if out:
        print(f"page    {out / 'bench.html'}")
    sys.stdout.flush()
