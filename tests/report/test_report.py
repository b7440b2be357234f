from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from html_page import Page
from nasframe.errors import UsageError
from nasframe.report import page as report
from nasframe.report.read import CURVE_POINTS, _curves, _full, _totals, _untrained, read_run
from run_directory import BUDGETS, make_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = make_run(tmp_path_factory.mktemp("runs") / "demo")
    report.build(directory)
    return directory


@pytest.fixture(scope="module")
def made(run_dir):
    return json.loads((run_dir / "report.json").read_text())


@pytest.mark.slow
def test_models_stand_in_the_order_of_the_table(made):
    names = [model["name"] for model in made["models"]]
    assert names == ["teacher", "supernet"] + [
        f"{kind}@{budget}" for budget in BUDGETS for kind in ("best", "magnitude")
    ]
    assert [m["role"] for m in made["models"]] == ["teacher", "model"] + ["winner", "baseline"] * 3


@pytest.mark.parametrize(
    ("stages", "baselines"),
    [
        ([{"search": {"name": "a"}}], set()),
        ([{"search": {"name": "a"}}, {"train": {"name": "t", "sampler": "random"}}, {"search": {"name": "b"}}], {"a"}),
        (
            [
                {"train": {"name": "t", "save_as": "t"}},
                {"train": {"name": "s", "sampler": "random"}},
                {"search": {"name": "a"}},
                {"search": {"name": "b", "from": "t"}},
            ],
            {"b"},
        ),
    ],
)
def test_searches_without_super_network_training_give_the_baselines(stages, baselines):
    assert _untrained({"stages": stages}) == baselines


def test_what_taking_parts_out_changed_is_told(made, run_dir):
    trained, extracted = {"supernet": 0.0, "supernet small": 1e-7}, {"best@75%": 2.5e-7, "magnitude@75%": 2.5e-7}
    assert made["removal_errors"] == trained | extracted
    sentence = "were taken out: supernet 0, supernet small 1e-07, best@75% 2.5e-07, magnitude@75% 2.5e-07."
    assert all(sentence in (run_dir / page).read_text("utf-8") for page in ("report.md", "report.html"))


def test_gains_and_shares_compare_with_the_teacher_and_the_baseline(made):
    models = {model["name"]: model for model in made["models"]}
    half, teacher = models["best@50%"], models["teacher"]
    assert half["gain"] == pytest.approx(0.583 - 0.624)
    assert half["gain_over_baseline"] == pytest.approx(0.21)
    assert half["relative"]["macs"] == pytest.approx(half["costs"]["macs"] / teacher["costs"]["macs"])
    assert teacher["relative"]["macs"] == 1
    assert models["magnitude@50%"]["gain_over_baseline"] is None


def test_layers_name_what_was_dropped(made):
    models = {model["name"]: model for model in made["models"]}
    rows = models["best@30%"]["layers"]
    assert [row["kept"] for row in rows] == [True] * 3 + [False] * 3
    assert rows[1] == {"layer": 1, "kept": True, "heads": 8, "ffn": 512}
    assert made["full"] == {"layers": 6, "heads": 12, "ffn": 1536}


def test_front_is_what_no_trial_beats(made):
    (search,) = made["searches"]
    assert search["costs"] == ["encoder_params"]
    assert search["states"] == {"done": 58, "repeat": 0, "screened": 1, "failed": 1}
    pairs = [(p["score"], -p["costs"]["encoder_params"], p["front"]) for p in search["points"]]
    assert 1 < sum(front for *_, front in pairs) < len(pairs)
    for score, cost, front in pairs:
        beaten = any(s >= score and c >= cost and (s > score or c > cost) for s, c, _ in pairs)
        assert front is not beaten


def test_ledger_adds_up(made):
    student = 18e9 * (180 + 240)
    assert made["ledger_total"]["training_macs"] == pytest.approx(student + 1.6e12)
    assert made["ledger_total"]["evaluation_macs"] == pytest.approx(3.1e12)
    assert made["ledger_total"]["training_and_search_macs"] == pytest.approx(student + 1.6e12 + 3.1e12)


def test_only_evaluations_of_searches_are_part_of_the_budget():
    stages = [{"name": name, "verb": name} for name in ("train", "search", "evaluate")]
    rows = []
    for stage, role, forward in (
        ("train", "student", 1.0),
        ("train", "evaluation", 10.0),
        ("search", "evaluation", 100.0),
    ):
        rows.append({"stage": stage, "role": role, "forward_macs": forward, "backward_macs": 2.0})
    rows.append({"stage": "evaluate", "role": "evaluation", "forward_macs": 1000.0, "backward_macs": 0.0})
    totals = _totals([row | {"tokens": 1, "evaluations": 1} for row in rows], stages)
    assert (totals.training_macs, totals.search_macs, totals.training_and_search_macs) == (3.0, 102.0, 105.0)
    assert totals.evaluation_macs == 1114.0


def test_long_curves_are_thinned_and_keep_their_ends():
    rows = [{"stage": "a", "name": "loss", "step": i, "value": float(i)} for i in range(1, 1004)]
    points = _curves(rows, ["a"])["a"]["loss"]
    assert len(points) <= CURVE_POINTS + 1
    assert (points[0][0], points[-1][0]) == (1, 1003)


