"""A model that breaks its budget when it is finally measured is marked wherever it stands; the run ends well."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from in_process import InProcess
from nasframe.cli import main
from nasframe.export import write as export
from nasframe.report import tables
from nasframe.report.budgets import bounds_of, over_budget
from nasframe.report.read import read_run
from nasframe.store import RunStore
from nasframe_basics.latency import Latency
from nasframe_deploy import deploy as deployment
from nasframe_studies import study

RECIPE = str(Path(__file__).parents[1] / "data" / "toy.yaml")
STAGES = (
    "stages=[{train: {save_as: teacher, max_steps: 1}}, {search: {sampler: random, trials: 4, examples: 4}}, "
    "{extract: {}}, {export: {}}, {evaluate: {costs: [params, encoder_params, latency]}}]"
)
TEXT = "12.4 ms > 12 ms"


@pytest.fixture(scope="module")
def drifting():
    """A machine on which every sub-network takes 11 ms in a search, and 12.4 ms when its model is measured."""

    def measure(self, space, net, arch=None, again=False):
        return {"median": 12.4 if space is None else 11.0, "spread": 0.1, "how": {}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Latency, "measure", measure)
        patch.setattr(Latency, "estimate", lambda self, space, net, arch=None: measure(self, space, net)["median"])
        patch.setattr(export, "Verifier", InProcess)
        patch.setattr(deployment, "Verifier", InProcess)
        yield


@pytest.fixture(scope="module")
def home(drifting, tmp_path_factory):
    directory = tmp_path_factory.mktemp("over") / "run"
    arguments = ["budgets={latency: [12ms, 50ms]}", STAGES]
    assert main(["run", RECIPE, *arguments, "--out", str(directory)]) == 0
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "text"), [("12ms", TEXT), ("50ms", None), ("50%", "12.4 ms > 5.5 ms")])
def test_a_model_that_no_search_found_has_a_budget_in_measured_costs_too(drifting, tmp_path, budget, text):
    sizes = "{layers: 1, heads: 1, ffn: 8}"
    stages = f"stages=[{{extract: {{archs: {{best@{budget}: {sizes}}}}}}}, {{evaluate: {{costs: [latency]}}}}]"
    assert main(["run", RECIPE, f"budgets={{latency: [{budget}]}}", stages, "--out", str(tmp_path / "run")]) == 0
    (model,) = json.loads((tmp_path / "run" / "report.json").read_text())["models"]
    assert model["over_budget"] == text


def test_an_extraction_keeps_no_bounds_that_a_search_has_kept(home):
    store = RunStore(home, shared=True)
    try:
        assert store.stage_result("search")["bounds"]["best@12ms"] == {"latency": [None, 12.0]}
        assert "bounds" not in store.stage_result("extract")
    finally:
        store.close()


@pytest.mark.slow
def test_the_report_marks_the_model_and_it_alone(home):
    report = json.loads((home / "report.json").read_text())
    over = {model["name"]: model["over_budget"] for model in report["models"]}
    assert over == {"teacher": None, "best@12ms": TEXT, "best@50ms": None}
    for page in ("report.md", "report.html"):
        assert (home / page).read_text().replace("&gt;", ">").count(f"over budget: {TEXT}") >= 1


@pytest.mark.parametrize("width", [60, 100])
def test_the_table_that_ends_a_run_says_so(home, width):
    from rich.console import Console

    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(tables.summary_table(read_run(home), width))
    assert f"best@12ms: over budget: {TEXT}" in " ".join(console.export_text().split())


def test_the_card_that_was_written_before_the_measurement_says_so(home):
    card = (home / "models" / "best-12ms" / "README.md").read_bytes()
    assert f"**Over budget:** {TEXT}" in card.decode()
    assert "Over budget" not in (home / "models" / "best-50ms" / "README.md").read_text()
    record = json.loads((home / "models" / "best-12ms" / "export_report.json").read_text())["files"]["README.md"]
    assert record == {"bytes": len(card), "sha256": hashlib.sha256(card).hexdigest()}


def test_the_table_of_a_study_names_it(home):
    rows = {row["model"]: row["over_budget"] for row in study.run_rows(home)}
    assert rows["best@12ms"] == TEXT
    assert rows["best@50ms"] is None


def test_a_card_that_is_brought_up_to_date_is_no_damage(home):
    store = RunStore(home, shared=True)
    store.check_files()
    store.close()


def test_a_card_is_written_with_what_is_known_and_forgets_what_no_longer_holds(home, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    before = (home / "models" / "best-50ms" / "README.md").read_text()
    (place / "README.md").write_text(before)
    export.update_card(place, TEXT)
    export.update_card(place, "13 ms > 12 ms")
    assert (place / "README.md").read_text().count("**Over budget:**") == 1
    assert "**Over budget:** 13 ms > 12 ms" in (place / "README.md").read_text()
    export.update_card(place, "")
    assert (place / "README.md").read_text() == before
    export.update_card(tmp_path, TEXT)  # no card lies there


def test_deploy_measures_finished_models_again_and_says_so(home, tmp_path, capsys):
    assert main(["deploy", str(home), "latency<=12ms", "--no-search", "--out", str(tmp_path / "o")]) == 0
    shown = capsys.readouterr().out
    (model,) = json.loads((tmp_path / "o" / "deploy.json").read_text())["models"]
    assert (model["over_budget"], model["costs"]["latency"]) == (TEXT, 12.4)
    assert f"over budget: {TEXT}" in shown
    assert f"over budget: {TEXT}" in (tmp_path / "o" / "deploy.md").read_text()
    assert f"**Over budget:** {TEXT}" in (tmp_path / "o" / "best" / "README.md").read_text()


def test_a_model_within_its_budget_is_not_marked(home, tmp_path):
    found = deployment.deploy(home, ["latency<=50ms"], out=tmp_path / "o", search=0)
    assert found["models"][0]["over_budget"] is None
    assert "budget" not in (tmp_path / "o" / "deploy.md").read_text()


@pytest.mark.parametrize(
    ("costs", "bounds", "expected"),
    [
        ({"latency": 12.0}, {"latency": [None, 12.0]}, ""),
        ({"latency": 12.0004}, {"latency": [None, 12.0]}, "12.0004 ms > 12 ms"),
        ({"latency": 9.0}, {"latency": [10.0, 12.0]}, "9 ms < 10 ms"),
        (
            {"params": 9e6, "latency": 13},
            {"params": [None, 5e6], "latency": [None, 12]},
            "params 9.00M > 5.00M; 13 ms > 12 ms",
        ),
        ({"params": 5_000_001}, {"params": [None, 5e6]}, "params 5,000,001 > 5,000,000"),
        ({"params": 5e6 * (1 + 1e-12)}, {"params": [None, 5e6]}, ""),
        ({}, {"latency": [None, 12.0]}, ""),
    ],
)  # fmt: skip
def test_a_cost_is_over_its_bound_by_as_many_digits_as_it_takes(costs, bounds, expected):
    assert over_budget(costs, bounds) == expected


def test_a_model_made_from_a_winner_has_its_bounds():
    results = [
        {"bounds": {"best@50%": {"latency": [None, 12.0]}}},
        {},
        {"bounds": {"sliced@50%": {"params": [None, 5]}}},
    ]
    assert bounds_of("tuned@50%", results) == {"latency": [None, 12.0], "params": [None, 5]}
    assert bounds_of("teacher", results) == bounds_of("tuned@30%", results) == {}


def test_bounds_of_an_extraction_take_none_away():
    results = [{"bounds": {"best@50%": {"latency": [None, 12.0]}}}, {"bounds": {"best@50%": {"params": [None, 5.0]}}}]
    assert bounds_of("best@50%", results) == {"latency": [None, 12.0], "params": [None, 5.0]}
