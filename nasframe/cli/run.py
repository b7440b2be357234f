"""``nasframe run``: run a recipe, or continue a run that was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe.running.runner import Run


def run(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's file, or the name of a packaged one.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides: key=value, +key=value, ~key.", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run directory; default: runs/<name>/<time>-<hash>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this directory.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show data, stages, reachable costs and estimated time.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="NASFRAME_CACHE", help="Take results of stages from this folder, and add new ones to it."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=10**18, help="The run's seed; the same as seed=N.")] = None,
    device: Annotated[
        str | None, typer.Option(envvar="NASFRAME_DEVICE", help="cpu, cuda or mps; default: a GPU if there is one.")
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a recipe from its first stage to the report."""
    from nasframe.errors import UsageError
    from nasframe.processes import choose_device

    choose_device(device)
    changes = list(overrides or [])
    if seed is not None:
        changes.append(f"seed={seed}")
    progress = False if no_progress else None  # None shows bars on a terminal only
    if resume is not None:
        if recipe or changes or out or dry_run:
            raise UsageError(
                "--resume continues a run as it is. Expected no other arguments with it than --device, --no-progress "
                "and --json."
            )
        _start(lambda runner: runner.resume(resume, progress=progress), json_)
        return
    if recipe is None:
        raise UsageError(
            "no recipe. Expected 'nasframe run RECIPE', or --resume RUNDIR; 'nasframe recipes' lists some."
        )
    # A misspelt option is reported before model and data are loaded.
    plan = _plan(recipe, changes)
    if dry_run:
        show_plan(plan, json_)
        return
    _start(lambda runner: runner.run(plan, out=out, progress=progress, cache=cache), json_)


def _plan(recipe: str, changes: list[str]) -> Plan:
    """Read and resolve a recipe.

    Raises:
        RecipeError: every problem of the text and of its meaning at once.
    """
    from nasframe.cli.files import require_recipe
    from nasframe.cli.left_out import why_unread
    from nasframe.errors import RecipeError, UsageError
    from nasframe.recipe.resolve import check_recipe

    require_recipe(recipe)
    plan, problems = check_recipe(recipe, changes)
    if plan is None:
        unread = why_unread(recipe)
        raise RecipeError(problems) if unread is None else UsageError(unread)
    return plan


def _start(begin: Callable[[ModuleType], Run], as_json: bool) -> None:
    """Begin or resume a run, and show its report.

    Args:
        begin: gets the module of runs, which takes long to import, and returns the finished run.
        as_json: print the report as JSON.
    """
    from nasframe.cli.report import show
    from nasframe.processes import leader
    from nasframe.running import runner

    quiet()
    # Caught here, and not in `main`, because the run's notes say how to continue it.
    try:
        finished = begin(runner)
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", ())
        tell("\n".join(["nasframe: interrupted.", *notes]))
        raise typer.Exit(130) from None
    if leader():
        show(finished.directory, as_json)


def quiet() -> None:
    """Keep the libraries' own bars and advice off the terminal, since our bars show how far a run is."""
    import os

    # Before the libraries are imported, which read these variables once. The user's own settings stay.

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def show_plan(plan: Plan, as_json: bool, with_data: bool = True) -> None:
    """Print what a run would do; exit with 3 if a bound cannot be met.

    Args:
        plan: what would be run.
        as_json: print JSON.
        with_data: show the table of the data, too, unless the caller has shown it.
    """
    import json

    from nasframe.running.dry_run import dry_run

    quiet()
    facts = dry_run(plan)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    _print_plan(facts, with_data)
    if any(limit["reachable"] is False for limit in facts["limits"]):
        raise typer.Exit(3)


def _print_plan(facts: Mapping[str, Any], with_data: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from nasframe.report.data_table import data_text
    from nasframe.report.tables import duration, human

    console = Console()
    for notice in facts["notices"]:
        console.print(f"{notice['place']}: {notice['text']}", markup=False, highlight=False)
    if with_data and facts["data"] is not None:
        print(data_text(facts["data"], console.width))
    stages = Table("stage", "verb", "what", "time", box=None, header_style="bold")
    for row in facts["stages"]:
        stages.add_row(row["name"], row["verb"], row["what"], duration(row["seconds"]))
    costs = Table("cost", "smallest", "largest", "full net", "unit", box=None, header_style="bold")
    for name, row in facts["costs"].items():
        costs.add_row(name, human(row["smallest"]), human(row["largest"]), human(row["full"]), row["unit"])
    console.print(stages, costs, sep="\n\n")
    for limit in facts["limits"]:
        if limit["reachable"] is None:
            verdict = "known when the search begins: it is measured, or a transform changes it"
        elif limit["reachable"]:
            verdict = "reachable"
        else:
            verdict = f"cannot be met, nearest {human(limit['nearest'])}"
        console.print(f"{limit['cost']} {limit['text']}: {verdict}", markup=False, highlight=False)
    console.print(f"estimated time: {duration(facts['seconds'])}", highlight=False)