def test_trials_csv_is_flat_and_complete(run_dir, made):
    rows = list(csv.DictReader((run_dir / "trials.csv").read_text().splitlines()))
    assert len(rows) == 60
    assert json.loads(rows[0]["arch.layers"]) == made["trials"][0]["arch"]["layers"]
    assert float(rows[0]["cost.macs"]) == made["trials"][0]["costs"]["macs"]
    assert rows[7]["state"] == "screened"
    assert rows[7]["score"] == ""


def test_frames_hold_the_trials_and_their_front(run_dir, made):
    trials, front = report.trials_frame(run_dir), report.front_frame(run_dir)
    assert len(trials) == 60
    expected = {p["number"] for p in made["searches"][0]["points"] if p["front"]}
    assert set(front["number"]) == expected
    assert front["score"].max() == trials["score"].max()


def test_page_is_whole_and_fetches_nothing(run_dir):
    text = (run_dir / "report.html").read_text()
    page = Page()
    page.feed(re.sub(r"<(\w+)([^<>]*)/>", r"<\1\2></\1>", text))  # svg closes its empty elements itself
    assert page.open == []
    assert page.links == []
    assert "@import" not in text
    assert text.count("<svg ") == 4
    for word in ("61.2 %", "best@75%", "magnitude@30%", "5.51M", "17.0 ± 0.5 ms", "fingerprint", "recipes/demo.yaml"):
        assert word in text


def test_names_are_escaped(tmp_path):
    directory = make_run(tmp_path / "run", trials=3)
    (directory / "recipe.yaml").write_text("name: <script>alert(1)</script>\n")
    text = report.html(read_run(directory), {})
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_figures_are_files_and_inline(run_dir):
    names = {path.name for path in (run_dir / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("pareto", "layers", "curves", "ledger") for kind in ("png", "svg")}
    for path in (run_dir / "figures").glob("*.svg"):
        ET.parse(path)
    markdown = (run_dir / "report.md").read_text()
    for target in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (run_dir / target).is_file()


def test_models_keep_their_names_whatever_costs_there_are(run_dir):
    """Headings are folded, and costs that find no place are left out."""
    from rich.console import Console

    more = {"encoder_nonzeros": 1e7, "bits": 3e8, "bits_without_indices": 3e8}
    run = read_run(run_dir)
    wide = replace(run, models=[replace(model, costs={**model.costs, **more}) for model in run.models])
    console = Console(width=80, color_system=None, record=True, file=io.StringIO())
    console.print(report.summary_table(wide, 80))
    text = console.export_text()
    assert "encoder" in text
    assert "backbone" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(any(line.split()[:1] == [model.name] for line in text.splitlines()) for model in run.models)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_summary_table_fits(run_dir, width):
    from rich.console import Console

    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(report.summary_table(read_run(run_dir), width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for word in ("best@30%", "48.7 %", "−13.7", "3.93M", "(37 %)", "10.2"):
        assert word in text
    assert ("90.1 MB" in text) is (width >= 80)


def test_summary_table_leaves_out_models_that_were_not_evaluated(run_dir):
    run = read_run(run_dir)
    unmeasured = [replace(m, score=None, costs={}) if m.name == "supernet" else m for m in run.models]
    lines = summary_lines(replace(run, models=unmeasured))
    (teacher,) = [number for number, line in enumerate(lines) if line.startswith(" teacher")]
    assert not any("supernet" in line for line in lines)
    assert lines[teacher + 1].strip() == ""  # and the first budget is still set apart


def test_summary_table_names_all_models_if_none_was_evaluated(run_dir):
    run = read_run(run_dir)
    unmeasured = [replace(model, score=None, costs={}) for model in run.models]
    text = "\n".join(summary_lines(replace(run, models=unmeasured)))
    assert all(model.name in text for model in run.models)


def summary_lines(run):
    from rich.console import Console

    console = Console(width=120, color_system=None, record=True, file=io.StringIO())
    console.print(report.summary_table(run, 120))
    return console.export_text().splitlines()


def test_run_under_way_gives_a_report(tmp_path):
    from nasframe.store import RunStore

    store = RunStore(tmp_path / "run", create=True)
    store.start_stage("teacher", 0, "train")
    store.close()
    made = report.build(tmp_path / "run")
    assert made["models"] == []
    assert "not finished" in (tmp_path / "run" / "report.html").read_text()


def test_no_run_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=re.escape("run.db")):
        report.build(tmp_path)


@pytest.mark.slow
def test_two_builds_are_equal(run_dir, tmp_path):
    before = {name: (run_dir / name).read_bytes() for name in ("report.json", "report.md", "trials.csv")}
    report.build(run_dir)
    assert before == {name: (run_dir / name).read_bytes() for name in before}


def test_every_field_is_documented(made):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    headings = ("## report.json", "Each entry of `models`:", "Each entry of `searches`:", "The `summary` of `data`:")
    parts = re.split("|".join(map(re.escape, [*headings, "Each entry of its `splits`:"])), text)[1:]
    summary = made["data"]["summary"]
    records = (made, made["models"][0], made["searches"][0], summary, summary["splits"][0])
    for part, record in zip(parts, records, strict=True):
        fields = [
            field for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for field in re.findall(r"`(\w+)`", row)
        ]
        assert sorted(fields) == sorted(record)


def test_models_without_layers_have_no_depth():
    graph = SimpleNamespace(blueprint={}, role="teacher", arch={"layers": [{"op": "conv"}]})
    assert _full([graph]).layers == 0
    pruned = SimpleNamespace(blueprint={}, role="model", arch={"layers": [0, 3]})
    assert _full([graph, pruned]).layers == 4
