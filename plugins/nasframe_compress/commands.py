"""``nasframe compress`` and ``nasframe init``: from a model and a table to compared networks, or to their recipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe.progress import Progress
    from nasframe_compress.prepare import Prepared, Settings
    from nasframe_compress.recommend import BudgetResult
    from nasframe_compress.request import Request
    from nasframe_compress.table import Ambiguous
    from nasframe_compress.timing import Fit, MethodTime

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
    from nasframe_compress.prepare import Settings

    quiet()
    request = _request(
        model, data, dev, text, label, separator, task, budget, methods, minutes, seeds, metric, positive, labels,
        new_head, max_length,
    )  # fmt: skip
    prepared = _prepared(request, out, time.monotonic(), will_run=False, no_progress=no_progress)
    path = _written(prepared, Settings(), no_progress)
    command = "ablate" if prepared.is_study else "run"
    print(f"written: {path}\nedit it, then: nasframe {command} {path}")


WITH_RESUME = ("resume", "jobs", "cache", "device", "no_progress", "json_")
"""Parameters that may be given with --resume: what is made is written in the folder."""


def compress(
    context: typer.Context,
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
    from nasframe_compress.prepare import Settings, is_study

    began = time.monotonic()
    if resume is None:
        choose_device(device)
    quiet()
    if resume is not None:
        _refuse_with_resume(context)
        _finish(resume, Settings(_plain_path(cache), jobs, device), no_progress, json_)
        return
    request = _request(
        model, data, dev, text, label, separator, task, budget, methods, minutes, seeds, metric, positive, labels,
        new_head, max_length,
    )  # fmt: skip
    if jobs is not None and not is_study(request):
        raise UsageError("--jobs: one method with one seed is one process. Expected it with several of either.")
    if dry_run:
        _show_preview(_prepared(request, out, began, will_run=True, no_progress=no_progress))
        return
    settings = Settings(_plain_path(cache), jobs, device)
    _begin(request, out, began, settings, no_progress)
    _finish(_folder(request, out), settings, no_progress, json_)


# ---- arguments


def _refuse_with_resume(context: typer.Context) -> None:
    """Refuse what would have no effect with ``--resume``.

    Raises:
        UsageError: such an argument is given; names it.
    """
    from nasframe.errors import UsageError

    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE" or parameter.name in WITH_RESUME:
            continue
        is_option = parameter.param_type_name == "option"
        given.append(parameter.opts[0] if is_option else str(parameter.name).upper())
    if given:
        raise UsageError(
            f"{', '.join(given)}: --resume goes on with a compression as it is. Expected no other arguments with it "
            "than --jobs, --cache, --device, --no-progress and --json."
        )


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
        will_run: whether the recipe is run now, or previewed: either says what model and task decide by themselves.
        no_progress: show no bars.
    """
    from rich.console import Console

    from nasframe.progress import Progress
    from nasframe.storage import refuse_unwritable
    from nasframe_compress.look import described
    from nasframe_compress.prepare import prepare, refuse_used

    folder = _folder(request, out)
    refuse_unwritable(folder)
    refuse_used(folder)
    progress = Progress(False if no_progress else None)
    prepared = prepare(request, folder, _asker(), progress)
    console = Console(stderr=True)
    for line in described(prepared.look, console.width, with_notices=prepared.is_study or not will_run):
        console.print(line, markup=False, highlight=False, soft_wrap=False)
    if request.minutes is None:
        return prepared
    return _fitted(prepared, request.minutes * 60, began, console, progress)


def _folder(request: Request, out: Path | None) -> Path:
    """Return the folder for everything."""
    return out or Path("compressed") / (Path(request.data).stem or "data")


def _plain_path(path: Path | None) -> str | None:
    """Return a path that means the same in any folder, as text."""
    return None if path is None else str(path.expanduser().absolute())


def _begin(request: Request, out: Path | None, began: float, settings: Settings, no_progress: bool) -> None:
    """Write the files to run; what was loaded for them is freed, because the run loads it."""
    from nasframe_compress.prepare import RECORD, resume_command

    folder = _folder(request, out)
    is_ours = not folder.exists()
    try:
        prepared = _prepared(request, out, began, will_run=True, no_progress=no_progress)
        _written(prepared, settings, no_progress)
    except KeyboardInterrupt:
        advice = "Nothing was begun: the same command begins again."
        if is_ours and (folder / RECORD).is_file():
            advice = f"Go on with: {resume_command(folder)}"
        tell(f"nasframe: interrupted. {advice}")
        raise typer.Exit(130) from None


def _fitted(prepared: Prepared, seconds: float, began: float, console: Any, progress: Progress) -> Prepared:
    """Rehearse the methods, and let them train, and be measured, as long as the time allows."""
    from nasframe_compress.prepare import fitted
    from nasframe_compress.rehearsal import rehearse_all
    from nasframe_compress.timing import Surroundings, fit, sizes_of

    def clock() -> float:
        return time.monotonic() - began

    times = []
    estimated = []
    rehearsal_began = time.monotonic()
    computed = time.process_time()
    rehearsals = rehearse_all(prepared, seconds, clock)
    for method in prepared.methods:
        with progress.bar(f"rehearsing {method.name}"):
            time_of, is_rehearsed = next(rehearsals)
        times.append(time_of)
        if not is_rehearsed:
            estimated.append(method.name)
    # Other programs on the machine slow down whatever is not rehearsed as well.
    waited = time.monotonic() - rehearsal_began
    slowdown = max(1.0, waited / max(time.process_time() - computed, 1e-9))
    around = Surroundings(
        seeds=len(prepared.request.seeds),
        networks=len(prepared.request.budgets),
        start=prepared.look.load_seconds,
        once=prepared.look.import_seconds if prepared.is_study else 0.0,
        slowdown=slowdown,
    )
    spent = clock()
    found = fit(times, prepared.lengths, seconds, around, sizes_of(prepared), spent)
    changed = fitted(prepared, found.lengths, found.effort)
    for line in fit_lines(times, found, changed, spent, estimated):
        console.print(line, markup=False, highlight=False)
    return changed


