"""``nasframe ablate``: run a study, or go on with one that was stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from rich.padding import Padding
    from rich.table import Table

    from nasframe_studies.extension import Extension
    from nasframe_studies.preview import Preview


def ablate(
    study: Annotated[str | None, typer.Argument(help="A study's file, or the name of a packaged one.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides of the study (seeds=[0,1]), or of the recipe below every arm (task.path=...).",
            metavar="[KEY=VALUE]...",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The study's directory; default: runs/<study>/<time>.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Processes, which share the CPU threads; default: 1."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the study in this directory; overrides add arms, tasks and seeds to it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show arms, seeds and stages, what is there already, costs and time.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="NASFRAME_CACHE", help="Where results of stages are kept; default: ~/.cache/nasframe."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(envvar="NASFRAME_DEVICE", help="cpu, cuda or mps; default: a GPU if there is one.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Make everything small: a test, numbers without meaning.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run every arm of a study with every seed, each distinct stage once, and compare the arms."""
    from nasframe.cli.run import quiet
    from nasframe.errors import UsageError
    from nasframe.processes import choose_device
    from nasframe_studies.file import load_study

    choose_device(device)
    quiet()
    if resume is not None:
        # The study's directory says where it is and how large: these would change nothing.
        if out or smoke:
            raise UsageError(
                "--resume goes on with a study. Expected no other options with it than --device, --dry-run, --jobs "
                "and --json."
            )
        words = [study] if study is not None else []  # with --resume no study is named: the first word is an override
        _resume(resume, [*words, *(overrides or [])], jobs, dry_run, json_)
        return
    if study is None:
        raise UsageError("no study. Expected 'nasframe ablate STUDY', or --resume STUDYDIR.")
    loaded = load_study(study, overrides or [], smoke)
    if dry_run:
        from nasframe_studies.preview import preview
        from nasframe_studies.study import threads_of

        plan = preview(loaded, cache, threads_of(jobs or 1))
        show_preview(plan, bool(loaded.tasks), json_)
        return
    from nasframe_studies.study import begin

    home = begin(loaded, out, cache, jobs or 1)
    runs = len(loaded.plans) * len(loaded.seeds)
    tell(f"{runs} runs in {home}")
    _finish(home, None, json_)  # with the jobs that it began with


def _resume(home: Path, overrides: list[str], jobs: int | None, dry_run: bool, as_json: bool) -> None:
    """Go on with a study, after overrides have added to it."""
    if dry_run:
        from nasframe_studies.extension import extended, preview_extension

        extension = extended(home, overrides)
        _show_remarks(extension)
        show_preview(preview_extension(home, extension), bool(extension.study.tasks), as_json)
        return
    if overrides:
        from nasframe_studies.extension import extend

        extension = extend(home, overrides)
        _show_remarks(extension)
        tell(f"{len(extension.new)} new runs, {len(extension.kept)} kept, in {home}")
    _finish(home, jobs, as_json)


def _show_remarks(extension: Extension) -> None:
    for line in extension.remarks:
        tell(line)


def _finish(home: Path, jobs: int | None, as_json: bool) -> None:
    """Bring a study to its end and show the result; exit 1 if a run failed or there is nothing to compare."""
    import json

    from nasframe.errors import in_shell
    from nasframe_studies.commands.compare import say_export, show
    from nasframe_studies.records import from_json
    from nasframe_studies.study import go_on

    # Progress goes to the error stream, so that --json leaves nothing but JSON on the other.
    try:
        failures = go_on(home, jobs, tell)
    except KeyboardInterrupt:
        tell(f"nasframe: interrupted. Go on with: nasframe ablate --resume {in_shell(home)}")
        raise typer.Exit(130) from None  # as shells report a process that Ctrl-C ended
    # The file is missing if the runs left nothing to compare, which go_on has said already.
    path = home / "study.json"
    text = path.read_text(encoding="utf-8") if path.exists() else "{}"
    report = json.loads(text)
    if as_json:
        failed = [failure.plain() for failure in failures]
        print(json.dumps({"directory": str(home), "failures": failed, "study": report}, indent=1))
    elif report:
        show(from_json(text), with_notices=False)  # they were printed at the end
        tell(f"report  {home / 'study.html'}")
        say_export(from_json(text), home)
    if failures or not report:
        raise typer.Exit(1)


def show_preview(plan: Preview, with_tasks: bool, as_json: bool) -> None:
    """Print what a study would do; exit 3 if a bound cannot be met."""
    import json

    from nasframe.errors import UnsatisfiableError

    if as_json:
        print(json.dumps(plan.plain(), indent=1))
        return
    from rich.console import Console

    from nasframe.report.tables import duration

    console = Console()
    if console.width >= WIDE:
        console.print(_stage_table(plan, with_tasks))
    else:
        for line in _stage_lines(plan, with_tasks):
            console.print(line, markup=False, highlight=False)
    for line in _reachable_costs(plan):
        console.print(line, markup=False, highlight=False)
    unmet = _unmet_bounds(plan)
    for line in unmet:
        console.print(line, markup=False, highlight=False)
    for line in _kept_and_new(plan, with_tasks):
        console.print(line, markup=False, highlight=False)
    counts = f"{plan.runs} runs, {plan.stages_to_run} stages to run"
    # Several processes share the CPU threads, so that dividing by their number would promise too much.
    console.print(f"{counts}; estimated time in one process: {duration(plan.seconds)}", highlight=False)
    if unmet:
        raise typer.Exit(UnsatisfiableError.exit_code)


