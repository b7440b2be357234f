"""Reports of a run, made from its directory alone: ``report.json``, ``.md``, ``.html``, ``trials.csv`` and figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.report import tables
from nasframe.report.data_table import data_lines, data_rows
from nasframe.report.format import of_run, titled
from nasframe.report.read import gather
from nasframe.report.tables import summary_table
from nasframe.store import write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["build", "front_frame", "gather", "html", "markdown", "summary_table", "trials_csv", "trials_frame"]

TRIAL_COLUMNS = ("stage", "number", "arch_id", "state", "origin", "score", "violation", "examples", "trial_seconds")


def build(run_dir: Path | str) -> dict[str, Any]:
    """Write ``report.json``, ``report.md``, ``report.html``, ``trials.csv`` and ``figures/`` into a run directory.

    Args:
        run_dir: a run directory, of a finished run or of one under way.

    Returns:
        The content of ``report.json``, as :func:`gather` made it.

    Raises:
        UsageError: there is no run in the directory.
    """
    from nasframe.report import plots

    directory = Path(run_dir)
    report = gather(directory)
    folder, figures = directory / "figures", plots.figures(report)
    folder.mkdir(exist_ok=True)
    drawn = {name: plots.save(figure, folder / name, _caption(name)[0]) for name, figure in figures.items()}
    write_text(directory / "trials.csv", trials_csv(report))
    write_text(directory / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_text(directory / "report.md", markdown(report, list(figures)))
    write_text(directory / "report.html", html(report, drawn))
    return report


def html(report: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Render a report as one page that needs no other file; ``figures`` are ``<svg>`` elements by name."""
    from markupsafe import Markup

    return _render("report.html", report, {name: Markup(svg) for name, svg in figures.items()})


