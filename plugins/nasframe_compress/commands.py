"""``nasframe compress`` and ``nasframe init``: from a model and a table to compared networks, or to their recipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nasframe.progress import Progress
    from nasframe_compress.prepare import Prepared
    from nasframe_compress.recommend import BudgetResult
    from nasframe_compress.request import Request
    from nasframe_compress.table import Ambiguous

Model = Annotated[str | None, typer.Argument(help="A directory, an id of the Hugging Face hub, or a registered model.")]
Data = Annotated[
    str | None,
    typer.Argument(help="A CSV, TSV, JSONL or Parquet file, a folder of tables or of GLUE's files, or a hub data set."),
]
Dev = Annotated[str | None, typer.Option(help="The table to report on; default: a fifth of the data is set aside.")]
Text = Annotated[list[str] | None, typer.Option(help="The column of the texts; twice for pairs. Default: guessed.")]
Label = Annotated[
    str | None,
    typer.Option(help="The column of the labels, or columns of 1 and 0 with commas between them. Default: guessed."),
]
Separator = Annotated[
    str | None, typer.Option(help="What stands between several labels of one column. Default: guessed.")
]
Task = Annotated[
    str,
    typer.Option(help="classification, regression, multi_label, or one of GLUE's tasks; auto decides by the labels."),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="One network each: '50%' of the encoder, 'latency<=12ms', or both: '50%,latency<=12ms'. Default: 50%.",
    ),
]
Methods = Annotated[str, typer.Option(help="Method recipes to compare, with commas between them.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.5, max=10**5, help="Wall time of everything; default: the recipes' own lengths.")
]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas; or how many: 'x3'.")]
Metric = Annotated[str | None, typer.Option(help="The primary metric; default: the task's, macro F1 for rare classes.")]
Positive = Annotated[str | None, typer.Option(help="The class that F1 describes.")]
Labels = Annotated[
    str | None, typer.Option(help="The classes in the order of the model's head, if its names do not say.")
]
NewHead = Annotated[bool, typer.Option("--new-head", help="Draw a new head, even if the model has one.")]
MaxLength = Annotated[
    int | None, typer.Option(min=1, max=10**6, help="Tokens after which texts are cut; default: 128.")
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A new folder for everything; default: compressed/DATA.")]


def init(
    model: Model = None,
    data: Data = None,
    out: Out = None,
    dev: Dev = None,
    text: Text = None,
    label: Label = None,
    separator: Separator = None,
    task: Task = "auto",
    budget: Budgets = None,
    methods: Methods = "yoco_bert",
    minutes: Minutes = None,
    seeds: Seeds = "0",
    metric: Metric = None,
    positive: Positive = None,
    labels: Labels = None,
    new_head: NewHead = False,
    max_length: MaxLength = None,
    no_progress: NoProgress = False,
) -> None:
    """Write the recipe or the study that 'nasframe compress' with the same arguments would run."""
    from nasframe.cli.run import quiet

    quiet()
    request = _request(
        model, data, dev, text, label, separator, task, budget, methods, minutes, seeds, metric, positive, labels,
        new_head, max_length,
    )  # fmt: skip
    prepared = _prepared(request, out, time.monotonic(), will_run=False, no_progress=no_progress)
    path = _written(prepared, no_progress)
    command = "ablate" if prepared.is_study else "run"
    print(f"written: {path}\nedit it, then: nasframe {command} {path}")


def compress(
    model: Model = None,
    data: Data = None,
    out: Out = None,
    dev: Dev = None,
    text: Text = None,
    label: Label = None,
    separator: Separator = None,
    task: Task = "auto",
    budget: Budgets = None,
    methods: Methods = "yoco_bert",
    minutes: Minutes = None,
    seeds: Seeds = "0",
    jobs: Annotated[int | None, typer.Option(min=1, max=1024, help="Processes of a comparison; default: 1.")] = None,
    metric: Metric = None,
    positive: Positive = None,
    labels: Labels = None,
    new_head: NewHead = False,
    max_length: MaxLength = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the compression in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show model, data, stages and the estimated time.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="NASFRAME_CACHE", help="Take results of stages from this folder, and add new ones to it."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(envvar="NASFRAME_DEVICE", help="cpu, cuda or mps; default: a GPU if there is one.")
    ] = None,
    no_progress: NoProgress = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the recommendations as JSON.")] = False,
) -> None:
    """Compress a model for a task: look at both, run one method or compare several, and say which network to ship."""
    from nasframe.cli.run import quiet
    from nasframe.errors import UsageError
    from nasframe.processes import choose_device
    from nasframe_compress.prepare import is_study

    began = time.monotonic()
    choose_device(device)
    quiet()
    if resume is not None:
        if model or data or out or budget or dry_run:
            raise UsageError(
                "--resume goes on with a compression as it is. Expected no other arguments with it than --jobs, "
                "--cache, --device, --no-progress and --json."
            )
        _finish(resume, cache, jobs, no_progress, json_)
        return
    request = _request(
        model, data, dev, text, label, separator, task, budget, methods, minutes, seeds, metric, positive, labels,
        new_head, max_length,
    )  # fmt: skip
    if jobs is not None and not is_study(request):
        raise UsageError("--jobs: one method with one seed is one process. Expected it with several of either.")
    if dry_run:
        _show_preview(_prepared(request, out, began, will_run=False, no_progress=no_progress))
        return
    folder = _begun(request, out, began, no_progress)
    _finish(folder, cache, jobs, no_progress, json_)


# ---- arguments


def _request(
    model: str | None,
    data: str | None,
    dev: str | None,
    text: Sequence[str] | None,
    label: str | None,
    separator: str | None,
    task: str,
    budget: Sequence[str] | None,
    methods: str,
    minutes: float | None,
    seeds: str,
    metric: str | None,
    positive: str | None,
    labels: str | None,
    new_head: bool,
    max_length: int | None,
) -> Request:
    """Read the arguments that both commands have.

    Raises:
        UsageError: an argument is missing or cannot be read.
    """
    from nasframe.errors import UsageError
    from nasframe_compress.request import Request, read_budgets

    if model is None or data is None:
        raise UsageError("no model or no data. Expected 'nasframe compress MODEL DATA', as in ./my-model reviews.csv.")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated or not names:
        raise UsageError(f"--methods {methods!r}: Expected different methods with commas between them.")
    return Request(
        model=model,
        data=data,
        dev=dev,
        text=tuple(text or ()),
        label=label,
        separator=separator,
        task=task,
        metric=metric,
        positive=positive,
        labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
        new_head=new_head,
        max_length=max_length,
        budgets=read_budgets(budget or ["50%"]),
        methods=tuple(names),
        minutes=minutes,
        seeds=_seeds(seeds),
    )


def _seeds(text: str) -> tuple[int, ...]:
    """Read seeds: ``0,1,2``, or how many, ``x3``."""
    from nasframe.errors import UsageError

    expected = "Expected seeds as in '0,1,2', or how many as in 'x3'."
    if text.startswith("x") and text[1:].isdecimal() and int(text[1:]) > 0:
        return tuple(range(int(text[1:])))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text!r}: not understood. {expected}")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r}: a seed stands twice. {expected}")
    return seeds


def _asker() -> Any:
    """Return the function that asks for columns, on a terminal only."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: Ambiguous) -> list[str]:
        from rich.console import Console
        from rich.prompt import Prompt

        console = Console(stderr=True)
        console.print(str(question), markup=False, highlight=False)
        answer = Prompt.ask(question.option, choices=list(question.choices), console=console)
        return [answer]

    return ask


