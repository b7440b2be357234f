"""``nasframe compare``: compare runs that exist, paired by seed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe_studies.records import Comparison


def compare(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN", help="Run directories, folders of runs, or a study's directory; NAME=RUN names its arm."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="RUN|ARM", help="The reference; default: the study's, else the first arm.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare; default: each task's primary metric.")] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="dev|select|train", help="Whose scores to compare; default: the study's, else dev."),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--models", help="Patterns of models to compare; default: budget by budget.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATTERN", help="Compare the models of all matching tasks under one name; may be repeated."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="task|page", help="Holm's adjustment over each task's comparisons, or over all of the page."
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Whose runs count if several are the same arm, task and seed."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print study.json instead of the tables.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the tables flat, as CSV.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX tables (booktabs).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write study.html, .json, .csv, .md, .tex and figures/ there.")
    ] = None,
) -> None:
    """Compare runs paired by seed, and say what cannot be concluded."""
    from nasframe.errors import UsageError
    from nasframe.storage import refuse_unwritable
    from nasframe_studies.compare import analyse

    if out is not None:
        refuse_unwritable(out)
    switches = {"json": json_, "csv": csv, "latex": latex, "markdown": markdown}
    forms = [form for form, is_on in switches.items() if is_on]
    if len(forms) > 1:
        raise UsageError("--json, --csv, --latex, --markdown: expected one of them.")
    # Only now, since these imports take longer than telling of a mistake.
    from nasframe_studies import report as study_report
    from nasframe_studies.runs import as_study

    frame, settings = as_study(places, against, metric, models, split, _groups(group or []), family, prefer)
    # The places of the runs are absolute, so any directory will do to read them from.
    if out is None:
        report = analyse(Path(), frame, settings)
    else:
        out.mkdir(parents=True, exist_ok=True)
        report = study_report.write(out, frame, settings)
    show(report, forms[0] if forms else "")
    if out is not None:
        tell(f"report  {out / 'study.html'}")
    if not forms:
        say_export(report)


def _groups(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read ``NAME=PATTERN`` options as name → patterns."""
    from nasframe.errors import UsageError

    groups: dict[str, list[str]] = {}
    for text in texts:
        name, _, pattern = text.partition("=")
        if not name or not pattern:
            raise UsageError(f"--group: {text!r} does not fit. Expected NAME=PATTERN, as in '50%=*-50%'.")
        groups.setdefault(name, []).append(pattern)  # the same name again adds a pattern to its group
    return groups


def say_export(report: Comparison, study: Path | None = None) -> None:
    """Name the command that writes the recommended models for other programs, on the error stream.

    Args:
        report: the comparison.
        study: the study's directory, which is enough for the command; runs of no study are named one by one.
    """
    from nasframe.errors import in_shell

    if not report.shipped:
        return
    if study is not None:
        tell(f"export  nasframe export {in_shell(study)}")
        return
    models: dict[str, list[str]] = {}
    for entry in report.shipped:
        models.setdefault(entry.run, []).append(entry.model)
    for run, names in models.items():
        words = [in_shell(word) for word in (run, *dict.fromkeys(names))]
        tell(f"export  nasframe export {' '.join(words)}")


def show(report: Comparison, form: str = "", with_notices: bool = True) -> None:
    """Print a comparison as tables for a terminal, or as ``json``, ``csv``, ``latex`` or ``markdown``."""
    from nasframe_studies import report as study_report

    texts = {
        "json": study_report.as_json,
        "csv": study_report.flat_csv,
        "latex": study_report.latex,
        "markdown": study_report.markdown,
    }
    if form:
        print(texts[form](report), end="")  # each text ends in a new line of its own
        return
    from rich.console import Console

    console = Console()
    for part in study_report.terminal(report, console.width, with_notices):
        console.print(part)
    sys.stdout.flush()  # before the line about the report, which goes to the error stream