WIDE = 90
"""Columns of a terminal from which on stages are shown as a table; on fewer its cells would be cut to bits."""


def _stage_lines(plan: Preview, with_tasks: bool) -> Iterator[Padding | str]:
    """Yield all stages line by line, below their arm and task, for a narrow terminal."""
    from rich.padding import Padding
    from rich.text import Text

    from nasframe.report.tables import duration

    columns = ["run", "shared", "cached"]
    if plan.resumed:
        columns.insert(0, "kept")
    last_place = ""
    for stage in plan.stages:
        place = f"{stage.arm} on {stage.task}" if with_tasks else stage.arm
        if place != last_place:
            yield place
        last_place = place
        counts = []
        for column in columns:
            count = getattr(stage, column)
            if count:
                counts.append(f"{count} {COUNTED[column]}")
        line = f"{stage.name}: {stage.what}; {', '.join(counts) or 'none'}, {duration(stage.seconds)} each"
        yield Padding(Text(line), (0, 0, 0, 2))


COUNTED = {"kept": "kept", "run": "to run", "shared": "shared", "cached": "cached"}
"""What the counts of a stage are called in a line."""


def _stage_table(plan: Preview, with_tasks: bool) -> Table:
    """Return a table of all stages; arm and task are shown with their first stage only."""
    from rich.table import Table

    from nasframe.report.tables import duration

    place_heading = ["arm"]
    if with_tasks:
        place_heading.append("task")
    columns = ["run", "shared", "cached"]
    if plan.resumed:
        columns.insert(0, "kept")
    heading = [*place_heading, "stage", "what", *columns, "time of one"]
    table = Table(*heading, box=None, header_style="bold")
    last_place: list[str] = []
    for stage in plan.stages:
        place = [stage.arm]
        if with_tasks:
            place.append(stage.task)
        # A place once and not at each stage: where one arm ends and the next begins is then seen at once.
        shown_place = place
        if place == last_place:
            shown_place = [""] * len(place)
        counts = [str(getattr(stage, column) or "–") for column in columns]
        table.add_row(*shown_place, stage.name, stage.what, *counts, duration(stage.seconds))
        last_place = place
    return table


def _kept_and_new(plan: Preview, with_tasks: bool) -> list[str]:
    """Return a line for the runs that a study has and one for those that it gets; none for a new study."""
    from nasframe_studies.grouping import distinct_by
    from nasframe_studies.wording import plural

    if not plan.resumed:
        return []
    counts = Counter(run.state for run in plan.resumed)
    kept = counts["finished"] + counts["unfinished"]
    new_seeds: list[tuple[str, str]] = []
    for run in plan.resumed:
        if run.state == "new":
            place = f"{run.arm} on {run.task}" if with_tasks else run.arm
            new_seeds.append((place, str(run.seed)))
    places = []
    for place, seeds in distinct_by(new_seeds).items():
        places.append(f"{place}: {plural('seed', len(seeds))} {', '.join(seeds)}")
    new = "no runs"
    if places:
        new = f"{counts['new']} runs ({'; '.join(places)})"
    return [f"kept: {kept} runs, {counts['finished']} of them finished", f"new: {new}"]


def _reachable_costs(plan: Preview) -> list[str]:
    """Return a line for each range of costs, with all arms that have it."""
    from nasframe.report.tables import human
    from nasframe_studies.grouping import distinct_by

    ranges_of: list[tuple[str, str]] = []
    for arm in plan.arms:
        ranges = []
        for name, cost in arm.costs.items():
            smallest = human(cost["smallest"])
            largest = human(cost["largest"])
            full = human(cost["full"])
            ranges.append(f"{name} {smallest} to {largest} of {full}")
        ranges_of.append(("; ".join(ranges), arm.arm))
    # Most arms share a space, so that a line each would repeat itself.
    arms_of = distinct_by(ranges_of)
    return [f"reachable ({', '.join(arms)}): {ranges}" for ranges, arms in arms_of.items()]


def _unmet_bounds(plan: Preview) -> list[str]:
    """Return a line for each bound that no architecture meets."""
    from nasframe.report.tables import human

    lines = []
    for arm in plan.arms:
        for limit in arm.limits:
            if limit["reachable"] is False:  # None: it shows in the run only
                bound = f"{limit['cost']} {limit['text']}"
                lines.append(f"{arm.arm}: {bound} cannot be met, nearest {human(limit['nearest'])}")
    return lines
