"""The classes of a label column: their order, the positive one, weights, and columns that are rather scores."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from words import Words, seeing

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.heads import Head, number
from nasframe_basics.classes import ordered, positive_class, same_looking, seem_scores
from nasframe_basics.glue import glue
from nasframe_basics.text import Split, TextTask
from nasframe_basics.text_classification import text_classification
from stand_in import write_net

NAMES = st.one_of(
    st.integers(-99, 99).map(str), st.sampled_from(["007", "7", "7.0", "1_0", "10", "nan", "inf", "1e1"]), st.text()
)


def write(file, labels):
    """Write a row a label."""
    file.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    return file


def make(file, **options):
    """Make a task and return it with what it said."""
    heard = []
    task = text_classification(file, tokenizer=Words(), notify=lambda *notice: heard.append(notice), **options)
    return task, heard


@pytest.mark.slow
@given(st.lists(NAMES, min_size=2, max_size=12, unique=True), st.randoms())
def test_the_order_is_by_value_then_text_whatever_the_set(names, draw):
    shuffled = draw.sample(names, len(names))
    assert ordered(set(names)) == ordered(dict.fromkeys(shuffled).keys() | set())
    found = ordered(set(names))
    values = [number(name) for name in found]
    numbers = [value for value in values if value is not None]
    assert numbers == sorted(numbers)
    assert values[: len(numbers)] == numbers
    texts = found[len(numbers) :]
    assert texts == sorted(texts)


def test_the_order_does_not_depend_on_the_process(tmp_path):
    file = write(tmp_path / "d.csv", ["007", "7", "10", "1_0", "b", "a", "1", "1.0"] * 8)
    code = f"import nasframe as nf; print(nf.make('task', 'text_classification', train={str(file)!r}, seed=0).labels)"
    found = set()
    for seed in "01":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert found == {str(["1", "1.0", "007", "7", "10", "1_0", "a", "b"])}


def test_numbers_beyond_floats_stay_apart_and_in_order():
    large = ["9007199254740993", "9007199254740992"]
    assert ordered(set(large)) == large[::-1]
    assert list(same_looking(large)) == []


@pytest.mark.parametrize("labels", [["1", "1.0", "2"], ["7", "007"], ["Yes", "yes", "no"]])
def test_spellings_of_one_stay_apart_and_are_told(labels, tmp_path):
    task, heard = make(write(tmp_path / "d.csv", labels * 10))
    assert set(task.labels) == set(labels)
    assert sum("spellings" in text for _, text in heard) == 1
    _, heard = make(write(tmp_path / "d.csv", ["a", "b"] * 10))
    assert not any("spellings" in text for _, text in heard)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (["0", "1", "1.0", "0"], ["0", "1"], "1.0 is '1' (10 rows written so)"),
        (["0.0", "1.0"], ["0", "1"], "0.0 is '0' (20 rows written so)"),
        (["0.5", "1.0", "1.5"], ["0.5", "1", "1.5"], "1.0 is '1' (10 rows written so)"),
        (["0", "1", '"1.0"'], ["0", "1", "1.0"], None),
        (["0", "1"], ["0", "1"], None),
        (["true", "false"], ["False", "True"], None),
    ],
)
def test_a_whole_number_of_jsonl_is_an_integer_and_that_is_told_once(labels, classes, said, tmp_path):
    """As text ``1.0`` is a class of its own, which is told too."""
    file = tmp_path / "d.jsonl"
    lines = [f'{{"text": "text {i}", "label": {label}}}\n' for i, label in enumerate(labels * 10)]
    file.write_text("".join(lines))
    task, heard = make(file)
    assert list(task.labels) == classes
    told = [(place, text) for place, text in heard if "decimal point" in text]
    assert len(told) == (said is not None)
    for place, text in told:
        assert place.startswith(f"{file}:")
        assert said in text
    assert any("spellings" in text for _, text in heard) == ('"1.0"' in labels)


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        ([f"{i / 40:.3f}" for i in range(40)], True),
        ([f"name {i}" for i in range(40)], True),
        ([str(i) for i in range(30)] + ["0"] * 10, False),
        ([f"{i % 20 / 20:.2f}" for i in range(60)], False),
    ],
)
def test_a_column_of_scores_suggests_a_regression(labels, refused, tmp_path):
    file = write(tmp_path / "d.csv", labels)
    if refused:
        with pytest.raises(UsageError, match="regression: true"):
            make(file)
    else:
        assert any("regression: true" in text for _, text in make(file)[1])
    for fine in (["0", "1", "2"] * 20, [f"{i % 6 / 2}" for i in range(60)]):
        assert seem_scores({label: fine.count(label) for label in fine}) == ""


@pytest.mark.parametrize(
    ("counts", "positive"),
    [
        ({"0": 1, "1": 9}, "1"),
        ({"0.0": 1, "1.0": 9}, "1.0"),
        ({"False": 1, "True": 9}, "True"),
        ({"no": 1, "Yes": 9}, "Yes"),
        ({"negative": 1, "positive": 9}, "positive"),
        ({"ham": 9, "spam": 1}, "spam"),
        ({"good": 1, "poor": 9}, "good"),
        ({"bad": 5, "good": 5}, "good"),
    ],
)
def test_the_positive_class_has_its_name_or_is_the_rarer(counts, positive, tmp_path):
    assert positive_class(counts, ordered(set(counts))) == positive
    labels = [label for label, count in counts.items() for _ in range(3 * count)]
    task, heard = make(write(tmp_path / "d.csv", labels), dev_share=8)
    assert task.metrics["f1"].positive == positive
    assert [place for place, _ in heard] == ["task.positive"]
    assert repr(positive) in heard[0][1]


def test_the_whole_training_file_decides_which_class_is_rarer(tmp_path):
    """Seeds and limits draw different rows, and may not change what is measured."""
    file = write(tmp_path / "d.csv", ["bad", "good"] * 20 + ["bad"])
    found = {make(file, seed=seed, train_limit=10)[0].metrics["f1"].positive for seed in range(6)}
    assert found == {"good"}


@pytest.mark.parametrize("head", [None, Head(("spam", "ham")), Head(("SPAM", "x", "Ham"))])
@pytest.mark.parametrize("wanted", ["ham", "spam", "SPAM"])
def test_positive_is_a_name_whatever_its_index(head, wanted, tmp_path):
    from sklearn.metrics import f1_score

    task, _ = make(write(tmp_path / "d.csv", ["ham", "spam", "ham"] * 20), positive=wanted, saved_head=head)
    result = task.evaluate(lambda **inputs: seeing(inputs, len(task.labels)), "dev")
    named = [[task.labels[i].lower() for i in result.predictions[key]] for key in ("label", "prediction")]
    truth, said = ([name == wanted.lower() for name in names] for names in named)
    assert result.metrics["f1"] == pytest.approx(f1_score(truth, said))
    assert task.metrics["f1"].positive.lower() == wanted.lower()


def test_f1_of_one_class_among_several_is_measured_if_it_is_named(tmp_path):
    file = write(tmp_path / "d.csv", ["a", "b", "c"] * 20)
    assert "f1" not in make(file)[0].metrics
    assert make(file, positive="c", metric="f1")[0].primary == "f1"
    with pytest.raises(UsageError, match="'f1' is not measured"):
        make(file, metric="f1")


def test_a_positive_class_that_is_none_is_refused(tmp_path):
    file = write(tmp_path / "d.csv", ["1", "2"] * 20)
    with pytest.raises(UsageError, match="no class '3'"):
        make(file, positive=3)
    with pytest.raises(UsageError, match="positive"):
        make(file, positive=1, regression=True)


@pytest.mark.parametrize("head", [None, Head(("spam", "other", "ham"))])
def test_class_weights_are_in_the_loss(head, tmp_path):
    file = write(tmp_path / "d.csv", ["ham", "ham", "ham", "spam"] * 20)
    plain, _ = make(file, saved_head=head)
    weighted, _ = make(file, saved_head=head, class_weights={"spam": 3.0})
    batch = plain.train_batches(0, 0, 16)[0]
    logits = torch.randn(len(batch), len(plain.labels), generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    weights = torch.tensor([3.0 if plain.labels[i] == "spam" else 1.0 for i in batch.labels.tolist()])
    outputs = types.SimpleNamespace(logits=logits)
    assert weighted.loss(outputs, batch).item() == pytest.approx((weights * losses).mean().item())
    assert plain.loss(outputs, batch).item() == pytest.approx(losses.mean().item())
    balanced, _ = make(file, saved_head=head, class_weights="balanced")
    rows = [row for batch in balanced.train_batches(0, 0, 16) for row in batch.labels.tolist()]
    share = {name: rows.count(list(plain.labels).index(name)) / len(rows) for name in ("ham", "spam")}
    by_name = {name: balanced._weights[list(plain.labels).index(name)] for name in share}
    assert share["ham"] * by_name["ham"] == pytest.approx(share["spam"] * by_name["spam"])
    assert sum(share[name] * by_name[name] for name in share) == pytest.approx(1)


def test_parts_of_a_weighted_batch_add_up_to_the_whole(tmp_path):
    task, _ = make(write(tmp_path / "d.csv", ["ham", "ham", "spam"] * 20), class_weights="balanced")
    batch = task.train_batches(0, 0, 16)[0]
    logits = torch.randn(len(batch), 2, generator=torch.Generator().manual_seed(0))
    whole = task.loss(types.SimpleNamespace(logits=logits), batch).item()
    parts = [task.loss(types.SimpleNamespace(logits=logits[r::2]), batch.part(r, 2)).item() * 8 for r in range(2)]
    assert sum(parts) / 16 == pytest.approx(whole)


def test_weights_of_no_class_are_refused(tmp_path):
    file = write(tmp_path / "d.csv", ["ham", "spam"] * 20)
    with pytest.raises(UsageError, match=r"class_weights: no class 'Spam'.*Did you mean 'spam'"):
        make(file, class_weights={"Spam": 2.0})
    with pytest.raises(UsageError, match="class_weights"):
        make(write(tmp_path / "s.csv", range(40)), class_weights="balanced", regression=True)


def test_recipes_name_classes_by_numbers_too(tmp_path):
    file = write(tmp_path / "d.csv", ["0", "1"] * 20)
    made = nf.make("task", "text_classification", train=str(file), class_weights={0: 2.0}, positive=0, seed=0)
    assert made._weights.tolist() == [2.0, 1.0]
    assert made.metrics["f1"].positive == "0"


def test_a_class_that_only_the_head_knows_is_in_predictions_and_not_in_the_mean(tmp_path):
    task, _ = make(write(tmp_path / "d.csv", ["a", "b"] * 20), saved_head=Head(("x", "b", "a")))

    def forward(**inputs):
        logits = torch.zeros(len(inputs["input_ids"]), 3)
        logits[:, 1] = 1
        logits[0, 0] = 2
        return types.SimpleNamespace(logits=logits)

    result = task.evaluate(forward, "dev")
    assert {"p_x", "p_a", "p_b"} <= result.predictions.keys()
    truth, said = np.array(result.predictions["label"]), np.array(result.predictions["prediction"])
    assert 0 in said
    hit = ((truth == 1) & (said == 1)).sum()
    assert result.metrics["macro_f1"] == pytest.approx(2 * hit / ((truth == 1).sum() + (said == 1).sum()) / 2)


def test_metrics_of_a_task_are_all_that_it_measures():
    splits = {"dev": Split([("a",), ("b c",)], np.array([0, 1])), "dev_mismatched": Split([("d",)], np.array([1]))}
    task = TextTask(splits, ["no", "yes"], ["accuracy", "f1"], "accuracy", Words())
    found = task.evaluate(lambda **inputs: seeing(inputs), "dev").metrics
    assert found.keys() == task.metrics.keys()
    assert {name for name, form in task.metrics.items() if form.dev_only} == {n for n in found if "_mismatched" in n}


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_glue_keeps_its_positive_class(name, tmp_path):
    from test_glue import write as write_glue

    path = write_glue(tmp_path / "data", name)
    assert glue(name, path=path).metrics["f1"].positive == {"mrpc": "equivalent", "qqp": "duplicate"}[name]


STAGES = "[{train: {save_as: net, max_steps: 1}}, {search: {sampler: random, trials: 2, objectives: [%s]}}]"


@pytest.mark.parametrize(
    ("task", "objective", "place"),
    [
        ("metric: acuracy", "accuracy", "task.metric"),
        ("metric: loss", "accuracy", "task.metric"),
        ("metric: spearman", "accuracy", "task.metric"),
        ("", "acuracy", "objectives.0"),
        ("", "loss", "objectives.0"),
        ("", "-accuracy", "objectives.0"),
        ("", "macs", "objectives.0"),
        ("", "spearman", "objectives.0"),
        ("", "accuracy", ""),
        ("", "-loss", ""),
        ("", "f1", ""),
    ],
)
def test_check_knows_what_a_task_measures(task, objective, place, tmp_path, capsys):
    write(tmp_path / "d.csv", ["a", "b"] * 20)
    file = tmp_path / "recipe.yaml"
    stages = STAGES % objective
    file.write_text(
        f"model: minilm-l6\ntask: {{use: text_classification, train: d.csv, {task}}}\n"
        f"space: {{use: width_depth, layers: [1, 2]}}\nstages: {stages}\n"
    )
    assert main(["check", str(file)]) == (2 if place else 0)
    assert place in capsys.readouterr().err


def test_check_knows_glues_metrics_by_task(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    for name, objective, code in (("cola", "mcc", 0), ("cola", "f1", 2), ("mnli", "accuracy_mismatched", 2)):
        file.write_text(
            f"model: minilm-l6\ntask: {{use: glue, name: {name}}}\n"
            f"space: {{use: width_depth, layers: [1, 2]}}\nstages: {STAGES % objective}\n"
        )
        assert main(["check", str(file)]) == code
        assert ("objectives.0" in capsys.readouterr().err) == (code == 2)


DEAF = """
from dataclasses import replace
from nasframe import hookimpl
from nasframe.testing.toy import ToyTask