def fit_lines(
    times: Sequence[MethodTime], found: Fit, changed: Prepared, spent: float, estimated: Sequence[str]
) -> list[str]:
    """Say what was fitted to the time.

    Args:
        times: of each method.
        found: what fits.
        changed: the request with it.
        spent: seconds that have passed.
        estimated: the methods that there was no time to rehearse.
    """
    from nasframe.report.tables import duration
    from nasframe_compress.compose import FULL

    parts = []
    for time_of in times:
        epochs = sum(training.epochs for training in time_of.trainings) * found.lengths[time_of.method].method
        parts.append(f"{time_of.method} {epochs:.3g} epochs")
    lines = [f"time   {duration(spent)} so far; the rest is planned for {duration(found.seconds)}: {', '.join(parts)}."]
    if estimated:
        lines.append(f"       There was no time to rehearse {', '.join(estimated)}: worked out from {times[0].method}.")
    if found.effort == FULL:
        return lines
    cuts = []
    task = changed.setup.task
    if found.effort.select < 1:
        cuts.append(f"choices are made on {task['select']} examples")
    if found.effort.dev < 1:
        cuts.append(f"reports on {task['dev_share']}")
    trials = [time_of.evaluations.trials for time_of in times]
    if any(found.effort.trials_of(count) < count for count in trials):
        fewer = ", ".join(str(found.effort.trials_of(count)) for count in trials if count)
        cuts.append(f"searches evaluate {fewer} networks")
    if found.effort.probes < 1:
        cuts.append(f"importance is measured on {found.effort.probes:.0%} of the batches")
    lines.append(f"       For want of time, {'; '.join(cuts)}.")
    return lines


def _written(prepared: Prepared, settings: Settings, no_progress: bool) -> Path:
    """Write the recipe or the study, and say where and how long it will take."""
    from nasframe.progress import Progress
    from nasframe.report.tables import duration
    from nasframe_compress.prepare import write
    from nasframe_compress.timing import estimated_seconds

    path = write(prepared, settings)
    if prepared.request.minutes is None:
        with Progress(False if no_progress else None).bar("timing a few steps"):
            seconds = estimated_seconds(prepared, path)
        tell(f"time   about {duration(seconds)} to train and measure on this machine, by a few timed steps;")
        tell("       then a fresh process verifies what is shipped")
    tell(f"place  {prepared.folder}")
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

            show_plan(resolve(load_recipe(path)), as_json=False, with_data=False)


# ---- the end


def _finish(folder: Path, settings: Settings, no_progress: bool, as_json: bool) -> None:
    """Run what is not done, and show the recommendations.

    Args:
        folder: of the compression.
        settings: how to run it; what they leave open is as it was begun.
        no_progress: show no bars.
        as_json: print JSON.
    """
    import json

    from nasframe.processes import choose_device
    from nasframe_compress.prepare import resume_command
    from nasframe_compress.work import RUN, RUNS, advise, go_on, read_record

    record = read_record(folder)
    choose_device(settings.device or record.settings.device)
    cache = settings.cache or record.settings.cache
    try:
        results = go_on(
            record,
            cache=None if cache is None else Path(cache),
            jobs=settings.jobs or record.settings.jobs,
            progress=False if no_progress else None,
            say=tell,
        )
    except KeyboardInterrupt:
        tell(f"nasframe: interrupted. Go on with: {resume_command(folder)}")
        raise typer.Exit(130) from None
    except Exception as error:
        advise(record, error)
        raise
    if as_json:
        print(json.dumps([result.plain() for result in results], indent=1))
    else:
        _show(folder, folder / (RUNS if record.is_study else RUN), results)
    runs = len(record.targets) * len(record.request.seeds)
    if not all(result.ship is not None and result.networks == runs for result in results):
        raise typer.Exit(1)


def _show(folder: Path, runs: Path, results: Sequence[BudgetResult]) -> None:
    """Print the table of all networks, then which to ship, how the first is loaded, and how others are written.

    Args:
        folder: of the compression.
        runs: its run or study.
        results: of each budget.
    """
    from rich.console import Console

    from nasframe.errors import in_shell
    from nasframe_compress.recommend import doubt_on, note_on
    from nasframe_compress.show import table
    from nasframe_compress.work import model_folder
    from nasframe_deploy.ship import snippet_of

    console = Console()
    if not any(result.results for result in results):
        console.print("No run is finished, so there is nothing to recommend.")
        return
    for result in results:
        if result.report is not None:
            console.print(table(result, result.report, console.width))
    for result in results:
        for line in result.sentences():
            console.print(line, markup=False, highlight=False)
    doubt = doubt_on(results)
    if doubt:
        console.print(doubt, markup=False, highlight=False)
    note = note_on(results)
    if note is not None:
        console.print(note, markup=False, highlight=False)
    places = [model_folder(folder, result.ship.best.model) for result in results if result.ship is not None]
    for place in places:
        print(f"written: {place}")
    if places:
        print(f"\n{snippet_of(places[0])}")
    # On the error stream, as of studies: the networks that are recommended are written already, this is for others.
    page = runs / ("report.html" if (runs / "report.html").is_file() else "study.html")
    tell(f"report  {page}")
    tell(f"export  nasframe export {in_shell(runs)} MODEL  (any other network)")