def _prepared(request: Request, out: Path | None, began: float, will_run: bool, no_progress: bool) -> Prepared:
    """Look at model and data, show what they are, and fit the trainings to the time.

    Args:
        request: the request.
        out: the folder for everything; ``None`` is the default one.
        began: when the command began, by ``time.monotonic``.
        will_run: whether the recipe is run now.
        no_progress: show no bars.
    """
    from rich.console import Console

    from nasframe.progress import Progress
    from nasframe_compress.look import described
    from nasframe_compress.prepare import prepare, refuse_used

    default = Path("compressed") / (Path(request.data).stem or "data")
    folder = out or default
    refuse_used(folder)
    progress = Progress(False if no_progress else None)
    prepared = prepare(request, folder, _asker(), progress)
    console = Console(stderr=True)
    for line in described(prepared.look, console.width, with_notices=prepared.is_study or not will_run):
        console.print(line, markup=False, highlight=False, soft_wrap=False)
    if request.minutes is None:
        return prepared
    return _fitted(prepared, request.minutes * 60, began, console, progress)


def _begun(request: Request, out: Path | None, began: float, no_progress: bool) -> Path:
    """Write the files to run and return their folder; what was loaded for them is freed, because the run loads it."""
    prepared = _prepared(request, out, began, will_run=True, no_progress=no_progress)
    return _written(prepared, no_progress).parent


