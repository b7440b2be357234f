"""The content of ``report.json`` stays as it is, field by field, for a run that has everything a report can show."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nasframe.records import DataSource, DataSummary, LedgerEntry, MetricFormat, SplitSummary, Trial
from nasframe.report.page import build
from nasframe.report.read import gather
from nasframe.store import RunStore

EXPECTED = Path(__file__).parents[1] / "data" / "report.json"
RECIPE = """\
nasframe: 1
name: recorded
seed: 5
model: {use: hf, name: tiny}
task: package_docs
space: bert_width_depth
budgets: {params: ["50%"]}
stages:
- train: {name: teacher, save_as: teacher}
- search: {name: sliced, save_as: s}
- train: {name: supernet, sampler: sandwich}
- search: {}
- extract: {}
"""


def layers(*sizes):
    return [{"heads": heads, "ffn": ffn} for heads, ffn in sizes]


def arch(heads):
    return {"layers": [0, 2], "heads.0": heads, "heads.2": 2, "ffn.0": 8, "ffn.2": 16}


def add_stages(store):
    stored = {
        "formats": {"8 bits, 2:4": 12}, "matrices_fp32": 3200, "weights": 400, "indices": 100, "scales": 64,
        "saved": 0.82, "saved_without_indices": 0.85, "encoder_rest": 96, "outside": 640, "violations": 0, "groups": 50,
        "rows_off_grid": 1,
    }  # fmt: skip
    facts = {"stored": stored, "calibration": "32 texts", "curve": [1, 2]}
    results = {
        "teacher": ("train", 2.5, {"cached": {"run": "runs/before"}}),
        "sliced": ("search", 1.0, {"winners": {"sliced@50%": {}}, "objectives": ["accuracy"]}),
        "supernet": ("train", 4.0, {}),
        "search": ("search", 3.0, {
            "winners": {"best@50%": {"choice": {"rule": "loss", "within": 2, "standard_error": 0.0625}}},
            "objectives": ["-loss"], "search": {"repeats": 3},
            "bounds": {"best@50%": {"params": [None, 100.0], "latency": [None, 12.0]}},
        }),
        "extract": ("extract", 0.5, {
            "extract_error": {"best@50%": 2.5e-7}, "stored": {"compressed": stored, "teacher": stored},
            "facts": {"best@50%": facts, "sliced@50%": {"groups": 3}},
        }),
    }  # fmt: skip
    for position, (name, (verb, seconds, result)) in enumerate(results.items()):
        store.start_stage(name, position, verb)
        store.end_stage(name, "failed" if name == "extract" else "done", seconds, result)


def add_trials(store):
    for stage in ("sliced", "search"):
        for number, (heads, state) in enumerate(
            [(2, "done"), (4, "done"), (8, "screened"), (4, "done"), (6, "failed")]
        ):
            score = 0.5 + heads / 32 + number / 64 if state == "done" else None
            metrics = {} if score is None else {"accuracy": score}
            costs = {"params": 25.0 * heads, "macs": 100.0 * heads}
            examples = None if number == 3 else 16
            trial = Trial(arch(heads), score, (score,), metrics, costs, 0.0, state, "search", examples)
            store.add_trial(stage, number, trial, 0.25)
    store.add_trial("supernet", 0, Trial(arch(2), -0.5, (-0.5,), origin="train"), 0.125)


def add_models(store):
    full = {"family": "bert", "layers": layers((8, 16), (8, 16), (8, 32)), "head_size": 4}
    small = {"family": "bert", "layers": layers((4, 8), (2, 16)), "head_size": 4}
    compressed = small | {"quantised": {"layer.0": {"bits": 8, "n": 2, "m": 4}}}
    models = {
        "best@50%": ("extract", arch(4), compressed, 0.75, {"params": 100, "latency": 12.5, "latency_spread": 0.5}),
        "compressed": ("extract", None, compressed, 0.625, {"params": 100}),
        "sliced@50%": ("extract", arch(4), small, 0.5, {"params": 100.0, "latency": 11.0}),
        "supernet": ("supernet", None, full, 0.8125, {"params": 200, "macs": None}),
        "teacher": ("teacher", None, full, 0.875, {"params": 200, "latency": 20.0, "latency_cached": 1, "bits": 6400}),
        "written@25%": ("extract", arch(2), None, None, {}),
    }
    for name, (stage, own, blueprint, score, costs) in models.items():
        measured = {"accuracy": score, "hits": 0.25} if score is not None else {}
        fields = {"arch": own, "blueprint": blueprint, "metrics": {"dev": measured}, "costs": costs}
        store.put_model(name, stage=stage, path=f"models/{name}", **fields)


def add_facts(store):
    formats = {"accuracy": asdict(MetricFormat(percent=True, positive="spam")), "hits": {"companion": True}}
    split = SplitSummary("dev", 20, 18, 0, 1, 0, 0, [12, 8], longest=31, cut=0.05, measured=20)
    summary = DataSummary([DataSource("dev", "reviews.csv", 20, 2)], [split], ["no", "yes"], 3, 24)
    data = {"fingerprint": "a3f1", "sizes": {"dev": 20}, "primary": "accuracy", "labels": ["no", "yes"]}
    store.put("data", data | {"metrics": formats, "summary": asdict(summary)})
    store.put("command", ["nasframe", "run", "recorded.yaml"])
    store.put("notices", [{"place": "task.labels", "text": "Two classes were chosen."}])
    store.put("failure", {"stage": "extract", "text": "The disk is full.", "interrupted": False, "exit_code": 4})
    store.put("environments", [{"device": "cpu"}, {"device": "cuda"}])


@pytest.fixture
def recorded(tmp_path):
    """Return the directory of an invented run of numbers that every machine writes alike."""
    directory = tmp_path / "run"
    store = RunStore(directory, create=True, recipe=RECIPE)
    (directory / "env.json").write_text(json.dumps({"device": "cpu", "threads": 2}))
    add_stages(store)
    add_trials(store)
    add_models(store)
    add_facts(store)
    steps = [*range(1, 501), 506]
    for step in steps:
        store.log("supernet", step, {"loss": 1 / step, "best removal_error": 0.5})
    store.log("supernet", 501, {"loss": float("nan")})
    store.add_ledger("supernet", [LedgerEntry("student", 10, 320, 1500, 64.0, 128.0, 2, 4.0)])
    store.add_ledger("search", [LedgerEntry("evaluation", 0, 64, 300, 32.0, 0.0, 5, 3.0)])
    store.close()
    predictions = directory / "models" / "best@50%"
    predictions.mkdir(parents=True)
    (predictions / "predictions.csv").write_text("id,label,prediction\n")
    return directory


def test_every_field_is_as_it_was_recorded(recorded):
    expected = json.loads(EXPECTED.read_text())
    report = json.loads(json.dumps(gather(recorded), allow_nan=False))
    assert list(report) == list(expected)
    for field, value in expected.items():
        assert report[field] == value, field
    assert [list(model) for model in report["models"]] == [list(model) for model in expected["models"]]


def test_the_file_holds_what_is_returned(recorded):
    content = build(recorded)
    assert json.loads((recorded / "report.json").read_text()) == json.loads(json.dumps(content)) == gather(recorded)


def test_pages_show_what_the_run_has(recorded):
    build(recorded)
    markdown = (recorded / "report.md").read_text()
    page = (recorded / "report.html").read_text().replace("&gt;", ">").replace("&lt;", "<")
    texts = (
        "Stage extract: The disk is full.", "not finished", "over budget: 12.5 ms > 12 ms", "accuracy (spam)",
        "8 bits, 2:4", "0 of 50", "calibration", "32 texts",
        "Two classes were chosen.", "3 repeats", "Training took 192 multiply-accumulates", "searches 32",
        "smallest loss of 2 candidates within one standard error of the best score",
    )  # fmt: skip
    for text in texts:
        assert text in markdown, text
        assert text in page, text
