"""What Holm's adjustment counts together: each task's comparisons or the whole page's, said in every caption."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_compare import ROWS, frame, settings

from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe_studies import compare, runs, stats
from nasframe_studies import plots as study_plots
from nasframe_studies import report as study_report
from nasframe_studies import tables as study_tables

SIMULATION = Path(__file__).parents[2] / "benchmarks" / "false_arrows.py"


def report(family=None):
    """Two arms beside the reference on two tasks at two budgets."""
    parts = []
    for share in (50, 30):
        for task in "tu":
            scores = [(arm, task, seed, score + (task == "u") / 50) for arm, _, seed, score in ROWS]
            costs = {"encoder_params": 1e5 * share, "encoder_params_relative": share / 100}
            parts.append(frame(scores, **{"model": f"best@{share}%", "budget": f"{share}%"} | costs))
    made = pd.concat(parts, ignore_index=True)
    options = {"split": "dev"} | ({"family": family} if family else {})
    return compare.analyse("/nowhere", made, settings(made, compare=options))


@pytest.fixture(scope="module")
def by_task():
    return report()


@pytest.fixture(scope="module")
def by_page():
    return report("page")


def test_pages_of_noise_show_a_false_arrow_in_at_most_one_of_twenty_if_the_page_is_one_family():
    shares = runpy.run_path(str(SIMULATION))["false_pages"](tasks=8, arms=2, seeds=5, pages=4000)
    assert shares["page"] <= 0.05
    assert shares["task"] > 0.3


@pytest.mark.slow
def test_a_page_is_one_family_of_all_its_tests(by_task, by_page):
    rows = [row for table in by_page.tables + by_page.fronts for row in table.comparisons]
    assert [row.p_t_holm for row in rows] == stats.holm([row.p_t for row in rows])
    assert {table.family for table in by_page.tables + by_page.fronts} == {len(rows)} == {18}
    assert {table.family for table in by_task.tables} == {4}
    assert {table.family for table in by_task.fronts} == {2}
    assert (by_task.family, by_page.family) == ("task", "page")


def pages(found):
    console = Console(width=200, color_system=None, record=True, file=io.StringIO())
    for part in study_report.terminal(found, 200):
        console.print(part)
    figures = dict.fromkeys(study_plots.figures(found), "")
    return {
        "terminal": console.export_text(),
        "markdown": study_report.markdown(found, list(figures)),
        "latex": study_report.latex(found),
        "html": study_report.html(found, figures, {}),
    }


@pytest.mark.parametrize("family", ["task", "page"])
def test_every_caption_of_an_adjusted_number_names_its_family(family, by_task, by_page):
    found = {"task": by_task, "page": by_page}[family]
    of_table = {"task": "these 4 comparisons", "page": "all 18 comparisons of this page"}[family]
    of_figure = {"task": "each task's 4 comparisons", "page": of_table}[family]
    of_fronts = {"task": "each task's 2 comparisons", "page": of_table}[family]
    shown = pages(found)
    assert f"Holm over {of_table}" in " ".join(shown["terminal"].split())  # it may be on two lines
    for name in ("markdown", "latex", "html"):
        text = shown[name].replace("&#39;", "'")
        assert text.count(f"Holm over {of_table}") >= 3  # two tasks and their mean
        assert f"Holm's adjustment over {of_figure}" in text
    for name in ("markdown", "html"):
        text = shown[name].replace("&#39;", "'")
        assert f"Holm over {of_fronts}" in text
        assert text.count(f"Holm's adjustment over {of_figure}") == 2  # the overview and the figure of differences


def test_a_page_whose_tasks_are_adjusted_one_by_one_says_how_to_adjust_it_as_a_whole(by_task, by_page):
    assert "--family page" in study_tables.overview_caption(by_task)
    assert "--family page" not in study_tables.overview_caption(by_page)


def test_an_unknown_family_is_refused(capsys, tmp_path):
    with pytest.raises(UsageError, match=r"family 'pge'.*page, task.*Did you mean 'page'"):
        runs.as_study([str(tmp_path)], family="pge")
    assert main(["compare", str(tmp_path), "--family", "pge"]) == 2
    assert "pge" in capsys.readouterr().err
