"""Texts for which several labels may hold: reading, splits, loss, metrics, distillation and the checkpoint's head."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from nasframe.errors import UsageError
from nasframe.heads import Head, match
from nasframe.interfaces import SearchJob, is_categorical, output_kind
from nasframe.labels import IndependentLabels, are_independent
from nasframe.nn.losses import independent_distillation, matching
from nasframe.notices import Notices
from nasframe.records import Batch
from nasframe.report import predictions as by_example
from nasframe.report.example_stats import metric_difference, metric_interval
from nasframe.testing.toy import tiny_tokenizer
from nasframe_basics import metrics
from nasframe_basics.evaluators import Agreement
from nasframe_basics.labelled import UNLABELLED, weights_of
from nasframe_basics.models import HF
from nasframe_basics.splits import Split, carve, strata
from nasframe_basics.text_classification import text_classification

NAMES = ["odd", "fun", "sad"]
PLAIN = {"select": 10, "tokenizer": tiny_tokenizer()}


def rows(count=80):
    draw = np.random.default_rng(0)
    table = []
    for number in range(count):
        holds = draw.random(3) < (0.1, 0.5, 0.4)
        labels = [name for name, holds_here in zip(NAMES, holds, strict=True) if holds_here]
        table.append({"text": f"word {number} of text", "labels": labels})
    return table


def written(folder, layout):
    """Write the rows in a layout; return the options of the task."""
    table = rows()
    if layout == "jsonl":
        path = folder / "t.jsonl"
        path.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
        return {"train": path, "label": "labels", "multi_label": True}
    frame = pd.DataFrame(table)
    if layout == "parquet":
        frame.to_parquet(folder / "t.parquet")
        return {"train": folder / "t.parquet", "label": "labels", "multi_label": True}
    path = folder / "t.csv"
    if layout == "columns":
        for name in NAMES:
            frame[name] = [int(name in row["labels"]) for row in table]
        frame.drop(columns="labels").to_csv(path, index=False)
        return {"train": path, "label": ["fun", "odd", "sad"]}
    if layout == "delimited":
        frame["labels"] = [" ; ".join(labels) for labels in frame["labels"]]
    frame.to_csv(path, index=False)  # lists as Python writes them, else
    return {"train": path, "label": "labels", "multi_label": True}


SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
LAYOUTS = ("jsonl", "parquet", "columns", "delimited", "python lists")


def test_every_layout_gives_the_same_task(tmp_path):
    made = {}
    for layout in LAYOUTS:
        folder = tmp_path / layout
        folder.mkdir()
        notices = Notices()
        made[layout] = text_classification(**written(folder, layout), **PLAIN, notify=notices)
        said = [notice.text for notice in notices]
        assert any("probability is above 0.5" in text for text in said)
        assert any("';' between them" in text for text in said) == (layout == "delimited")
    first = made["jsonl"]
    assert first.labels == ("fun", "odd", "sad")
    assert are_independent(first.labels)
    for task in made.values():
        assert (task.labels, task.fingerprint, task.sizes) == (first.labels, first.fingerprint, first.sizes)
    assert first.primary == "micro_f1"
    assert list(first.metrics) == ["micro_f1", "macro_f1", "subset_accuracy", "label_accuracy", "loss"]


def test_the_summary_counts_labels_and_rows_without_any(tmp_path):
    task = text_classification(**written(tmp_path, "jsonl"), **PLAIN, notify=Notices())
    summary = task.summary
    assert summary.independent
    table = rows()
    for place, name in enumerate(task.labels):
        assert sum(split.classes[place] for split in summary.splits) == sum(name in row["labels"] for row in table)
    assert sum(split.without_label for split in summary.splits) == sum(not row["labels"] for row in table)


def save(folder, labels, problem_type="multi_label_classification"):
    net = BertForSequenceClassification(BertConfig(**SIZES, num_labels=len(labels), problem_type=problem_type))
    net.config.id2label = dict(enumerate(labels))
    net.config.label2id = {label: output for output, label in enumerate(labels)}
    net.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return net.eval()


@pytest.fixture
def in_reverse(tmp_path):
    """A checkpoint whose outputs are the labels in another order, with one more, and the task with it."""
    plain = save(tmp_path / "model", ["sad", "new", "odd", "fun"])
    model = HF(tmp_path / "model", notify=Notices())
    task = text_classification(**written(tmp_path, "jsonl"), **PLAIN, saved_head=model.head(), notify=Notices())
    return plain, model, task


def test_scores_are_those_of_plain_transformers_whatever_the_order_of_the_head(in_reverse):
    plain, model, task = in_reverse
    assert task.labels == ("sad", "new", "odd", "fun")
    net = model.load(task.labels, seed=0)
    assert net.config.problem_type == "multi_label_classification"
    assert net.config.id2label == plain.config.id2label
    torch.testing.assert_close(net.classifier.weight, plain.classifier.weight)
    result = task.evaluate(net, "dev")

    texts = task.readable("dev", result.predictions["id"])
    inputs = tiny_tokenizer()(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = plain(**inputs).logits.double()
    probabilities = logits.sigmoid().numpy()
    known = [0, 2, 3]  # the data have no label "new"
    by_text = {row["text"]: row["labels"] for row in rows()}
    truth = np.array([[plain.config.id2label[output] in by_text[text] for output in known] for text in texts])
    predicted = probabilities[:, known] > 0.5
    for name, values in zip(("sad", "new", "odd", "fun"), probabilities.T, strict=True):
        np.testing.assert_allclose(result.predictions[f"p_{name}"], values, atol=1e-5)
    expected = {
        "micro_f1": sklearn_metrics.f1_score(truth, predicted, average="micro", zero_division=0.0),
        "subset_accuracy": sklearn_metrics.accuracy_score(truth, predicted),
        "label_accuracy": 1 - sklearn_metrics.hamming_loss(truth, predicted),
        "loss": functional.binary_cross_entropy_with_logits(logits[:, known], torch.tensor(truth).double()).item(),
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-6), name
    for outputs, right in zip(result.predictions["label"], truth, strict=True):
        assert outputs == [known[place] for place in np.flatnonzero(right)]


def test_outputs_that_the_data_do_not_know_are_not_trained(in_reverse):
    _, model, task = in_reverse
    net = model.load(task.labels, seed=0)
    batch = task.train_batches(0, 0, 16)[0]
    task.loss(net(**batch.inputs), batch).backward()
    gradients = net.classifier.weight.grad.abs().sum(1)
    assert gradients[1] == 0
    assert (gradients[[0, 2, 3]] > 0).all()


def test_a_head_that_chooses_one_class_is_kept_with_a_notice_but_is_no_teacher(tmp_path):
    save(tmp_path / "model", ["sad", "odd", "fun"], "single_label_classification")
    model = HF(tmp_path / "model", notify=Notices())
    labels = IndependentLabels(["fun", "odd", "sad"])
    found = match(model.head(), labels)
    assert found.kept
    assert "trained to choose one of its classes" in found.notices[-1]
    assert "chooses one class" in model.untrained(labels)
    assert model.untrained(["fun", "odd", "sad"]) == ""


def test_given_names_keep_what_the_outputs_are(tmp_path):
    save(tmp_path / "model", ["LABEL_0", "LABEL_1", "LABEL_2"])
    model = HF(tmp_path / "model", labels=["sad", "odd", "fun"], notify=Notices())
    assert model.head() == Head(("sad", "odd", "fun"), "multi_label", given=True, model=str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"label": ["fun"]}, "label: 1 columns in a list. Expected two or more"),
        ({"label": "labels"}, r"label \[.*\] in 'labels' is a list.*or multi_label: true"),
        ({"label": "labels", "multi_label": True, "regression": True}, "regression: several labels in a row"),
        ({"label": "labels", "separator": ";"}, "separator: stands between the labels of one column"),
        ({"label": "labels", "multi_label": True, "separator": ""}, "separator: is empty"),
        ({"label": "labels", "multi_label": True, "positive": "fun"}, "of several labels none is the positive one"),
        ({"label": ["labels", "text"]}, "Expected a different column for each"),
        ({"label": "labels", "multi_label": True, "metric": "mcc"}, "'mcc' is not measured here"),
        ({"label": "labels", "multi_label": True, "class_weights": {"fin": 2}}, "no class 'fin'.*Did you mean 'fun'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, problem):
    written(tmp_path, "jsonl")
    with pytest.raises(UsageError, match=problem):
        text_classification(train=tmp_path / "t.jsonl", **options, **PLAIN, notify=Notices())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["a b c,x;y", "d e f,x|z"], r"separator: 'l' has ';' .*t.csv:2.* and '\|' .*t.csv:3"),
        (["a b c,x", "d e f,"], "labels in 'l': only 'x'. Expected two labels or more"),
        (["a b c,", "d e f,"], "labels in 'l': none"),
        (["a b c,[x", "d e f,x", "g,[y]"], r"t.csv:4: '\[y\]' in 'l' is no list"),
    ],
)
def test_cells_that_hold_no_labels_are_refused_with_their_row(tmp_path, lines, problem):
    (tmp_path / "t.csv").write_text("\n".join(["text,l", *lines]), encoding="utf-8")
    with pytest.raises(UsageError, match=problem):
        text_classification(train=tmp_path / "t.csv", label="l", multi_label=True, **PLAIN, notify=Notices())


def test_other_cells_than_answers_are_refused_with_their_row(tmp_path):
    (tmp_path / "t.csv").write_text("text,a,b\nx y,1,no\nz,2,0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"t.csv:3: '2' in the label column 'a'. Expected 1 or 0"):
        text_classification(train=tmp_path / "t.csv", label=["a", "b"], **PLAIN, notify=Notices())


def test_classes_that_look_like_several_labels_are_said(tmp_path):
    lines = [f"text {number},{label}" for number, label in enumerate(["x", "y", "x;y", "y;z", "z", "x;z"] * 10)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    notices = Notices()
    task = text_classification(train=tmp_path / "t.csv", **PLAIN, notify=notices)
    assert len(task.labels) == 6
    assert any("multi_label: true reads several labels" in notice.text for notice in notices)


def test_labels_that_hold_for_no_row_or_for_all_are_said(tmp_path):
    lines = [f"text {number},0,1,{number % 2}" for number in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["text,never,always,some", *lines]), encoding="utf-8")
    notices = Notices()
    text_classification(train=tmp_path / "t.csv", label=["never", "always", "some"], **PLAIN, notify=notices)
    said = " ".join(notice.text for notice in notices)
    assert "The label never holds for no row" in said
    assert "The label always holds for every row" in said


# ---- numbers

SETS = arrays(np.int8, st.tuples(st.integers(2, 30), st.just(4)), elements=st.integers(0, 1))


@settings(deadline=None, max_examples=60)
@given(SETS, st.randoms(use_true_random=False))
def test_metrics_are_those_of_scikit_learn(labels, draw):
    predictions = np.array([[draw.randint(0, 1) for _ in row] for row in labels], dtype=np.int8)
    plain = {"zero_division": 0.0}
    assert metrics.micro_f1(labels, predictions) == pytest.approx(
        sklearn_metrics.f1_score(labels, predictions, average="micro", **plain)
    )
    seen = np.flatnonzero(labels.any(0) | predictions.any(0))
    of_labels = [sklearn_metrics.f1_score(labels[:, label], predictions[:, label], **plain) for label in seen]
    expected = np.mean(of_labels) if of_labels else 0.0
    assert metrics.macro_f1(labels, predictions, classes=range(4)) == pytest.approx(expected)
    assert metrics.subset_accuracy(labels, predictions) == sklearn_metrics.accuracy_score(labels, predictions)
    hamming = sklearn_metrics.hamming_loss(labels, predictions)
    assert metrics.label_accuracy(labels, predictions) == pytest.approx(1 - hamming)
    # The report computes its intervals around the same numbers.
    functions = {
        "micro_f1": metrics.micro_f1, "macro_f1": metrics.macro_f1, "subset_accuracy": metrics.subset_accuracy
    }  # fmt: skip
    for name, function in functions.items():
        interval = metric_interval(labels, predictions, name, None, resamples=50)
        assert interval.difference == pytest.approx(function(labels, predictions))
        assert metric_difference(labels, predictions, predictions, name, None, resamples=50) == (0, 0, 0)


def test_an_interval_is_that_of_a_plain_bootstrap():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (200, 3))
    first, second = (np.where(draw.random((200, 3)) < share, labels, 1 - labels) for share in (0.9, 0.7))
    got = metric_difference(labels, first, second, "micro_f1", None, resamples=4000)
    drawn = draw.integers(200, size=(2000, 200))
    gaps = [metrics.micro_f1(labels[i], first[i]) - metrics.micro_f1(labels[i], second[i]) for i in drawn]
    np.testing.assert_allclose(got[1:], np.percentile(gaps, [2.5, 97.5]), atol=0.01)


@settings(deadline=None, max_examples=60)
@given(SETS, st.integers(0, 3))
def test_an_example_is_dealt_by_the_rarest_of_its_labels(labels, seed):
    counts = labels.sum(0)
    for row, stratum in zip(labels, strata(labels), strict=True):
        if not row.any():
            assert stratum == 4
        else:
            assert row[stratum]
            assert counts[stratum] == min(counts[row == 1])


def test_rare_labels_are_in_both_parts_of_a_split():
    labels = np.zeros((1000, 3), dtype=np.int8)
    labels[:, 0] = 1
    labels[::2, 1] = 1
    labels[:20, 2] = 1
    data = Split([(f"text {number}",) for number in range(1000)], labels)
    rest, carved = carve(data, "10%", None, seed=0)
    assert carved.labels.sum(0).tolist() == [100, pytest.approx(50, abs=2), 2]
    assert len(rest) == 900


def test_the_loss_is_torchs_with_weights_of_what_holds_and_without_texts_that_have_no_labels(tmp_path):
    (tmp_path / "more.csv").write_text("text\none more\nand another\n", encoding="utf-8")
    options = written(tmp_path, "jsonl") | {"unlabelled": tmp_path / "more.csv"}
    task = text_classification(**options, **PLAIN, class_weights={"odd": 3.0}, notify=Notices())
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1], [UNLABELLED] * 3])
    loss = task.loss(SimpleNamespace(logits=logits), Batch({}, labels, torch.arange(4)))
    of_labelled = functional.binary_cross_entropy_with_logits(
        logits[:3], labels[:3].float(), pos_weight=torch.tensor([1.0, 3.0, 1.0]), reduction="sum"
    )
    torch.testing.assert_close(loss, of_labelled / 12)
    batches = list(task.with_unlabelled().train_batches(0, 0, 8))
    assert sum((batch.labels == UNLABELLED).all(1).sum().item() for batch in batches) == 2


def test_balanced_weights_make_both_answers_count_alike():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert weights_of("balanced", ["a", "b", "c"], labels).tolist() == [3.0, 1.0, 1.0]


def test_distillation_compares_each_label_by_itself():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    p, q = (torch.distributions.Bernoulli(logits=logits / 2.0) for logits in (student, teacher))
    expected = 4.0 * torch.distributions.kl_divergence(q, p).mean()
    torch.testing.assert_close(independent_distillation(student, teacher, 2.0), expected)
    torch.testing.assert_close(matching("independent", student, teacher, 2.0), expected)
    task = SimpleNamespace(labels=IndependentLabels(["a", "b", "c"]))
    assert output_kind(task) == "independent"
    assert not is_categorical(task)
    agreement = Agreement("teacher")
    agreement.start(SearchJob(["-divergence"], 0, "search", task=task))
    of_examples = agreement._of_examples(student.double(), teacher.double())
    assert of_examples.shape == (5,)
    torch.testing.assert_close(of_examples.mean().float(), matching("independent", student, teacher))


def test_extreme_logits_have_a_finite_distillation():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = independent_distillation(logits, -logits.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# ---- the report


def test_a_file_of_predictions_is_read_as_it_was_measured(in_reverse):
    _, model, task = in_reverse
    columns = task.evaluate(model.load(task.labels, seed=0), "dev").predictions
    as_text = {name: [str(value) for value in column] for name, column in columns.items()}
    direct, read = by_example.predictions_of(columns), by_example.predictions_of(as_text)
    assert direct.matches(read)
    assert direct.are_sets
    assert direct.labels.shape == (16, 4)
    np.testing.assert_array_equal(direct.predictions, read.predictions)
    rates = by_example.label_rows(task.labels, direct, direct)
    for place, row in enumerate(rates):
        truth, predicted = direct.labels[:, place], direct.predictions[:, place]
        assert row.examples == truth.sum()
        if truth.any() and predicted.any():
            assert row.precision == pytest.approx(sklearn_metrics.precision_score(truth, predicted))
            assert row.recall == pytest.approx(sklearn_metrics.recall_score(truth, predicted))
    counts = by_example.label_counts(direct)
    assert all(sum(vars(count).values()) == 16 for count in counts)


def test_disagreements_name_the_labels():
    labels = np.array([[1, 0], [0, 0]])
    teacher = by_example.Predictions(np.arange(2), labels, labels)
    model = by_example.Predictions(np.arange(2), labels, np.array([[1, 1], [0, 0]]), np.array([0.9, 0.8]))
    (row,) = by_example.disagreements(model, teacher, ["fun", "sad"], by_example.ReadExamples({}))
    assert (row.id, row.label, row.model, row.teacher) == (0, "fun", "fun, sad", "fun")
    assert by_example.only_one_right(model, teacher)[:2] == (0, 1)
