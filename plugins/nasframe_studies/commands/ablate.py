"""``nasframe ablate``: run a study, or go on with one that was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nasframe_studies.file import Study


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
    resume: Annotated[Path | None, typer.Option(help="Go on with the study in this directory.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show arms, seeds and stages, what is cached, costs and time.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="NASFRAME_CACHE", help="Where results of stages are kept; default: ~/.cache/nasframe."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Make everything small: a test, numbers without meaning.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run every arm of a study with every seed, each distinct stage once, and compare the arms."""
    from nasframe.cli.run import quiet
    from nasframe.errors import UsageError
    from nasframe_studies.file import load_study

    quiet()
    if resume is not None:
        if study or overrides or out or dry_run or smoke:
            raise UsageError(
                "--resume goes on with a study as it is. Expected nothing beside it but --jobs and --json."
            )
        _finish(resume, jobs, json_)
        return
    if study is None:
        raise UsageError("no study. Expected 'nasframe ablate STUDY', or --resume STUDYDIR.")
    loaded = load_study(study, overrides or [], smoke)
    if dry_run:
        _show(loaded, cache, jobs or 1, json_)
        return
    from nasframe_studies.study import begin

    home = begin(loaded, out, cache, jobs or 1)
    print(f"{len(loaded.plans) * len(loaded.seeds)} runs in {home}", file=sys.stderr)
    _finish(home, None, json_)


def _finish(home: Path, jobs: int | None, as_json: bool) -> None:
    """Bring a study to its end and show what came out; exit 1 where a run failed or nothing can be compared."""
    from nasframe_studies.study import go_on

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        failures = go_on(home, jobs, say)
    except KeyboardInterrupt:
        print(f"nasframe: interrupted. Go on with: nasframe ablate --resume {home}", file=sys.stderr)
        raise typer.Exit(130) from None
    result = home / "study.json"
    if as_json:
        import json

        said = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        print(json.dumps({"directory": str(home), "failures": failures, "study": said}, indent=1))
    elif result.exists():
        from nasframe_studies.commands.compare import show
        from nasframe_studies.records import from_json

        show(from_json(result.read_text(encoding="utf-8")), with_notices=False)  # they were printed at the end
        print(f"report  {home / 'study.html'}", file=sys.stderr)
    if failures or not result.exists():
        raise typer.Exit(1)


def _show(study: Study, cache: Path | None, jobs: int, as_json: bool) -> None:
    import json

    from nasframe_studies.preview import preview
    from nasframe_studies.study import threads_of

    found = preview(study, cache, threads_of(jobs))
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from nasframe.report.tables import duration, human

    console = Console()
    many = bool(study.tasks)
    names = ["arm", *(["task"] if many else []), "stage", "what", "run", "shared", "cached", "time of one"]
    stages = Table(*names, box=None, header_style="bold")
    last: Any = None
    for row in found["stages"]:
        place = (row["arm"], row["task"])
        head = ["", ""] if place == last else list(place)
        numbers = [str(row[how] or "–") for how in ("run", "shared", "cached")]
        stages.add_row(*(head if many else head[:1]), row["name"], row["what"], *numbers, duration(row["seconds"]))
        last = place
    console.print(stages)
    told: set[str] = set()
    for arm in found["arms"]:
        text = "; ".join(
            f"{name} {human(row['smallest'])} to {human(row['largest'])} of {human(row['full'])}"
            for name, row in arm["costs"].items()
        )
        if text not in told:
            who = [other["arm"] for other in found["arms"] if other["costs"] == arm["costs"]]
            console.print(f"reachable ({', '.join(dict.fromkeys(who))}): {text}", markup=False, highlight=False)
        told.add(text)
    wrong = [(arm["arm"], limit) for arm in found["arms"] for limit in arm["limits"] if limit["reachable"] is False]
    for name, limit in wrong:
        text = f"{name}: {limit['cost']} {limit['text']} cannot be met, nearest {human(limit['nearest'])}"
        console.print(text, markup=False, highlight=False)
    text = (
        f"{found['runs']} runs, {found['stages_to_run']} stages to run; estimated time of one process after the other"
    )
    console.print(f"{text}: {duration(found['seconds'])}", highlight=False)
    if wrong:
        raise typer.Exit(3)
