"""``nasframe report``: write a run's report again and show its table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    rundir: Annotated[Path, typer.Argument(help="The directory of a run, finished or not.")],
    json_: Annotated[bool, typer.Option("--json", help="Print report.json instead of the table.")] = False,
) -> None:
    """Write report.html, .md and .json with the figures again, and show the table."""
    from nasframe.errors import UsageError

    if not (rundir / "run.db").is_file():
        raise UsageError(f"{rundir}: there is no run. Expected a run directory, with run.db in it.")
    from nasframe.report.page import build

    build(rundir)
    show(rundir, json_)


def show(rundir: Path, as_json: bool) -> None:
    """Print the table of a run's report, and the paths of its files."""
    text = (rundir / "report.json").read_text(encoding="utf-8")
    if as_json:
        print(text, end="")
        return
    from rich.console import Console

    from nasframe.report.read import read_run
    from nasframe.report.tables import summary_table

    console = Console()
    console.print(summary_table(read_run(rundir, examples=False), console.width))
    lines = [("report", rundir / "report.html"), ("models", rundir / "models")]
    lines += [("figure", path) for path in sorted((rundir / "figures").glob("pareto*.png"))]
    for name, path in lines:
        if path.exists():
            print(f"{name:8}{path}")
    sys.stdout.flush()  # now, so that a reader who went away is noticed here and not at exit
