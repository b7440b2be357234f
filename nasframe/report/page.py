"""Reports of a run, made from its directory alone: ``report.json``, ``.md``, ``.html``, ``trials.csv`` and figures.

:func:`nasframe.report.read.read_run` reads the run, :func:`nasframe.report.layout.laid_out` lays it out as a page, and
the templates write the page. The trials are written from here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.report import tables
from nasframe.report.layout import caption, laid_out
from nasframe.report.read import gather, read_run
from nasframe.report.records import RunReport, TrialRow
from nasframe.report.tables import summary_table
from nasframe.store import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["build", "front_frame", "gather", "html", "markdown", "summary_table", "trials_csv", "trials_frame"]

TRIAL_COLUMNS = ("stage", "number", "arch_id", "state", "origin", "score", "violation", "examples", "trial_seconds")
"""The columns that every trial has; metrics, costs, objectives and knobs follow."""
KINDS = {"objective": 1, "metric": 2, "cost": 3, "arch": 4}
"""Prefix of a column → its position among the kinds of columns."""


def build(run_dir: Path | str) -> dict[str, Any]:
    """Write ``report.json``, ``report.md``, ``report.html``, ``trials.csv`` and ``figures/`` into a run directory.

    Args:
        run_dir: a run directory, of a finished run or of one under way.

    Returns:
        The content of ``report.json``.

    Raises:
        UsageError: there is no run in the directory.
    """
    from nasframe.report import plots  # matplotlib takes long to import

    directory = Path(run_dir)
    report = read_run(directory)
    folder = directory / "figures"
    folder.mkdir(exist_ok=True)
    pictures = {}
    for name, figure in figures(report).items():
        title, _ = caption(name)
        pictures[name] = plots.save(figure, folder / name, title)
    content = asdict(report)
    write_text(directory / "trials.csv", trials_csv(report))
    write_text(directory / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(directory / "report.md", markdown(report, list(pictures)))
    write_text(directory / "report.html", html(report, pictures))
    return content


def figures(report: RunReport) -> dict[str, Figure]:
    """Draw every figure that a report has data for, in the order in which they are shown."""
    from nasframe.report import graphs, plots

    drawn = plots.figures(report)
    if report.drawings:
        drawn["graphs"] = graphs.graphs(report.drawings)
    return drawn


def html(report: RunReport, figures: Mapping[str, str]) -> str:
    """Return a report as one page that needs no other file; ``figures`` are ``<svg>`` elements by name."""
    from markupsafe import Markup

    pictures = {name: Markup(svg) for name, svg in figures.items()}
    return render("sections.html", page=laid_out(report, pictures))


def markdown(report: RunReport, figures: Sequence[str] = ()) -> str:
    """Return a report as Markdown that shows ``figures/NAME.png`` for each name in ``figures``."""
    pictures = {name: f"figures/{name}.png" for name in figures}
    return render("sections.md", page=laid_out(report, pictures))


def render(template: str, package: str = "nasframe", **context: Any) -> str:
    """Fill a template. In it ``t`` is :mod:`nasframe.report.tables`; a variable that is missing is an error.

    Args:
        template: the file's name in the package's folder ``templates``.
        package: the package that brings it. It may extend and include nasframe's own templates.
        context: the template's variables.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys([package, "nasframe"])  # the first that has a template wins
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=template.endswith(".html"),  # names and texts come from recipes and data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(t=tables, **context)


# ---- trials


def trials_frame(run_dir: Path | str) -> pd.DataFrame:
    """Return every trial of a run: a row each, and a column for each metric, cost, objective and knob."""
    return _frame(read_run(run_dir, examples=False))


def front_frame(run_dir: Path | str) -> pd.DataFrame:
    """Return the trials on a search's front: none beats them in the score and in every budgeted cost."""
    report = read_run(run_dir, examples=False)
    on_front: set[tuple[str, int]] = set()
    for search in report.searches:
        for point in search.points:
            if point.front:
                on_front.add((search.stage, point.number))
    frame = _frame(report)
    trials = zip(frame["stage"], frame["number"], strict=True)
    is_on_front = [trial in on_front for trial in trials]
    return frame[is_on_front].reset_index(drop=True)


def trials_csv(report: RunReport) -> str:
    """Return a report's trials as CSV, with the columns of :func:`trials_frame`."""
    rows = [_flat(trial) for trial in report.trials]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _frame(report: RunReport) -> pd.DataFrame:
    import pandas as pd

    rows = [_flat(trial) for trial in report.trials]
    return pd.DataFrame(rows, columns=_columns(rows))


def _flat(trial: TrialRow) -> dict[str, Any]:
    """Return a trial as one row; values that are lists or mappings become JSON."""
    row = {column: getattr(trial, column) for column in TRIAL_COLUMNS}
    for number, value in enumerate(trial.objectives):
        row[f"objective.{number}"] = value
    groups = {"metric": trial.metrics, "cost": trial.costs, "arch": trial.arch}
    for prefix, values in groups.items():
        for name, value in values.items():
            cell: Any = value
            if isinstance(value, list | dict):
                cell = json.dumps(value)
            row[f"{prefix}.{name}"] = cell
    return row


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Order the columns: those that every trial has, then by kind; knobs as they first appear."""
    columns = dict.fromkeys(TRIAL_COLUMNS)
    for row in rows:
        columns.update(dict.fromkeys(row))
    return sorted(columns, key=_kind)  # which keeps the order within a kind


def _kind(column: str) -> int:
    prefix, _, _ = column.partition(".")
    return KINDS.get(prefix, 0)
