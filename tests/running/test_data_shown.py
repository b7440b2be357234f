"""What happened to the data is shown before training: by a run once, by a dry run, and in reports."""

import json
from pathlib import Path

import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.report.data_table import data_text
from nasframe.running import runner
from nasframe.store import RunStore
from stand_in import write_net, write_reviews

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
REPEATED = [["good", "film"], ["bad", "film"], ["fine", "plot"], ["dull", "plot"]] * 5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    home = tmp_path_factory.mktemp("reviews")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    rows = [*REPEATED, *(["the", "good", "a"] + ["film"] * i for i in range(20))]
    model, task = write_net(home / "net", **sizes), write_reviews(home, rows)
    file = home / "reviews.yaml"
    stage = "train: {save_as: teacher, max_steps: 1}"
    file.write_text(f"nasframe: 1\nname: reviews\nmodel: {model}\ntask: {task}\nstages: [{{{stage}}}]\n")
    return file


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    return nf.run(nf.load_recipe(recipe), out=tmp_path_factory.mktemp("runs") / "run", progress=False)


def summary_of(directory):
    return json.loads((directory / "report.json").read_text())["data"]["summary"]


def test_a_run_shows_it_once_before_training(recipe, tmp_path, capsys):
    assert main(["run", str(recipe), "--no-progress", "--out", str(tmp_path / "run")]) == 0
    text = data_text(summary_of(tmp_path / "run"))
    assert capsys.readouterr().err.count(text) == 1
    runner.resume(tmp_path / "run")
    assert "distinct texts" not in capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_a_study_keep_it_to_themselves(recipe, tmp_path, capsys):
    facts = {"study": "several", "base": str(recipe.parent)}
    RunStore(tmp_path / "run", create=True, recipe=recipe.read_text(), facts=facts).close()
    runner.resume(tmp_path / "run")
    assert capsys.readouterr().err == ""
    assert summary_of(tmp_path / "run")["splits"]


@pytest.mark.slow
def test_a_dry_run_shows_it(recipe, capsys):
    assert main(["run", str(recipe), "--dry-run"]) == 0
    assert "distinct texts" in capsys.readouterr().out
    assert main(["run", str(recipe), "--dry-run", "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["data"]["splits"]
    assert {split["name"]: split["rows"] for split in splits} == {"train": 29, "select": 3, "dev": 8}


@pytest.mark.slow
def test_reports_show_it_and_not_as_provenance(finished):
    for page in ("report.md", "report.html"):
        text = (finished.directory / page).read_text()
        assert "distinct texts" in text
        assert "reviews.csv (40 rows)" in text
        assert "data summary" not in text
    assert "summary" not in json.loads((finished.directory / "env.json").read_text())["data"]


@pytest.mark.slow
def test_a_task_that_says_nothing_shows_nothing(tmp_path, capsys):
    overrides = ["~budgets", "stages=[{train: {max_steps: 1, save_as: teacher}}]"]
    run = nf.run(nf.load_recipe(TOY, overrides), out=tmp_path / "run", progress=False)
    assert "distinct texts" not in capsys.readouterr().err
    assert summary_of(run.directory) is None
    assert "## Data" not in (run.directory / "report.md").read_text()
