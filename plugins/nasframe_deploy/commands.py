"""``nasframe deploy``: models for new constraints from a finished run, in seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def deploy(
    rundir: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new directory for the models.")],
    constraints: Annotated[
        list[str] | None,
        typer.Argument(help="Bounds for every model: 'encoder_params<=60%'.", metavar="[COST<=VALUE]..."),
    ] = None,
    budgets: Annotated[
        list[str] | None, typer.Option(help="One model each: 'encoder_params=80%,60%,40%'; repeatable.")
    ] = None,
    search: Annotated[
        int | None, typer.Option("--search", min=1, max=10**6, help="Architectures to evaluate for each budget.")
    ] = None,
    no_search: Annotated[bool, typer.Option("--no-search", help="Use the run's archive alone.")] = False,
    mode: Annotated[str, typer.Option(help="The exporter: hetero, padded, stock or a plugin's.")] = "hetero",
    sampler: Annotated[
        str | None, typer.Option(help="The sampler of the search; default: the run's own, or evolution.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="The search to deploy from; default: the run's last.")] = None,
    device: Annotated[
        str | None, typer.Option(envvar="NASFRAME_DEVICE", help="cpu, cuda or mps; default: a GPU if there is one.")
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print deploy.json instead of the table.")] = False,
) -> None:
    """Write verified models for new constraints from a finished run; nothing is trained."""
    from nasframe.errors import UsageError

    if search is not None and no_search:
        raise UsageError("--search and --no-search contradict each other. Expected one of them.")
    from nasframe.cli.run import quiet
    from nasframe.processes import choose_device
    from nasframe_deploy.deploy import deploy as make

    choose_device(device)
    quiet()
    trials = 0 if no_search else search
    shows_progress = False if no_progress else None  # None: on a terminal only
    facts = make(
        rundir,
        constraints or [],
        out=out,
        budgets=budgets or [],
        search=trials,
        mode=mode,
        sampler=sampler,
        stage=stage,
        progress=shows_progress,
    )
    if json_:
        import json

        print(json.dumps(facts, indent=1))
        return
    _show(facts, out)


def _show(facts: dict[str, Any], out: Path) -> None:
    """Print the table of the models and where they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from nasframe.report.tables import duration
    from nasframe_deploy.deploy import rows

    header, lines = rows(facts)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in header:
        justify: Literal["left", "right"] = "left" if name == "model" else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    for model in facts["models"]:
        place = f"{model['name']:14} {out / model['path']}"
        if model["over_budget"]:
            place += f"  over budget: {model['over_budget']}"
        print(place)
    spent = duration(facts["seconds"]["total"])
    print(f"verified in a fresh process; {facts['evaluations']} evaluations, {spent} in all", file=sys.stderr)
