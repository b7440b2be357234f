"""A metric reads as its task says, in every table, whatever its name; what stands beside it stands everywhere."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from nasframe.export.files import card_text
from nasframe.interfaces import Loading
from nasframe.records import MetricFormat
from nasframe.report import page as report
from nasframe.report import plots, tables
from nasframe.report.read import read_run
from nasframe.store import RunStore
from nasframe.testing.toy import tiny_net
from nasframe_studies import compare, evidence, study
from nasframe_studies import tables as study_tables
from nasframe_studies.records import OTHER_EXAMPLES, as_json, from_json
from run_directory import make_run
from study_directory import change

LABELS = ["spam", "ham"]
FORMATS = {
    "f1_loss": MetricFormat(),  # its name says nothing
    "recall_time": MetricFormat(higher_is_better=False),
    "hits": MetricFormat(percent=True),
    "hits_mismatched": MetricFormat(percent=True, companion=True, dev_only=True),
    "f1": MetricFormat(percent=True, positive="spam"),
}


def retell(directory, primary, values):
    """Give an invented run other metrics, with their formats."""
    store = RunStore(directory)
    data = store.get("data") | {"primary": primary, "labels": LABELS}
    store.put("data", data | {"metrics": {name: asdict(form) for name, form in FORMATS.items()}})
    for (name,) in store.db.execute("SELECT name FROM model").fetchall():
        store.put_model(name, metrics={"dev": values})
    store.close()
    return directory


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", trials=8)


@pytest.fixture
def run(pattern, tmp_path):
    shutil.copytree(pattern, tmp_path / "run")
    return tmp_path / "run"


def pages(found):
    """Return the report's pages and its summary as text."""
    table = tables.summary_table(found, 200)
    columns = [column.header for column in table.columns]
    cells = [cell for column in table.columns for cell in column.cells]
    return [report.markdown(found), report.html(found, {}), " ".join(map(str, columns + cells))]


def test_no_format_is_guessed_by_a_name(run):
    found = read_run(retell(run, "f1_loss", {"f1_loss": 0.873}))
    for page in pages(found):
        assert "0.873" in page
        assert "87.3" not in page
    assert not found.metric_format("best@50% select_f1_loss").percent
    assert found.metric_format("best@50% select_hits").percent


def test_a_share_by_any_name_is_in_per_cent(run):
    for page in pages(read_run(retell(run, "hits", {"hits": 0.873}))):
        assert "87.3 %" in page


def test_the_positive_class_is_named(run):
    found = read_run(retell(run, "f1", {"f1": 0.873}))
    for page in pages(found):
        assert "f1 (spam)" in page
    search = found.searches[0]
    assert plots.pareto(found, search, search.costs[0]).axes[0].get_ylabel() == "f1 (spam)"


def test_what_stands_beside_a_metric_is_in_every_table(run):
    found = read_run(retell(run, "hits", {"hits": 0.873, "hits_mismatched": 0.512}))
    for page in pages(found):
        assert "hits_mismatched" in page
        assert "51.2 %" in page


def test_a_model_card_names_the_positive_class_and_the_mismatched_set():
    net = tiny_net()
    data = {"metrics": {name: asdict(form) for name, form in FORMATS.items()}}
    card = {"data": data, "metrics": {"f1": 0.5, "hits_mismatched": 0.25, "recall_time": 3.0}}
    loading = Loading(Path("load.py"))
    text = card_text("m", net, loading, card, {"own": 1})
    assert "| f1 (spam) | 50.00 % |" in text
    assert "| hits_mismatched | 25.00 % |" in text
    assert "- recall_time" not in text
    assert "- f1\n" in text


def test_runs_from_before_tasks_told_read_as_they_did(run):
    found = read_run(run)
    assert found.metric_format("accuracy").percent
    assert not found.metric_format("mcc").percent


