"""``nasframe bench sampler``: compare samplers on a table of architectures, paired over seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe_bench.arena import Arena
    from nasframe_bench.records import Result

app = typer.Typer(help="Compare plugins offline.", no_args_is_help=True)


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
    from nasframe.declarations import remark_on_random_start
    from nasframe.progress import Progress
    from nasframe.storage import refuse_unwritable
    from nasframe_bench import arena
    from nasframe_bench import report as bench_report
    from nasframe_bench.contest import made
    from nasframe_bench.records import result_text

    # Every mistake in the words of the command line is found before the first play.
    files = tuple(str(path.resolve()) for path in plugins or ())  # other processes may have another current folder
    space: dict[str, Any] = {"use": "table", "path": str(table), "missing": missing}
    if out:
        refuse_unwritable(out)
    if columns:
        space["columns"] = _mapping(columns)
    contest = made(space, objectives, cap or [], budget, reference, raw, files)
    uses = _uses(names, against, arena.arena_of(contest))
    marks = _marks(at, budget)
    for name, use in uses.items():
        remark = remark_on_random_start(use, budget)
        if remark is not None:
            tell(f"nasframe: {name}: {remark}")

    folder = None
    if out:
        folder = out / "plays"
    plays = arena.play_all(contest, uses, range(seeds), jobs=jobs, folder=folder, progress=Progress())
    result = bench_report.summarise(arena.arena_of(contest), uses, plays, range(seeds), marks)
    if out:
        bench_report.write(result, out)
    if json_:
        print(result_text(result))
    else:
        _show(result, out)


def _uses(names: list[str], against: str, arena: Arena) -> dict[str, dict[str, Any]]:
    """Return label → sampler: the named samplers, then opponents that are not among them."""
    from nasframe_bench.contest import opponents, sampler_use

    if against == "default":
        available = opponents(arena.space.domain, arena.refusal)
        others = available.names
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in available.left_out.items():
            names_by_reason.setdefault(reason, []).append(name)
        for reason, left_out in names_by_reason.items():
            tell(f"nasframe: left out: {', '.join(left_out)}: {reason}")
    elif against == "none":
        others = []
    else:
        others = [text.strip() for text in against.split(";")]  # commas separate the options of one sampler
    named = {name: sampler_use(name) for name in names}
    uses = dict(named)
    for name in others:
        use = sampler_use(name)
        if use not in named.values():  # the same sampler may be written in two ways
            uses[name] = use
    return uses


def _marks(at: str | None, budget: int) -> list[int]:
    """Return the numbers of evaluations at which samplers are compared; by default, early and at the end."""
    from nasframe.errors import UsageError

    if at is None:
        early = max(budget // 3, 1)
        return sorted({early, budget})
    try:
        marks = sorted({int(text) for text in at.split(",")})
    except ValueError:
        marks = []
    if not marks or marks[0] < 1 or marks[-1] > budget:
        raise UsageError(f"--at {at}: expected numbers from 1 to the budget, {budget}, as in '100,300'.")
    return marks


def _mapping(text: str) -> dict[str, str]:
    """Read the option ``--columns``: column → name; a column with an empty name is left out."""
    from nasframe.errors import UsageError
    from nasframe.recipe.yaml import Position, parse

    node, problems = parse(text, Position("--columns", 1, 1))
    columns = None
    if node and not problems:
        columns = node.plain()
    if not isinstance(columns, dict):
        raise UsageError(f"--columns {text}: expected a mapping, as in '{{acc: metric.accuracy}}'.")
    return {str(column): str(name or "") for column, name in columns.items()}


def _show(result: Result, out: Path | None) -> None:
    """Print the tables of a result, and where its page is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from nasframe_bench import report as bench_report

    console = Console()
    print(bench_report.about(result))
    tables = [
        (bench_report.quality_rows(result), 1),
        (bench_report.waste_rows(result), 1),
        (bench_report.difference_rows(result), 2),
    ]
    for (header, *rows), words in tables:
        if not rows:  # nothing to compare with
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for number, heading in enumerate(header):
            # The first columns are words, all others are numbers.
            table.add_column(heading, justify="left" if number < words else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if out:
        print(f"page    {out / 'bench.html'}")
    sys.stdout.flush()
