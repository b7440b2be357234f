"""What a report says of single models: intervals, classes, cut texts, disagreements and the recommendation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report, confusion_matrix, f1_score

from nasframe.records import MetricFormat
from nasframe.report import example_stats
from nasframe.report import page as report_page
from nasframe.report import predictions as by_example
from nasframe.report.predictions import Predictions, ReadExamples, predictions_of
from nasframe.report.read import read_run
from nasframe.report.recommend import recommendations
from nasframe.report.records import Measure
from nasframe.report.roles import shipped, shown_role
from nasframe.store import RunStore
from run_directory import make_run

LABELS = ["a", "b"]


def drawn(seed: int, examples: int, classes: int, skill: float) -> Predictions:
    rng = np.random.default_rng([7, examples, classes])
    labels = rng.integers(classes, size=examples)
    own = np.random.default_rng([seed, examples])
    guesses = own.integers(classes, size=examples)
    right = own.random(examples) < skill
    confidence = own.random(examples)
    return Predictions(np.arange(examples), labels, np.where(right, labels, guesses), confidence)


def write(directory, name, predictions, model="models"):
    folder = directory / model / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["id,label,prediction,p_a,p_b"]
    for row in zip(predictions.ids, predictions.labels, predictions.predictions, predictions.confidence, strict=True):
        identity, label, prediction, confidence = row
        p = [1 - confidence, 1 - confidence]
        p[prediction] = confidence
        lines.append(f"{identity},{label},{prediction},{p[0]},{p[1]}")
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """An invented run with predictions, texts of some examples, and ids of those that were cut."""
    directory = make_run(tmp_path_factory.mktemp("runs") / "demo", trials=6)
    teacher = drawn(0, 200, 2, 0.8)
    write(directory, "teacher", teacher)
    for seed, name in enumerate(("best@75%", "best@50%", "best@30%"), start=1):
        write(directory, name, drawn(seed, 200, 2, 0.6))
    store = RunStore(directory)
    result = store.stage_result("extract")
    texts = {str(place): f"text number {place} <b>" for place in range(0, 200, 2)}
    store.end_stage("extract", "done", 1.0, result | {"examples": {"texts": texts, "cut": list(range(0, 40))}})
    store.close()
    return directory


# ---- against independent computations


@given(seed=st.integers(0, 50), examples=st.integers(2, 60), classes=st.integers(2, 5), skill=st.floats(0, 1))
def test_classes_are_those_of_scikit_learn(seed, examples, classes, skill):
    model, teacher = drawn(seed, examples, classes, skill), drawn(99, examples, classes, 0.9)
    names = [f"c{number}" for number in range(classes)]
    matrix = by_example.confusion(model, classes)
    assert matrix == confusion_matrix(model.labels, model.predictions, labels=range(classes)).tolist()
    rows = by_example.class_rows(names, matrix, by_example.confusion(teacher, classes))
    expected = classification_report(
        model.labels, model.predictions, labels=range(classes), target_names=names, output_dict=True, zero_division=0.0
    )
    for row in rows:
        found = {"precision": row.precision, "recall": row.recall, "f1-score": row.f1, "support": row.examples}
        assert {key: value or 0.0 for key, value in found.items()} == pytest.approx(expected[row.name])


@pytest.mark.parametrize("metric", ["accuracy", "mcc", "macro_f1", "f1"])
def test_intervals_are_those_of_examples_drawn_one_by_one(metric):
    model, teacher = drawn(1, 150, 2, 0.5), drawn(2, 150, 2, 0.8)

    def by_hand(labels, predictions):
        values = []
        for row, guess in zip(np.atleast_2d(labels), np.atleast_2d(predictions), strict=True):
            counts = confusion_matrix(row, guess, labels=[0, 1])
            values.append(float(example_stats.confusion_metric(metric, counts)))
        return np.array(values) if np.ndim(labels) > 1 else values[0]

    counted = by_example.difference(model, teacher, metric, positive=1)
    drawn_one_by_one = example_stats.example_bootstrap(
        model.labels, model.predictions, teacher.predictions, by_hand, resamples=1500
    )
    assert counted.value == pytest.approx(drawn_one_by_one.difference)
    assert counted.low == pytest.approx(drawn_one_by_one.low, abs=0.03)
    assert counted.high == pytest.approx(drawn_one_by_one.high, abs=0.03)


def test_many_classes_take_no_confusion_matrix_for_the_accuracy():
    model, teacher = drawn(1, 400, 150, 0.5), drawn(2, 400, 150, 0.8)
    gap = by_example.difference(model, teacher, "accuracy", None)
    right = (model.predictions == model.labels).astype(int) - (teacher.predictions == teacher.labels)
    assert gap.value == pytest.approx(right.mean())
    error = right.std() / np.sqrt(len(right))
    assert gap.low == pytest.approx(right.mean() - 1.96 * error, abs=0.3 * error)
    assert gap.high == pytest.approx(right.mean() + 1.96 * error, abs=0.3 * error)
    model = drawn(1, 2000, 30, 0.5)
    macro = by_example.interval(model, "macro_f1", None)
    assert macro.value == pytest.approx(f1_score(model.labels, model.predictions, average="macro", zero_division=0.0))


def test_glue_s_mean_metrics_have_intervals_too():
    model = drawn(1, 100, 2, 0.5)
    both = by_example.interval(model, "accuracy_f1", positive=1)
    accuracy, f1 = (by_example.interval(model, metric, positive=1) for metric in ("accuracy", "f1"))
    assert both.value == pytest.approx((accuracy.value + f1.value) / 2)
    rng = np.random.default_rng(0)
    truth = rng.random(80)
    scores = Predictions(np.arange(80), truth, truth + 0.1 * rng.standard_normal(80))
    mean = by_example.interval(scores, "pearson_spearman", None)
    assert mean.low < mean.value < mean.high
    assert by_example.interval(scores, "accuracy", None) is None


# ---- reading


def test_rows_of_another_split_do_not_count():
    columns = {"id": [0, 0, 1], "label": [0, 1, 1], "prediction": [0, 0, 1], "split": ["dev", "other", "dev"]}
    assert predictions_of(columns).labels.tolist() == [0, 1]


@pytest.mark.parametrize("columns", [{"id": [1]}, {"id": [1], "label": ["no"], "prediction": ["yes"]}])
def test_predictions_of_another_kind_are_left_alone(columns):
    assert predictions_of(columns) is None


def test_the_most_confident_errors_come_first_and_what_is_better_last():
    ids, labels = np.arange(5), np.array([0, 0, 1, 1, 1])
    teacher = Predictions(ids, labels, np.array([0, 0, 1, 1, 0]), np.ones(5))
    model = Predictions(ids, labels, np.array([1, 1, 1, 0, 1]), np.array([0.6, 0.9, 0.5, 0.7, 0.8]))
    rows = by_example.disagreements(model, teacher, LABELS, ReadExamples({1: "text"}, frozenset({3})))
    assert [row.id for row in rows] == [1, 3, 0, 4]
    assert [row.text for row in rows] == ["text", "", "", ""]
    assert [row.cut for row in rows] == [False, True, False, False]
    assert (rows[0].label, rows[0].model, rows[0].teacher, rows[0].confidence) == ("a", "b", "a", 0.9)


def test_other_examples_are_never_compared():
    model, teacher = drawn(1, 50, 2, 0.5), drawn(1, 60, 2, 0.5)
    assert by_example.difference(model, teacher, "accuracy", None) is None
    assert by_example.notable(model, teacher) == []
    assert by_example.cut_scores(model, teacher, "accuracy", None, ReadExamples({}, frozenset({1}))) is None


# ---- the report


def test_models_have_intervals_and_shipped_ones_details(run_dir):
    report = read_run(run_dir)
    rows = {model.name: model for model in report.models}
    teacher, half = drawn(0, 200, 2, 0.8), drawn(2, 200, 2, 0.6)
    right = (half.predictions == half.labels).mean() - (teacher.predictions == teacher.labels).mean()
    assert rows["best@50%"].gain_interval.value == pytest.approx(right)
    assert rows["teacher"].gain_interval is None
    assert rows["supernet"].interval is None  # it has no predictions
    details = {detail.model: detail for detail in report.details}
    assert details.keys() == {"best@75%", "best@50%", "best@30%"}
    half_detail = details["best@50%"]
    assert np.sum(half_detail.confusion) == half_detail.examples == 200
    cut = half_detail.cut
    assert (cut.cut, cut.examples) == (40, 200)
    is_right = half.predictions == half.labels
    assert (cut.on_cut, cut.on_others) == pytest.approx((is_right[:40].mean(), is_right[40:].mean()))


def test_the_page_opens_with_the_recommendation(run_dir):
    report_page.build(run_dir)
    for name in ("report.md", "report.html"):
        text = (run_dir / name).read_text()
        opening = text.index("Recommendation")
        assert opening < text.index("For 50%, ship best@50%") < text.index("Accuracy against cost")
        for words in ("Class by class: best@50%", "Where best@50% and the teacher disagree", "40 of 200 dev texts"):
            assert words in text, words
    assert "&lt;b&gt;" in (run_dir / "report.html").read_text()  # texts come from data
    assert (run_dir / "figures" / "models.png").is_file()
    content = json.loads((run_dir / "report.json").read_text())
    assert [entry["model"] for entry in content["recommendations"]] == ["best@75%", "best@50%", "best@30%"]


def test_what_is_not_resolved_is_said(run_dir):
    report = read_run(run_dir)
    (first, *others) = report.models[2:3]
    near = replace(first, gain=-0.01, gain_interval=Measure(-0.01, -0.03, 0.01))
    changed = replace(report, models=[*report.models[:2], near, *others, *report.models[3:]])
    text = recommendations(changed)[0].text
    assert "1.0 points below the teacher (95 % interval −3.0 to +1.0, which includes no difference)" in text
    over = replace(near, over_budget="12.4 ms > 12 ms")
    changed = replace(changed, models=[*report.models[:2], over, *report.models[3:]])
    assert "over its budget by its final costs: 12.4 ms > 12 ms" in recommendations(changed)[0].text


def test_one_network_under_two_budgets_is_named_once(run_dir):
    report = read_run(run_dir, examples=False)
    rows = {model.name: model for model in report.models}
    twin = replace(rows["best@30%"], arch=rows["best@50%"].arch, metrics=rows["best@50%"].metrics)
    models = [twin if model.name == "best@30%" else model for model in report.models]
    texts = {entry.model: entry.text for entry in recommendations(replace(report, models=models))}
    assert texts["best@30%"] == "best@30% is the same network as best@50%."


def test_a_model_that_was_trained_on_is_shipped_instead_of_its_winner(run_dir):
    report = read_run(run_dir, examples=False)
    winner = next(model for model in report.models if model.name == "best@50%")
    tuned = replace(winner, name="tuned@50%", role="model")
    names = [model.name for model in shipped([*report.models, tuned])]
    assert "tuned@50%" in names
    assert "best@50%" not in names


def test_sizes_that_were_written_out_are_no_baseline_of_nothing(run_dir):
    report = read_run(run_dir, examples=False)
    written = next(model for model in report.models if model.role == "baseline")
    assert shown_role(report.models, written) == "baseline"
    alone = [model for model in report.models if model.role != "winner"]
    assert shown_role(alone, written) == "model"
    assert written in shipped(alone)


def test_a_run_of_an_earlier_version_has_no_details(tmp_path):
    report = read_run(make_run(tmp_path / "run", trials=3))
    assert report.details == []
    assert report.formats["accuracy"]["percent"]
    assert MetricFormat().percent is False
