"""``nasframe deploy`` and ``nasframe export``: models for new constraints, or any model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from nasframe_deploy.ship import WrittenModel


def deploy(
    rundir: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new directory for the models.")],
    constraints: Annotated[
        list[str] | None,
        typer.Argument(help="Bounds for every model: 'encoder_params<=60%'.", metavar="[COST<=VALUE]..."),
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(help="One model each: 'encoder_params=80%,60%'; or within all: 'params<=4M,macs<=1G'."),
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
    from rich.console import Console

    from nasframe.report.tables import duration, fitted
    from nasframe_deploy.deploy import costs_of, rows

    def drawn(costs: Sequence[str]) -> Table:
        return _table(*rows(facts, costs))

    console = Console()
    asked = " ".join(model["asked"] for model in facts["models"]).split()
    console.print(fitted(drawn, costs_of(facts), asked, console.width))
    for model in facts["models"]:
        place = f"{model['name']:14} {out / model['path']}"
        if model["over_budget"]:
            place += f"  over budget: {model['over_budget']}"
        print(place)
    spent = duration(facts["seconds"]["total"])
    tell(f"verified in a fresh process; {facts['evaluations']} evaluations, {spent} in all")


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal. In a narrow one lines break between words, never within one."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(header):
        justify: Literal["left", "right"] = "left" if name == "model" else "right"
        words = " ".join([name, *(line[number] for line in lines)]).split()
        table.add_column(name, justify=justify, overflow="fold", min_width=max(map(len, words)))
    for line in lines:
        table.add_row(*line)
    return table


def export(
    place: Annotated[Path, typer.Argument(metavar="RUN_OR_STUDY", help="The directory of a run or of a study.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Names or patterns of models; default: those that its report recommends."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for the models; default: RUN_OR_STUDY/exported.")
    ] = None,
    mode: Annotated[str, typer.Option(help="The exporter: hetero, padded, stock or a plugin's.")] = "hetero",
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Push to the Hugging Face hub with your own login, as me/my-model."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; default: private.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite models that lie there already.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write any model of a run or study for other programs, verified; nothing is trained."""
    from nasframe.cli.run import quiet
    from nasframe.errors import UsageError
    from nasframe_deploy.push import refuse_unpushable
    from nasframe_deploy.ship import as_json, export_models

    if public and push is None:
        raise UsageError("--public says who may see a repository. Expected --push REPO with it.")
    if push is not None:
        refuse_unpushable(push)
    quiet()
    written = export_models(place, models or [], out=out, mode=mode, replace=replace, say=tell)
    if json_:
        print(as_json(written))
    else:
        _show_written(written)
    if push is not None:
        _push(written, push, public)


def _show_written(written: Sequence[WrittenModel]) -> None:
    """Print where the models are, how large they are, and how the first one is loaded."""
    from nasframe.report.tables import size

    for model in written:
        print(f"{model.name}")
        print(f"  {model.directory}")
        print(f"  {model.mode}, {size(model.bytes)}, verified in a fresh process")
    if written and written[0].snippet:
        print()
        print(written[0].snippet)


def _push(written: Sequence[WrittenModel], repo: str, public: bool) -> None:
    from nasframe_deploy.push import push, repositories

    folders = [Path(model.directory).name for model in written]
    for model, target in zip(written, repositories(repo, folders), strict=True):
        address = push(Path(model.directory), target, public)
        tell(f"{model.name}: pushed to {address}")