@pytest.fixture
def compared(pattern, tmp_path):
    """Return a comparison of two arms whose runs measure ``hits`` and the mismatched set, and its directory."""
    entries = []
    for arm, level in (("random", 0.5), ("sng", 0.6)):
        for seed in range(3):
            place = f"{arm}/{seed}"
            shutil.copytree(pattern, tmp_path / place)
            change(tmp_path / place, arm, "mnli", seed)
            values = {"hits": level + 0.01 * seed, "hits_mismatched": level - 0.25, "f1": level}
            retell(tmp_path / place, "hits", values)
            entries.append({"arm": arm, "task": "mnli", "seed": seed, "run": place})

    def analysed(metric):
        rows = [entry | row for entry in entries for row in study.run_rows(tmp_path / entry["run"], metric)]
        settings = {
            "study": "s", "arms": {"random": {}, "sng": {}}, "runs": entries,
            "compare": {"metric": metric, "split": "dev", "against": "random"},
        }  # fmt: skip
        return compare.analyse(tmp_path, pd.DataFrame(rows), settings)

    return analysed


def test_the_mismatched_set_is_in_the_tables_of_a_comparison(compared):
    found = from_json(as_json(compared(None)))
    row = study_tables.rows(found, found.tables[0])[1]
    assert row.score == "61.0 ± 1.0, hits_mismatched 35.0 ± 0.0"
    heading, first, *_ = study_tables.overview(found)
    assert "hits_mismatched 25.0" in first[heading.index("teacher")]
    assert "× 100" in study_tables.about(found, [found.tables[0]])


def turn(directory, labels):
    """Give a run's head the other order of two outputs, and record these classes."""
    store = RunStore(directory)
    store.put("data", store.get("data") | {"labels": labels})
    store.close()
    for path in (directory / "models").glob("*/predictions.csv"):
        table = pd.read_csv(path)
        table.assign(label=1 - table["label"], prediction=1 - table["prediction"]).to_csv(path, index=False)


@pytest.mark.slow
@pytest.mark.parametrize("turned", ["random", "sng"])
@pytest.mark.parametrize("metric", ["f1", None])
def test_heads_in_other_orders_are_compared_by_the_names_of_the_classes(compared, tmp_path, metric, turned):
    before = compared(metric).examples
    for seed in range(3):
        turn(tmp_path / turned / str(seed), LABELS[::-1])
    assert compared(metric).examples == before
    assert all(row.n and row.p is not None and row.note is None for row in before)
    assert all(row.difference is not None for row in before if metric == "f1")


@pytest.mark.parametrize("labels", [None, ["eggs", "spam"], ["spam", "spam"], ["ham", "spam", "eggs"]])
def test_heads_of_other_or_unknown_classes_are_not_compared_by_example(compared, tmp_path, labels):
    for seed in range(3):
        turn(tmp_path / "sng" / str(seed), labels)
    assert {row.note for row in compared(None).examples} == {OTHER_EXAMPLES}


def test_predictions_without_numbers_of_outputs_stay_as_they_are():
    named = pd.DataFrame({"id": [0, 1], "label": ["spam", "ham"], "prediction": ["ham", "ham"]})
    assert evidence._in_order(named, LABELS, LABELS[::-1]) is named


def f1_of(output, directory):
    """Return the F1 of an output in a model's predictions."""
    table = pd.read_csv(directory / "predictions.csv")
    label, prediction = table["label"] == output, table["prediction"] == output
    return 2 * (label & prediction).sum() / (label.sum() + prediction.sum())


def test_a_comparison_names_the_positive_class_and_resamples_its_f1(compared, tmp_path):
    found = compared("f1")
    assert "f1 (spam)" in study_tables.about(found, [found.tables[0]])
    assert len(found.examples) == 9
    for row in found.examples:
        folders = [tmp_path / arm / str(row.seed) / "models" / f"best@{row.model}" for arm in ("sng", "random")]
        spam, ham = (f1_of(output, folders[0]) - f1_of(output, folders[1]) for output in (0, 1))
        assert row.difference == pytest.approx(spam)
        assert row.difference != pytest.approx(ham)


def test_examples_are_resampled_for_the_positive_class():
    """Class 0 is positive here: its F1 differs between the models, that of class 1 differs otherwise."""
    first = pd.DataFrame({"id": range(6), "label": [0, 0, 0, 1, 1, 1], "prediction": [0, 0, 1, 1, 1, 1]})
    second = first.assign(prediction=[0, 0, 0, 0, 1, 1])
    zero = evidence._pair(first, second, "f1", 0).difference
    assert zero == pytest.approx(0.8 - 6 / 7)
    assert evidence._pair(first, second, "f1", 1).difference == pytest.approx(6 / 7 - 0.8)
    extra = second.assign(prediction=[0, 0, 0, 2, 1, 1])
    assert evidence._pair(first, extra, "macro_f1").difference is None
