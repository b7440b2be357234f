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
    table: Annotated[Path, typer.Option(help="The table: JSON, CSV or Parquet.", show_default=False)],
    seeds: Annotated[int, typer.Option(min=1, max=10**6, help="Seeds, the same for all samplers.")] = 20,
    budget: Annotated[int, typer.Option(min=1, max=10**6, help="Evaluations of one search.")] = 300,
    cap: Annotated[
        list[str] | None, typer.Option(help="Bound that whatever is evaluated meets, 'flops<=50M'; repeatable.")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="What is maximised, 'accuracy,-flops'. Default: the first metric; without a cap also the first cost."
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
    from nasframe_bench import arena
    from nasframe_bench import report as bench_report
    from nasframe_bench.contest import made

    files = tuple(str(path.resolve()) for path in plugins or ())
    space = {"use": "table", "path": str(table), "missing": missing} | (
        {"columns": _mapping(columns)} if columns else {}
    )
    contest = made(space, objectives, cap or [], budget, reference, raw, files)
    uses = _uses(names, against)
    marks = _marks(at, budget)
    plays = arena.play_all(
        contest, uses, range(seeds), jobs=jobs, folder=out / "plays" if out else None, progress=Progress()
    )
    result = bench_report.summarise(arena.arena_of(contest), uses, plays, range(seeds), marks)
    if out:
        bench_report.write(result, out)
    if json_:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        _show(result, out)


def _uses(names: list[str], against: str) -> dict[str, dict[str, Any]]:
    """Return label → sampler; what is named comes first and once."""
    from nasframe_bench.contest import opponents, sampler_use

    others = {"default": opponents(), "none": []}.get(against, [text.strip() for text in against.split(";")])
    found = {name: sampler_use(name) for name in names}
    return found | {name: use for name in others if (use := sampler_use(name)) not in found.values()}


def _marks(at: str | None, budget: int) -> list[int]:
    from nasframe.errors import UsageError

    if at is None:
        return sorted({max(budget // 3, 1), budget})
    try:
        found = sorted({int(text) for text in at.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= budget:
        raise UsageError(f"--at {at}: expected numbers from 1 to the budget, {budget}, as in '100,300'.")
    return found


def _mapping(text: str) -> dict[str, str]:
    from nasframe.errors import UsageError
    from nasframe.recipe.yaml import Position, parse

    node, problems = parse(text, Position("--columns", 1, 1))
    found = node.plain() if node and not problems else None
    if not isinstance(found, dict):
        raise UsageError(f"--columns {text}: expected a mapping, as in '{{acc: metric.accuracy}}'.")
    return {str(key): str(value or "") for key, value in found.items()}


def _show(result: dict[str, Any], out: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from nasframe_bench import report as bench_report

    console = Console()
    print(bench_report.about(result))
    parts = ((bench_report.quality_rows, 1), (bench_report.waste_rows, 1), (bench_report.difference_rows, 2))
    for lines, left in ((part(result), left) for part, left in parts):
        if len(lines) > 1:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            for number, heading in enumerate(lines[0]):
                table.add_column(heading, justify="left" if number < left else "right", overflow="fold")
            for row in lines[1:]:
                table.add_row(*row)
            console.print(table)
    if out:
        print(f"page    {out / 'bench.html'}")
    sys.stdout.flush()