class Deaf(ToyTask):
    metrics = {}

    def evaluate(self, forward, split, examples=None):
        found = super().evaluate(forward, split, examples)
        return replace(found, metrics={**found.metrics, "error": 1 - found.metrics["accuracy"]})

@hookimpl
def register_tasks(register):
    register("mute", Deaf)
"""


def recipe_of(tmp_path, task, objective):
    """Write a recipe of a tiny network, and return its file."""
    write_net(tmp_path / "net", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    (tmp_path / "deaf.py").write_text(DEAF)
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"plugins: [deaf.py]\nmodel: {{use: hf, path: net, head: new}}\ntask: {task}\n"
        f"space: {{use: width_depth}}\nstages: {STAGES % objective}\n"
    )
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "objective"),
    [("{use: text_classification, train: d.csv}", "f1"), ("mute", "acuracy"), ("mute", "-acuracy"), ("mute", "-flpos")],
)
def test_what_only_the_data_tell_of_metrics_is_refused_before_any_stage(task, objective, tmp_path, capsys):
    """``f1`` of three classes, and metrics of a task that does not tell what it measures."""
    write(tmp_path / "d.csv", ["a", "b", "c"] * 20)
    file = recipe_of(tmp_path, task, objective)
    assert main(["check", file]) == 0, capsys.readouterr().err
    for more in ([], ["--dry-run"]):
        capsys.readouterr()
        assert main(["run", file, "--out", str(tmp_path / "run"), *more]) == 2
        error = capsys.readouterr().err
        assert "stages.search.objectives" in error
        hints = {"acuracy": "Did you mean 'accuracy'?", "flpos": "Did you mean 'flops'?", "f1": ""}
        assert hints[objective.removeprefix("-")] in error


@pytest.mark.parametrize("objective", ["accuracy", "-error", "-error, accuracy", "accuracy, -macs"])
def test_check_takes_what_a_silent_task_may_measure_as_run_does(objective, tmp_path, capsys):
    file = recipe_of(tmp_path, "mute", objective)
    assert main(["check", file]) == 0, capsys.readouterr().err
    assert main(["run", file, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err


def test_the_largest_cost_is_no_aim_of_a_silent_task_either(tmp_path, capsys):
    file = recipe_of(tmp_path, "mute", "macs")
    for command in (["check", file], ["run", file, "--out", str(tmp_path / "run")]):
        assert main(command) == 2
        assert "less of a cost is better. Expected '-macs'" in capsys.readouterr().err