def markdown(report: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """Render a report as Markdown that shows ``figures/NAME.png`` for each name in ``figures``."""
    return _render("report.md", report, {name: f"figures/{name}.png" for name in figures})


def trials_frame(run_dir: Path | str) -> pd.DataFrame:
    """Return every trial of a run, one row each, one column a metric, a cost, an objective, a knob."""
    import pandas as pd

    rows = _flat_trials(gather(run_dir))
    return pd.DataFrame(rows, columns=_columns(rows))


def front_frame(run_dir: Path | str) -> pd.DataFrame:
    """Return the trials on a search's front: none beats them in the score and in every budgeted cost."""
    report = gather(run_dir)
    best = {(s["stage"], point["number"]) for s in report["searches"] for point in s["points"] if point["front"]}
    frame = trials_frame(run_dir)
    keys = zip(frame["stage"], frame["number"], strict=True)
    return frame[[key in best for key in keys]].reset_index(drop=True)


def trials_csv(report: Mapping[str, Any]) -> str:
    """Lay a report's trials out flat, as :func:`trials_frame` does."""
    rows = _flat_trials(report)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


CAPTIONS = {
    "pareto": (
        "Score against cost",
        "Every evaluated trial of the search, its front, and the finished models. Trials are scored on the selection"
        " split, finished models on held-out data.",
    ),
    "layers": (
        "What is kept",
        "Attention heads (left) and feed-forward neurons (right) of every layer; the pale bar is the full network."
        " Models of one shape share a panel.",
    ),
    "curves": ("Training", "Logged losses, smoothed, and what was measured during training."),
    "ledger": (
        "Where the compute went",
        "Multiply-accumulates that were really run, padding included, and seconds, by stage.",
    ),
}


def _caption(name: str) -> tuple[str, str]:
    kind, _, rest = name.partition("-")
    title, text = CAPTIONS[kind]
    return (f"{title}: {rest}" if rest else title), text


def render(template: str, package: str = "nasframe", **context: Any) -> str:
    """Fill a template. In it ``t`` is :mod:`nasframe.report.tables`; a variable that is missing is an error.

    Args:
        template: the file's name in the package's folder ``templates``.
        package: the package that brings it. It may extend and include nasframe's own templates.
        context: the template's variables.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys([package, "nasframe"])
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=template.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(t=tables, **context)


def _render(template: str, report: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    form = of_run(report, report["metric"])
    return render(
        template, report=report, figures=figures, captions={name: _caption(name) for name in figures},
        columns=tables.summary_columns(report), companions=tables.companions(report), form=form,
        heading=titled(report["metric"], form), facts=_provenance(report), ledger=_ledger_rows(report),
        stored=_stored_rows(report), stored_heading=STORED, model_facts=_fact_rows(report), data=_data(report),
    )  # fmt: skip


def _flat_trials(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for trial in report["trials"]:
        row = {key: trial[key] for key in TRIAL_COLUMNS}
        row |= {f"objective.{i}": value for i, value in enumerate(trial["objectives"])}
        for prefix, group in (("metric", "metrics"), ("cost", "costs"), ("arch", "arch")):
            row |= {f"{prefix}.{k}": json.dumps(v) if isinstance(v, list) else v for k, v in trial[group].items()}
        rows.append(row)
    return rows


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Order the columns: those that every trial has, then by kind; knobs in the order they appear."""
    found = dict.fromkeys([*TRIAL_COLUMNS, *(column for row in rows for column in row)])
    kinds = {"objective": 1, "metric": 2, "cost": 3, "arch": 4}
    return sorted(found, key=lambda column: kinds.get(column.partition(".")[0], 0))


def _ledger_rows(report: Mapping[str, Any]) -> list[list[str]]:
    counts = ("steps", "examples", "tokens", "forward_macs", "backward_macs", "evaluations")
    cached = {stage["name"] for stage in report["stages"] if stage["cached"]}
    return [
        [
            row["stage"] + (" (from the cache)" if row["stage"] in cached else ""),
            row["role"],
            *(tables.human(row[key]) if row[key] else "–" for key in counts),
            tables.duration(row["run_seconds"]),
        ]
        for row in report["ledger"]
    ]


STORED = (
    "model", "matrices of the encoder's layers", "groups that violate", "rows off the grid", "fp32", "weights",
    "indices", "scales", "saved", "without indices", "biases, norms", "outside",
)  # fmt: skip


def _stored_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Say of each compressed model what its matrices take, and whether every group and row was found in order."""
    rows = []
    for model in report["models"]:
        if (found := model["stored"]) is None:
            continue
        formats = ", ".join(f"{count} × {form}" for form, count in found["formats"].items())
        bits = [tables.human(found[part]) for part in ("matrices_fp32", "weights", "indices", "scales")]
        saved = [f"{100 * found[key]:.1f} %" for key in ("saved", "saved_without_indices")]
        rest = [tables.human(found["encoder_rest"]), tables.human(found["outside"])]
        checked = f"{found['violations']} of {found['groups']:,}"
        rows.append([model["name"], formats, checked, str(found["rows_off_grid"]), *bits, *saved, *rest])
    return rows


def _fact_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """List what plugins say about the models, those facts that are text or numbers."""
    rows = []
    for model in report["models"]:
        for name, value in model["facts"].items():
            if isinstance(value, str | int | float):
                rows.append([model["name"], name, str(value)])
    return rows


def _data(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out what happened to the data, if the task said it."""
    summary = report["data"].get("summary")
    if summary is None:
        return None
    heading, *rows = data_rows(summary)
    return {"heading": heading, "rows": rows, "lines": data_lines(summary)}


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten environment and facts of the run to (name, text) pairs."""
    pairs: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{prefix} {key}".strip(), inner)
        elif value not in (None, "", {}, []):
            pairs.append((prefix, " ".join(map(str, value)) if isinstance(value, list) else str(value)))

    data = {key: value for key, value in report["data"].items() if key != "summary"}
    walk("", {"command": report["command"], "data": data} | report["environment"])
    return pairs
