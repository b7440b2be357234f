"""The files of a comparison, ``study.html``, ``.json``, ``.csv``, ``.md`` and ``.tex``, and its text for terminals."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.report import tables
from nasframe.report.detail_sections import detail_sections
from nasframe.report.page import render
from nasframe.report.read import read_run
from nasframe.report.sections import Section
from nasframe.store import write_text
from nasframe_studies.compare import analyse
from nasframe_studies.conditions import notice_line
from nasframe_studies.page import caption, page
from nasframe_studies.recommend import lines as lines_of
from nasframe_studies.records import ArmScores, Comparison, PairTable, as_json
from nasframe_studies.settings import Settings
from nasframe_studies.tables import COLUMNS, about, overview, overview_caption, rows
from nasframe_studies.wording import interval, p_is

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["as_json", "flat_csv", "html", "latex", "markdown", "terminal", "write"]

NARROW = 72
"""Characters across below which a terminal shows fewer columns."""
WIDE = 110
"""Characters across from which a terminal shows more columns."""
LATEX_COLUMNS = ("arm", "n", "score", "difference", "holm", "wilcoxon", "effect")
TERMINAL_HEADINGS = COLUMNS | {
    "difference": "difference [t]",
    "holm": "p Holm",
    "wilcoxon": "Wilcoxon",
    "more": "more",
}
LATEX_SIGNS: dict[str, str | int | None] = {
    "\\": r"\textbackslash ",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "±": r"$\pm$",
    "−": "$-$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "≥": r"$\geq$",
    "–": "--",
    "<": "$<$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "~": r"\textasciitilde ",
    "^": r"\textasciicircum ",
}


def write(directory: str | Path, frame: pd.DataFrame, settings: Settings | Mapping[str, Any]) -> Comparison:
    """Write ``study.html``, ``.json``, ``.csv``, ``.md``, ``.tex`` and ``figures/``.

    Args:
        directory: where; also what the frame's ``run`` column is read from.
        frame: as :func:`nasframe_studies.study.collect` returns.
        settings: as :func:`nasframe_studies.study.settings` returns, or the same as plain data.

    Raises:
        UsageError: there is nothing to compare.
    """
    from nasframe.report import plots
    from nasframe_studies.plots import figures

    home = Path(directory)
    comparison = analyse(home, frame, settings)  # before anything is written: it may find nothing to compare
    drawn = figures(comparison)
    folder = home / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in drawn.items():
        title, _ = caption(name, comparison)
        pictures[name] = plots.save(figure, folder / _file(name), title)
    write_text(home / "study.json", as_json(comparison))
    write_text(home / "study.csv", frame.to_csv(index=False, lineterminator="\n"))
    details = shipped_sections(home, comparison)
    write_text(home / "study.md", markdown(comparison, list(drawn), details))
    write_text(home / "study.tex", latex(comparison))
    write_text(home / "study.html", html(comparison, pictures, settings, details))
    return comparison


def _file(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


# ---- pages


def html(
    comparison: Comparison,
    figures: Mapping[str, str],
    settings: Settings | Mapping[str, Any],
    details: Sequence[Section] = (),
) -> str:
    """Render a comparison as one page that needs no other file.

    Args:
        comparison: what is shown.
        figures: name → ``<svg>`` element.
        settings: as :func:`nasframe_studies.study.settings` returns.
        details: the sections on the recommended models.
    """
    from markupsafe import Markup

    pictures = {name: Markup(svg) for name, svg in figures.items()}
    return render("sections.html", page=page(comparison, pictures, _source(settings), details))


def markdown(comparison: Comparison, figures: Sequence[str] = (), details: Sequence[Section] = ()) -> str:
    """Render a comparison as Markdown that shows ``figures/NAME.png`` for each name in ``figures``."""
    pictures = {name: f"figures/{_file(name)}.png" for name in figures}
    return render("sections.md", page=page(comparison, pictures, details=details))


def shipped_sections(home: Path, comparison: Comparison) -> list[Section]:
    """Return the sections on the recommended models, class by class and against their own teachers.

    Args:
        home: the folder to which relative run directories are relative.
        comparison: names the models; a run whose directory is gone is left out.
    """
    sections: list[Section] = []
    told = set()
    for entry in comparison.shipped:
        place = home / entry.run
        if (entry.run, entry.model) in told or not (place / "run.db").is_file():
            continue
        told.add((entry.run, entry.model))
        run = read_run(place)
        title = f"{entry.model} of {entry.arm}, seed {entry.seed}"
        if len(comparison.tasks) > 1:
            title += f", {entry.task}"
        for detail in run.details:
            if detail.model == entry.model:
                # Of many models only the first one's are open.
                is_folded = bool(sections)
                sections += [replace(part, folded=is_folded) for part in detail_sections(run, detail, title)]
    return sections


def _source(settings: Settings | Mapping[str, Any]) -> str:
    """Write the settings that a reader needs to repeat a study."""
    import yaml

    plain = settings.plain() if isinstance(settings, Settings) else settings
    # Not the runs, which follow from these, nor what only this machine has, such as the cache.
    keys = ("source", "command", "overrides", "arms", "tasks", "seeds", "compare")
    shown = {key: plain[key] for key in keys if plain.get(key)}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


# ---- CSV


def flat_csv(comparison: Comparison) -> str:
    """Write the tables flat, a row each task, model and arm; a comparison's columns begin with ``difference_``."""
    flat = []
    for table in comparison.tables:
        flat += [_flat_row(table, row) for row in table.arms]
    # The reference has no difference, and tasks may have other metrics beside: all columns that some row has.
    columns: dict[str, None] = {}
    for cells in flat:
        columns |= dict.fromkeys(cells)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _flat_row(table: PairTable, row: ArmScores) -> dict[str, Any]:
    cells: dict[str, Any] = {"task": table.task, "model": table.model, "metric": table.metric, "arm": row.arm}
    # Without what is no single number.
    cells |= _fields(row, without=("arm", "scores", "costs", "over_budget", "beside"))
    for name, spread in row.beside.items():
        cells[f"beside_{name}_mean"] = spread.mean
        cells[f"beside_{name}_sd"] = spread.sd
    pair = table.difference_of(row.arm)
    if pair is not None:
        for key, value in _fields(pair, without=("arm", "seeds", "left_out")).items():
            cells[f"difference_{key}"] = value
    return cells


