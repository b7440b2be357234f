"""The report of a comparison: ``study.html``, ``.json``, ``.csv``, ``.md`` and ``.tex``, and its tables as text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.report import tables
from nasframe.report.format import of_study
from nasframe.report.page import render
from nasframe.store import write_text
from nasframe_studies import tables as study_tables
from nasframe_studies.compare import analyse
from nasframe_studies.conditions import notice_line
from nasframe_studies.findings import interval, p_is
from nasframe_studies.tables import COLUMNS, about, overview, overview_caption, rows, views

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

NARROW = 72
"""Characters across below which a terminal shows fewer columns."""
CAPTIONS = {
    "fronts": (
        "Score against cost",
        "Mean over seeds of each arm's models, budget by budget, with bootstrap intervals; points are set slightly"
        " apart where they would cover each other.",
    ),
    "differences": (
        "Paired differences",
        "Against the reference, seed by seed: t interval (thin) and bootstrap interval (thick). Filled: resolved after"
        " Holm's adjustment over {family}. At the right p after Holm and the number of pairs.",
    ),
    "anytime": (
        "Best so far",
        "The best score on the selection split so far, mean over seeds and its t interval, from where the last seed"
        " has begun to where the first has ended.",
    ),
    "ledger": (
        "What each arm cost",
        "Mean of its runs, padding included; stages from the cache count in full. Equal budget between arms means equal"
        " training MACs, students and teachers together.",
    ),
}


def write(directory: str | Path, frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``study.html``, ``.json``, ``.csv``, ``.md``, ``.tex`` and ``figures/``.

    Args:
        directory: where; also what the frame's ``run`` column is read from.
        frame: as :func:`nasframe_studies.study.collect` returns.
        settings: as :func:`nasframe_studies.study.settings` returns.

    Returns:
        The content of ``study.json``.

    Raises:
        UsageError: there is nothing to compare.
    """
    from nasframe.report import plots
    from nasframe_studies import plots as study_plots

    home = Path(directory)
    report = analyse(home, frame, settings)
    folder, drawn = home / "figures", study_plots.figures(report)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        name: plots.save(figure, folder / _file(name), _caption(name, report)[0]) for name, figure in drawn.items()
    }
    write_text(home / "study.json", as_json(report))
    write_text(home / "study.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(home / "study.md", markdown(report, list(drawn)))
    write_text(home / "study.tex", latex(report))
    write_text(home / "study.html", html(report, pictures, settings))
    return report


def as_json(report: Mapping[str, Any]) -> str:
    """Write a comparison as JSON; there are no NaN in it."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def html(report: Mapping[str, Any], figures: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Render a comparison as one page that needs no other file; ``figures`` are ``<svg>`` elements by name."""
    from markupsafe import Markup

    pictures = {name: Markup(svg) for name, svg in figures.items()}
    return _render("study.html", report, pictures, source=_source(settings))


def markdown(report: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """Render a comparison as Markdown that shows ``figures/NAME.png`` for each name in ``figures``."""
    return _render("study.md", report, {name: f"figures/{_file(name)}.png" for name in figures})


def latex(report: Mapping[str, Any]) -> str:
    r"""Write the overview and a table for each task with ``booktabs``, for ``\input`` into a paper."""
    names = ("arm", "n", "score", "difference", "holm", "wilcoxon", "effect")
    heading, *scores = overview(report)
    groups = [list(of_task) for _, of_task in groupby(scores, key=itemgetter(0))]
    blocks = [_tex_table(f"{report['name']}, against {report['against']}. {overview_caption(report)}", heading, groups)]
    for task, view in views(report).items():
        groups = []
        for table in view:
            cells = [[table["model"], *(row[name] for name in names)] for row in rows(report, table)]
            groups.append([cells[0], *(["", *row[1:]] for row in cells[1:])])
        heading = ["model", *(COLUMNS[name] for name in names)]
        blocks.append(_tex_table(f"{about(report, view)}. Task: {task}.", heading, groups))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(blocks)


def flat_csv(report: Mapping[str, Any]) -> str:
    """Write the tables flat, a row each task, model and arm; a comparison's columns begin with ``difference_``."""
    found = []
    for table in report["tables"]:
        pairs = {row["arm"]: row for row in table["comparisons"]}
        for row in table["arms"]:
            flat = {"task": table["task"], "model": table["model"], "metric": table["metric"]} | {
                key: value for key, value in row.items() if key not in ("scores", "costs", "over_budget", "beside")
            }
            for name, own in row.get("beside", {}).items():
                flat |= {f"beside_{name}_{key}": value for key, value in own.items()}
            pair = pairs.get(row["arm"], {}).items()
            found.append(flat | {f"difference_{k}": v for k, v in pair if k not in ("arm", "seeds", "left_out")})
    columns = dict.fromkeys(column for row in found for column in row)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return buffer.getvalue()


def terminal(report: Mapping[str, Any], width: int, with_notices: bool = True) -> Iterator[RenderableType]:
    """Lay a comparison out for a terminal: the main tables, what was found, what cannot be concluded.

    Args:
        report: what :func:`nasframe_studies.compare.analyse` returned.
        width: characters across; below 72 the tests that say least are left out.
        with_notices: show also what the runs decided by themselves.
    """
    from rich.table import Table
    from rich.text import Text

    names = ["arm", "score", "difference", "holm", "wilcoxon", "more"]
    names[5:5] = ["effect", "verdict"] if width >= 110 else []
    if width < NARROW:
        names = ["arm", "score", "difference", "holm"]
    notices = [notice_line(notice, report["arms"]) for notice in report["notices"]] if with_notices else []
    for view in list(views(report).values())[:1]:
        table = Table(
            title=about(report, view), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False,
        )  # fmt: skip
        headings = COLUMNS | {"difference": "difference [t]", "holm": "p Holm", "wilcoxon": "Wilcoxon", "more": "more"}
        for name in names:
            table.add_column(headings[name], justify="left" if name == "arm" else "right", overflow="fold")
        for part in view:
            table.add_section()
            table.add_row(Text(part["model"], style="bold"))
            for row in rows(report, part):
                style = {"higher": "green", "lower": "red"}.get(row["verdict"], "")
                arm = f"  {tables.short(row['arm'], 14 + max(0, width - (80 if width >= NARROW else NARROW)))}"
                table.add_row(arm, *(row[name] for name in names[1:]), style=style)
        yield table
    for title, lines in (
        ("", [*report["notes"], report["equal_macs"]["text"]]),
        ("Decided by the runs without being asked", notices),
        ("Found", report["findings"]), ("Cannot be concluded", report["limits"]),
        ("Two models each, example by example", list(_single_pairs(report))),
    ):  # fmt: skip
        if lines:
            yield Text(f"\n{title}" if title else "", style="bold")
            items = Table.grid(padding=(0, 1, 0, 0))
            for line in lines:
                items.add_row("-", Text(line))
            yield items


def _render(template: str, report: Mapping[str, Any], figures: Mapping[str, Any], **more: Any) -> str:
    captions = {name: _caption(name, report) for name in figures}
    lines = [notice_line(notice, report["arms"]) for notice in report["notices"]]
    return render(
        template, "nasframe_studies", report=report, figures=figures, captions=captions, s=study_tables, notices=lines,
        **more
    )  # fmt: skip


def _caption(name: str, report: Mapping[str, Any]) -> tuple[str, str]:
    kind, _, task = name.partition("-")
    title, text = CAPTIONS[kind]
    tested = [table for table in report["tables"] if table["family"]]
    text = text.format(family=study_tables.family(report, tested) if tested else "no comparison")
    return (f"{title}: {task}" if task else title), text


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _source(settings: Mapping[str, Any]) -> str:
    import yaml

    keys = ("source", "command", "arms", "tasks", "seeds", "compare")
    return yaml.safe_dump(
        {key: settings[key] for key in keys if settings.get(key)}, sort_keys=False, allow_unicode=True
    )


def _single_pairs(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what examples show of models whose arms have one seed."""
    single = {
        (table["task"], table["model"], row["arm"])
        for table in report["tables"] for row in table["comparisons"] if row["n"] == 1
    }  # fmt: skip
    for row in report["examples"]:
        if (row["task"], row["model"], row["arm"]) in single and row["note"] is None:
            test = f", McNemar {p_is(row['p'])}" if row["p"] is not None else ""
            gap = interval(
                of_study(report, row["task"], row["metric"]), {**row, "mean": row["difference"]}, "low", "high"
            )
            against = f"{row['arm']} against {report['against']}, {row['task']}, seed {row['seed']}"
            yield f"{row['model']}: {against}: {gap} over {row['n']} examples{test}."


def _tex_table(caption: str, heading: Sequence[str], groups: Sequence[Sequence[Sequence[str]]]) -> str:
    """Write a table: two columns of text, the others numbers; a rule above each group of rows."""
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(caption)}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(heading) - 2)}}}", r"\toprule", " & ".join(map(_tex, heading)) + r" \\",
    ]  # fmt: skip
    for group in groups:
        lines += [r"\midrule", *(" & ".join(map(_tex, row)) + r" \\" for row in group)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex(text: str) -> str:
    for plain, written in (("\\", r"\textbackslash "), *((c, f"\\{c}") for c in "&%$#_{}")):
        text = text.replace(plain, written)
    signs = {
        "±": r"$\pm$",
        "−": "$-$",
        "†": r"$\dagger$",
        "≥": r"$\geq$",
        "–": "--",
        "<": "$<$",
        "×": r"$\times$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "~": r"\textasciitilde ",
    }
    for sign, written in (signs | {"^": r"\textasciicircum "}).items():
        text = text.replace(sign, written)
    return text
