"""``nasframe compare``: what it prints, what it writes, its errors."""

import csv
import io
import json

import pytest

from nasframe.cli import main
from nasframe.report import plots
from nasframe_studies.records import FORMAT_VERSION
from study_directory import make_study


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"), arms=("random", "greedy"), tasks=("sst2",), seeds=2, trials=6)


def call(capsys, *arguments):
    code = main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_prints_tables_and_what_cannot_be_concluded(capsys, home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, home)
    assert code == 0
    lines = err.splitlines()
    assert lines  # one for each run whose models are recommended
    assert all(line.startswith(f"export  nasframe export {home}/runs/") for line in lines)
    assert "samplers: dev accuracy × 100 (sst2), against random" in out
    assert "Cannot be concluded" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv", "latex", "markdown"])
def test_each_form_is_what_it_says(capsys, home, form):
    code, out, err = call(capsys, home, f"--{form}")
    assert (code, err) == (0, "")
    if form == "json":
        assert json.loads(out)["format_version"] == FORMAT_VERSION
    elif form == "csv":
        assert {row["arm"] for row in csv.DictReader(io.StringIO(out))} == {"random", "greedy"}
    else:
        assert {"latex": r"\toprule", "markdown": "| :-- |"}[form] in out


def test_groups_of_tasks_are_named_on_the_command_line(capsys, home):
    code, out, err = call(capsys, home, "--models", "best@50%", "--group", "half=sst*", "--group", "half=*2", "--json")
    assert (code, err) == (0, "")
    assert [(table["task"], table["model"]) for table in json.loads(out)["tables"]] == [("sst2", "half")]


def test_out_writes_the_report_and_arms_can_be_named(capsys, home, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda figure, path, title: "<svg></svg>")  # which takes seconds
    runs = [f"{name}={home}/runs/{name}/sst2" for name in ("greedy", "random")]
    code, out, err = call(capsys, *runs, "--against", "random", "--models", "best@*", "--out", tmp_path / "new")
    assert code == 0
    assert "study.html" in err
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "study.html", "study.json", "study.csv", "study.md", "study.tex", "figures",
    }  # fmt: skip
    assert "against random" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{home}", "--json", "--csv"], "expected one of them"),
        (["{home}", "--against", "randm"], "Did you mean 'random'?"),
        (["{home}", "--metric", "mcc"], "No metric 'mcc'. Metrics: accuracy"),
        (["{home}", "--models", "nothing*"], "nothing to compare"),
        (["{home}", "--split", "train"], "nothing to compare on 'train'. The scores are on dev."),
        (["{home}", "--split", "slect"], "Expected dev, select, train. Did you mean 'select'?"),
        (["{home}", "--group", "all"], "--group: 'all' does not fit. Expected NAME=PATTERN"),
        (["{home}", "--group", "all=ss2"], "--group all: no task 'ss2'. Tasks: sst2. Did you mean 'sst2'?"),
        (["{home}", "--group", "a=*", "--group", "b=sst2"], "--group b: task 'sst2' is in 'a' already."),
        (["/nowhere"], "no run here"),
        ([], "RUN"),
    ],
)
def test_mistakes_are_2_and_say_what_was_expected(capsys, home, arguments, text):
    code, out, err = call(capsys, *(argument.format(home=home) for argument in arguments))
    assert (code, out) == (2, "")
    assert text in err