def _fields(record: Any, without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in without}


# ---- LaTeX


def latex(comparison: Comparison) -> str:
    r"""Write the overview and a table for each task with ``booktabs``, for ``\input`` into a paper."""
    heading, *scores = overview(comparison)
    groups = []
    for _, of_task in groupby(scores, key=itemgetter(0)):  # the rows of a task stand together
        groups.append(list(of_task))
    title = f"{comparison.name}, against {comparison.against}. {overview_caption(comparison)}"
    blocks = [_tex_table(title, heading, groups)]
    heading = ["model"]
    heading += [COLUMNS[name] for name in LATEX_COLUMNS]
    for task, view in comparison.tables_by_task().items():
        groups = []
        for table in view:
            group: list[list[str]] = []
            for row in rows(comparison, table):
                name = "" if group else table.model  # only in the first row
                group.append([name, *row.cells(LATEX_COLUMNS)])
            groups.append(group)
        blocks.append(_tex_table(f"{about(comparison, view)}. Task: {task}.", heading, groups))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(blocks)


def _tex_table(title: str, heading: Sequence[str], groups: Sequence[Sequence[Sequence[str]]]) -> str:
    """Write a table: two columns of text, the others numbers; a rule above each group of rows."""
    alignment = "ll" + "r" * (len(heading) - 2)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(title)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        _tex_row(heading),
    ]
    for group in groups:
        lines.append(r"\midrule")
        lines += [_tex_row(row) for row in group]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    """Escape a text, and write signs that LaTeX's fonts lack."""
    # All at once: one by one, the backslash of an escaped sign would be escaped again.
    return text.translate(str.maketrans(LATEX_SIGNS))


# ---- the terminal


def terminal(comparison: Comparison, width: int, with_notices: bool = True) -> Iterator[RenderableType]:
    """Lay a comparison out for a terminal: the main tables, what was found, what cannot be concluded.

    Args:
        comparison: what is shown.
        width: characters across; below 72 the tests that say least are left out.
        with_notices: whether to show what the runs decided by themselves.
    """
    from rich.table import Table
    from rich.text import Text

    if comparison.tables:
        yield _terminal_table(comparison, width)
    notices = []
    if with_notices:
        notices = [notice_line(notice, comparison.arms) for notice in comparison.notices]
    sections = {
        "": [*comparison.notes, comparison.equal_macs.text],
        "Decided by the runs without being asked": notices,
        "Found": comparison.findings,
        "Cannot be concluded": comparison.limits,
        "Two models each, example by example": list(_single_pairs(comparison)),
        "Recommended": lines_of(comparison.shipped),
    }
    for title, lines in sections.items():
        if lines:
            space = "\n" if title else ""
            yield Text(f"{space}{title}", style="bold")
            items = Table.grid(padding=(0, 1, 0, 0))
            for line in lines:
                items.add_row("-", Text(line))
            yield items


def _terminal_table(comparison: Comparison, width: int) -> Table:
    """Lay the tables of the first task out as one, with a heading for each model."""
    from rich.table import Table
    from rich.text import Text

    names = ["arm", "score", "difference", "holm"]
    if width >= WIDE:
        names += ["wilcoxon", "effect", "verdict", "more"]
    elif width >= NARROW:
        names += ["wilcoxon", "more"]
    # what is left of the terminal beyond its narrowest layout goes to the arms' names
    narrowest = 80 if width >= NARROW else NARROW
    longest_name = 14 + max(0, width - narrowest)
    view = next(iter(comparison.tables_by_task().values()))
    table = Table(title=about(comparison, view), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        side: Literal["left", "right"] = "left" if name == "arm" else "right"
        # Folded, not cut: of a p-value or an interval every digit counts.
        table.add_column(TERMINAL_HEADINGS[name], justify=side, overflow="fold")
    for part in view:
        table.add_section()
        table.add_row(Text(part.model, style="bold"))
        for row in rows(comparison, part):
            style = {"better": "green", "worse": "red"}.get(row.standing, "")
            arm = f"  {tables.short(row.arm, longest_name)}"
            table.add_row(arm, *row.cells(names[1:]), style=style)
    return table


def _single_pairs(comparison: Comparison) -> Iterator[str]:
    """Describe by examples the differences of models whose arms have one seed, which no other test can."""
    single = set()
    for table in comparison.tables:
        for row in table.comparisons:
            if row.n == 1:
                single.add((table.task, table.model, row.arm))
    for pair in comparison.examples:
        is_single = (pair.task, pair.model, pair.arm) in single
        if not is_single or pair.note is not None:
            continue
        form = comparison.format_of(pair.task, pair.metric)
        gap = interval(form, pair.difference, pair.low, pair.high)
        sides = f"{pair.arm} against {comparison.against}, {pair.task}, seed {pair.seed}"
        line = f"{pair.model}: {sides}: {gap} over {pair.n} examples"
        if pair.p is not None:
            line += f", McNemar {p_is(pair.p)}"
        yield f"{line}."
