"""The report of a comparison: whole pages, valid tables, no NaN, figures with every arm."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from html_page import Page
from nasframe.errors import UsageError
from nasframe_studies import compare, study
from nasframe_studies import plots as study_plots
from nasframe_studies import report as study_report
from nasframe_studies import tables as study_tables
from nasframe_studies.records import as_json, from_json, schema
from study_directory import make_study


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = make_study(tmp_path_factory.mktemp("study"), arms=("random", "evolution", "greedy"), seeds=3, trials=8)
    drawn = Figure.savefig

    def without_pixels(figure, where, **options):  # 200 dots an inch take seconds
        return drawn(figure, where, **options | ({"dpi": 40} if "dpi" in options else {}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", without_pixels)
        study_report.write(directory, study.collect(directory), study.settings(directory))
    return directory


@pytest.fixture(scope="module")
def report(home):
    return from_json((home / "study.json").read_text())


def test_the_page_is_whole_and_fetches_nothing(home):
    text = (home / "study.html").read_text()
    page = Page()
    page.feed(re.sub(r"<(\w+)([^<>]*)/>", r"<\1\2></\1>", text))
    assert page.open == []
    assert page.links == []
    assert text.count("<svg ") == 5
    for word in (
        "What cannot be concluded",
        "failed in search",
        "its run directory is gone",
        "Equal budgets",
        "McNemar",
        "reference",
    ):
        assert word in text


def test_every_number_of_the_page_is_in_its_json(home, report):
    text = (home / "study.html").read_text()
    for table in report.tables:
        for row in study_tables.rows(report, table):
            assert row.score in text
            assert row.difference in text


def test_study_csv_is_the_frame(home):
    frame = pd.read_csv(home / "study.csv")
    assert len(frame) == len(study.collect(home))
    assert list(frame.columns) == list(study.collect(home).columns)


@pytest.mark.slow
def test_what_is_written_depends_on_the_runs_alone(home, report):
    again = compare.analyse(home, study.collect(home), study.settings(home))
    assert study_report.as_json(again) == (home / "study.json").read_text()
    assert study_report.latex(again) == (home / "study.tex").read_text()


def test_latex_has_a_table_a_task_and_escapes(home, report):
    text = (home / "study.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4
    assert all(text.count(rule) == 4 for rule in (r"\toprule", r"\bottomrule"))
    assert r"75\%" in text
    assert not set("±−≥×–↑↓") & set(text)
    text = text[text.index(r"\end{table}") :]  # the overview has columns of its own
    body = re.findall(r"\\midrule\n(.*?)(?=\\midrule|\\bottomrule)", text, re.DOTALL)
    assert all(line.count(" & ") == 7 and line.endswith(r"\\") for part in body for line in part.strip().splitlines())
    assert study_report._tex(r"a_b & c\d ~^<{}#$") == (
        r"a\_b \& c\textbackslash d \textasciitilde \textasciicircum $<$\{\}\#\$"
    )


def test_the_overview_is_the_tables_side_by_side(home, report):
    heading, *rows = study_tables.overview(report)
    assert heading == ["task", "arm", "teacher", *report.models]
    frame = pd.read_csv(home / "study.csv")
    teachers = frame[(frame["role"] == "teacher") & (frame["task"] == "sst2") & (frame["arm"] == "random")]["score"]
    assert ["sst2", "random", f"{100 * teachers.mean():.1f} ± {100 * teachers.std():.1f}"] in [row[:3] for row in rows]
    for table in report.tables:
        for row in study_tables.rows(report, table):
            (line,) = [line for line in rows if line[:2] == [table.task, row.arm]]
            cell = line[heading.index(table.model)]
            assert cell.removesuffix(" ↑").removesuffix(" ↓") == row.score
            assert cell.endswith("↑") == (row.verdict == "higher")
            assert cell.endswith("↓") == (row.verdict == "lower")
    text = (home / "study.html").read_text()
    assert all(cell in text for row in rows for cell in row)


def test_the_flat_table_has_a_row_for_each_arm(report):
    rows = list(csv.DictReader(io.StringIO(study_report.flat_csv(report))))
    assert len(rows) == sum(len(table.arms) for table in report.tables)
    first = report.tables[0].comparisons[0]
    row = next(r for r in rows if r["arm"] == first.arm)
    assert float(row["difference_p_t"]) == first.p_t
    assert rows[0]["difference_mean"] == ""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_everything_without_breaking_rows(report, width):
    from rich.console import Console

    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    for part in study_report.terminal(report, width):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for word in ("evolution", "Cannot be concluded", "p Holm", *(["≥ 0.5"] if width > 60 else [])):
        assert word in text
    lines = [line for line in text.splitlines() if line.startswith("  greedy")]
    assert len(lines) == 3
    assert all("[" in line and "]" in line for line in lines)


def test_markdown_shows_pictures_that_exist(home):
    targets = re.findall(r"!\[.*?\]\((.*?)\)", (home / "study.md").read_text())
    assert len(targets) == 5
    assert all((home / target).is_file() for target in targets)


def test_figures_show_every_arm_and_every_difference(report):
    forest = study_plots.differences(report)
    for axes, task in zip(forest.axes, ("mean of tasks", "sst2", "mrpc"), strict=True):
        assert axes.get_title(loc="left") == task
        assert [label.get_text() for label in axes.get_yticklabels()] == ["", "evolution", "greedy"] * 3
    fronts = study_plots.fronts(report)
    (legend,) = fronts.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "evolution", "greedy"]
    assert sum(len(axes.lines) for axes in fronts.axes) >= 9


def test_costs_are_shares_of_the_teachers(home, report):
    heading, *rows = study_tables.costs(report)
    assert heading[:6] == ["task", "model", "arm", "params", "backbone", "encoder"]
    frame = pd.read_csv(home / "study.csv")
    own = frame[(frame["arm"] == "greedy") & (frame["task"] == "sst2") & (frame["model"] == "best@30%")]
    share = own["encoder_params_relative"].mean()
    assert ["sst2", "30%", "greedy", f"{100 * share:.0f} %"] in [[*row[:3], row[5]] for row in rows]
    assert all(cell in (home / "study.html").read_text() for row in rows for cell in row)


def test_twenty_arms_can_be_told_apart_and_their_legend_fits(report):
    arms = [f"compressor-{number}" for number in range(20)]
    looks = [study_plots.look(arms, arm) for arm in arms]
    assert len({(look.color, look.marker) for look in looks}) == len({(look.color, look.line) for look in looks}) == 20
    row = report.tables[0].arms[0]
    table = replace(report.tables[0], arms=[replace(row, arm=arm) for arm in arms])
    figure = study_plots.fronts(replace(report, arms=arms, tables=[table]))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 20
    assert (box.x0 >= 0, box.x1 <= figure.bbox.width) == (True, True)


def test_names_are_escaped_and_files_keep_simple_names(home, report):
    changed = replace(report, name="<script>alert(1)</script>")
    assert "<script>" not in study_report.html(changed, {}, {})
    assert study_report._file("anytime-sst2, other data/1") == "anytime-sst2__other_data_1"


@pytest.mark.slow
def test_one_seed_and_one_arm_still_give_a_page(home):
    frame = study.collect(home)
    frame = frame[(frame["seed"] == 0) & (frame["task"] == "sst2")].copy()
    for part in (frame, frame[frame["arm"] == "random"]):
        facts = study.settings(home).plain() | {"runs": [], "arms": {arm: {} for arm in part["arm"]}}
        made = compare.analyse(home, part, facts)
        assert made.limits
        study_report.as_json(made)
        text = study_report.html(made, dict.fromkeys(study_plots.figures(made), ""), facts)
        assert not re.search(r"\b(nan|None|inf)\b", text)
        assert study_report.markdown(made)


# ---- study.json

FIELDS = {
    "Comparison": (
        "format_version name description metric split against arms tasks seeds models cost absolute confidence alpha"
        " power resamples formats tables teachers fronts anytime examples ledger family missing notices notes"
        " equal_macs processors findings limits cost_formats shipped"
    ),
    "PairTable": "task tasks model metric arms ranked_seeds comparisons family",
    "FrontTable": "task tasks model metric arms ranked_seeds comparisons family cost references",
    "ArmScores": "n mean sd low high interval arm rank scores costs over_budget beside",
    "Difference": (
        "n mean sd t_low t_high low high t p_t wilcoxon p_wilcoxon smallest_p zeros ties d_z seeds_needed arm seeds"
        " left_out same_as p_t_holm verdict more_seeds"
    ),
    "TeacherScores": "task arm n mean sd beside",
    "Spread": "mean sd",
    "AnytimeCurves": "task metric model axis title arms",
    "Curve": "x mean low high n",
    "ExamplePair": "n only_arm only_reference p difference low high note task model seed arm metric",
    "LedgerRow": (
        "arm runs student_macs teacher_macs evaluation_macs training_macs training_and_search_macs evaluations"
        " run_seconds cached_seconds ratio ratios"
    ),
    "EqualMacs": "tolerance equal ratios text",
    "Processors": "kinds seeds",
    "SeedProcessors": "task seed arms unlike",
    "Shipped": "task budget arm seed run model text chosen_on runner_up p_holm",
    "MissingRun": "arm task seed run why error",
    "Notice": "place text arms",
    "MetricFormat": "percent higher_is_better positive companion dev_only standard_error",
    "CostFormat": "unit heading highlight higher_is_better",
}
TYPES = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None)}


def misfits(value, shape, definitions, place="study.json"):
    """Yield the places at which a value does not fit a JSON Schema, as far as those of records go."""
    if "$ref" in shape:
        shape = definitions[shape["$ref"].rpartition("/")[2]]
    if "anyOf" in shape:
        fits = [not list(misfits(value, choice, definitions)) for choice in shape["anyOf"]]
        if not any(fits):
            yield place
    elif "properties" in shape:
        if not set(shape["required"]) <= set(value) <= set(shape["properties"]):
            yield place
        for name in value:
            yield from misfits(value[name], shape["properties"][name], definitions, f"{place}.{name}")
    elif shape["type"] == "object":
        for name in value:
            yield from misfits(value[name], shape["additionalProperties"], definitions, f"{place}.{name}")
    elif shape["type"] == "array":
        for number, item in enumerate(value):
            yield from misfits(item, shape["items"], definitions, f"{place}[{number}]")
    elif not isinstance(value, TYPES[shape["type"]]) or value not in shape.get("enum", [value]):
        yield place


def test_the_schema_has_the_fields_of_this_version():
    """A field that changes its meaning or goes away changes the version."""
    described = schema()
    records = described["$defs"] | {"Comparison": described}
    assert {name: " ".join(record["properties"]) for name, record in records.items()} == FIELDS


def test_a_study_fits_the_schema(home):
    content = json.loads((home / "study.json").read_text(), parse_constant=pytest.fail)
    described = schema()
    assert list(misfits(content, described, described["$defs"])) == []
    assert content["format_version"] == 3
    content["tables"][0]["comparisons"][0]["verdict"] = "better"
    assert list(misfits(content, described, described["$defs"])) == ["study.json.tables[0].comparisons[0].verdict"]


def test_a_comparison_is_read_as_it_was_written(home, report):
    assert as_json(report) == (home / "study.json").read_text()
    with pytest.raises(UsageError, match=r"format version 1 cannot be read. Expected 3"):
        from_json('{"format_version": 1}')


def test_every_field_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    part = text.partition("## study.json")[2].partition("## From Python")[0]
    documented = set(re.findall(r"`(\w+)`", part))
    described = schema()
    fields = set(described["properties"])
    for name, record in described["$defs"].items():
        if name not in ("MetricFormat", "CostFormat"):  # docs/report.md describes them
            fields |= set(record["properties"])
    assert fields - documented == set()