def _fitted(prepared: Prepared, seconds: float, began: float, console: Any, progress: Progress) -> Prepared:
    """Rehearse the methods, and let them train as long as the time allows."""
    from nasframe.report.tables import duration
    from nasframe_compress.timing import fit_lengths, rehearse, total_seconds

    times = []
    for method in prepared.methods:
        with progress.bar(f"rehearsing {method.name}"):
            times.append(rehearse(prepared, method))
    seeds = len(prepared.request.seeds)
    networks = len(prepared.request.budgets)
    spent = time.monotonic() - began
    lengths = fit_lengths(times, prepared.lengths, seconds, seeds, networks, spent)
    needed = total_seconds(times, lengths, seeds, networks)
    parts = []
    for time_of in times:
        epochs = sum(training.epochs for training in time_of.trainings) * lengths[time_of.method].method
        parts.append(f"{time_of.method} {epochs:.3g} epochs")
    console.print(
        f"time   {duration(spent)} so far; the rest is planned for {duration(needed)}: {', '.join(parts)}.",
        markup=False, highlight=False,
    )  # fmt: skip
    return replace(prepared, lengths=lengths)


def _written(prepared: Prepared, no_progress: bool) -> Path:
    """Write the recipe or the study, and say where and how long it will take."""
    from nasframe.progress import Progress
    from nasframe.report.tables import duration
    from nasframe_compress.prepare import write
    from nasframe_compress.timing import estimated_seconds

    path = write(prepared)
    if prepared.request.minutes is None:
        with Progress(False if no_progress else None).bar("timing a few steps"):
            seconds = estimated_seconds(prepared, path)
        print(f"time   about {duration(seconds)} on this machine, by a few timed steps", file=sys.stderr)
    print(f"place  {prepared.folder}", file=sys.stderr)
    return path


def _show_preview(prepared: Prepared) -> None:
    """Show what would run, from files that are removed again."""
    from nasframe_compress.prepare import drafted

    with drafted(prepared) as path:
        if prepared.is_study:
            from nasframe_studies.commands.ablate import show_preview
            from nasframe_studies.file import load_study
            from nasframe_studies.preview import preview

            show_preview(preview(load_study(str(path))), with_tasks=False, as_json=False)
        else:
            from nasframe.cli.run import show_plan
            from nasframe.recipe.loading import load_recipe
            from nasframe.recipe.resolve import resolve

            show_plan(resolve(load_recipe(path)), as_json=False)


# ---- the end


def _finish(folder: Path, cache: Path | None, jobs: int | None, no_progress: bool, as_json: bool) -> None:
    """Run what is not done, and show the recommendations."""
    import json

    from nasframe_compress.work import go_on, read_record

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    record = read_record(folder)
    try:
        results = go_on(record, cache=cache, jobs=jobs, progress=False if no_progress else None, say=say)
    except KeyboardInterrupt:
        print(f"nasframe: interrupted. Go on with: nasframe compress --resume {folder}", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        error.add_note(f"To go on: nasframe compress --resume {folder}")
        raise
    if as_json:
        print(json.dumps([result.plain() for result in results], indent=1))
    else:
        _show(folder, results)
    runs = len(record.targets) * len(record.request.seeds)
    if not all(result.ship is not None and result.networks == runs for result in results):
        raise typer.Exit(1)


def _show(folder: Path, results: Sequence[BudgetResult]) -> None:
    """Print the table of all networks, then which to ship and how the first is loaded."""
    from rich.console import Console

    from nasframe.report.read import read_run
    from nasframe_compress.show import sentences, table
    from nasframe_compress.work import model_folder
    from nasframe_deploy.ship import snippet_of

    console = Console()
    methods = [method for result in results for method in result.results]
    if not methods:
        console.print("No run is finished, so there is nothing to recommend.")
        return
    report = read_run(methods[0].best.place.directory)
    for result in results:
        console.print(table(result, report))
    for result in results:
        for line in sentences(result, report):
            console.print(line, markup=False, highlight=False)
    places = [model_folder(folder, result.ship.best.model) for result in results if result.ship is not None]
    for place in places:
        print(f"written: {place}")
    if places:
        print(f"\n{snippet_of(places[0])}")
