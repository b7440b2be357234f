"""``nasframe tabulate``: a table of architectures with their scores and costs, from a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nasframe.terminal import tell


def tabulate(
    rundir: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    archs: Annotated[int, typer.Option(min=1, max=10**9, help="How many architectures.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .json or .csv file, continued if it was begun; default: stdout."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Score on this many examples of select.")
    ] = None,
    draw: Annotated[
        Literal["spread", "uniform"], typer.Option(help="Costs evenly spread, or knobs drawn uniformly.")
    ] = "spread",
    seed: Annotated[int, typer.Option(min=0, max=10**18, help="Draws the architectures.")] = 0,
    stage: Annotated[str | None, typer.Option(help="The search whose network is used; default: the last.")] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")] = False,
) -> None:
    """Score architectures through a finished run's super-network and write them with their costs."""
    from nasframe.cli.run import quiet
    from nasframe_bench.table_file import table_json
    from nasframe_bench.tabulate import tabulate as make

    quiet()
    shows_progress = False if no_progress else None  # None: on a terminal only
    table = make(
        rundir,
        archs,
        out=out,
        examples=examples,
        draw=draw,
        seed=seed,
        stage=stage,
        progress=shows_progress,
    )
    if out is None:
        print(table_json(table), end="")
        return
    line = f"{out}: {len(table.rows)} architectures"
    if len(table.rows) < archs:
        line += f", all that were found (not {archs})" if table.listed else f", all that the space has (not {archs})"
    tell(line)
