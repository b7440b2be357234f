"""Texts without labels: only distillation trains on them, and everything else is as if they were not there."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nasframe as nf
from nasframe.interfaces import distilled_task
from nasframe.notices import Notices
from nasframe.recipe.resolve import check_recipe
from nasframe.running.dry_run import dry_run
from nasframe.store import RunStore
from nasframe_basics.glue import glue
from nasframe_basics.text_classification import text_classification
from stand_in import WORDS, write_net

ROWS = [("good film", 1), ("bad film", 0), ("fine plot", 1), ("dull plot", 0)] * 5
MORE = ["good plot", "the dull film", "a fine film", "bad film", "the plot"]


@pytest.fixture
def home(tmp_path):
    lines = [f"{text} {WORDS[5 + number % 8]},{label}" for number, (text, label) in enumerate(ROWS)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (tmp_path / "more.csv").write_text("text\n" + "\n".join(MORE) + "\n")
    write_net(tmp_path / "net", hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
    return tmp_path


def tokenizer(home):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(home / "net")


def task_of(home, notify=None, **options):
    options = {"train": "train.csv", "max_length": 8, "unlabelled": "more.csv", **options}
    return text_classification(base=home, tokenizer=tokenizer(home), notify=notify or Notices(), **options)


def ids(task):
    return sorted(number for batch in task.train_batches(0, 0, 4) for number in batch.ids.tolist())


def test_only_the_task_of_a_distilling_stage_has_them_in_its_batches(home):
    task, without = task_of(home), task_of(home, unlabelled=None)
    labelled = task.sizes["train"]
    assert task.sizes == without.sizes
    assert ids(task) == ids(without) == list(range(labelled))
    assert ids(distilled_task(task)) == list(range(labelled + len(MORE)))
    assert ids(distilled_task(without)) == ids(without)
    for ours, theirs in zip(task.train_batches(0, 1, 4), without.train_batches(0, 1, 4), strict=True):
        assert torch.equal(ours.inputs["input_ids"], theirs.inputs["input_ids"])
        assert torch.equal(ours.labels, theirs.labels)


def test_an_example_without_label_is_its_text(home):
    task = distilled_task(task_of(home))
    start = task.sizes["train"]
    batch = task.batch("train", np.arange(start, start + len(MORE)))
    texts = tokenizer(home).batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
    assert texts == MORE
    assert set(batch.labels.tolist()) == {-100}


@pytest.mark.parametrize("options", [{}, {"class_weights": {"1": 3.0}}, {"regression": True}])
def test_the_loss_skips_them(home, options):
    task = distilled_task(task_of(home, **options))
    start = task.sizes["train"]
    mixed = task.batch("train", np.array([0, start, 1, start + 1]))
    outputs = 1 if options.get("regression") else 2
    logits = torch.randn(4, outputs, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = task.loss(SimpleNamespace(logits=logits), mixed)
    loss.backward()
    expected = 0.0
    for row in (0, 2):
        label = mixed.labels[row].item()
        values = logits[row].detach().double()
        if outputs == 1:
            expected += (values.item() - label) ** 2
        else:
            weight = options.get("class_weights", {}).get(task.labels[label], 1.0)
            expected += weight * (math.log(values.exp().sum()) - values[label].item())
    assert loss.item() == pytest.approx(expected / 4, rel=1e-6)
    assert torch.equal(logits.grad[[1, 3]], torch.zeros(2, outputs))
    assert logits.grad[[0, 2]].abs().min() > 0


def test_measuring_on_train_leaves_them_out_and_the_fingerprint_knows_them(home):
    task, without = distilled_task(task_of(home)), task_of(home, unlabelled=None)
    assert task.fingerprint != without.fingerprint

    def forward(input_ids, **inputs):
        return SimpleNamespace(logits=torch.stack([input_ids.sum(1).float(), input_ids[:, 1].float()], 1))

    assert task.evaluate(forward, "train").metrics == without.evaluate(forward, "train").metrics


def test_the_summary_counts_them_and_overlaps_are_told(home):
    notices = Notices()
    task = task_of(home, notices, dev="train.csv")
    (column,) = [split for split in task.summary.splits if split.name == "unlabelled"]
    assert (column.rows, column.texts, column.classes) == (5, 5, [0, 0])
    assert task.summary.unused == 0
    assert ("unlabelled", 5) in [(source.split, source.rows) for source in task.summary.sources]
    (home / "more.csv").write_text("text\ngood film good\n")
    task_of(home, notices, dev="train.csv")
    assert any("3 of 20 rows of dev have a text that stands here too" in notice.text for notice in notices)


def recipe(home, **changes):
    data = {
        "model": {"use": "hf", "path": str(home / "net")},
        "task": {"use": "text_classification", "train": "train.csv", "unlabelled": "more.csv", "max_length": 8},
        "stages": [
            {"train": {"save_as": "teacher", "epochs": 1, "batch_size": 4}},
            {"train": {"name": "distil", "epochs": 1, "batch_size": 4, "teacher_cache": "run", "modifiers": ["kd"]}},
        ],
    }
    path = home / "recipe.yaml"
    path.write_text(json.dumps(data | changes))
    return path


def test_a_run_distils_from_them_and_trains_on_labels_without_them(home):
    plan = nf.resolve(nf.load_recipe(recipe(home)))
    run = nf.run(plan, out=home / "run", report=False, progress=False)
    store = RunStore(run.directory, shared=True)
    ledger = {(row["stage"], row["role"]): row["examples"] for row in store.rows("ledger")}
    store.close()
    labelled = task_of(home).sizes["train"]
    assert ledger["teacher", "student"] == labelled
    assert ledger["distil", "student"] == ledger["distil", "teacher"] == labelled + len(MORE)
    steps = [stage["what"].split(",")[1] for stage in dry_run(plan)["stages"]]
    assert steps == [f" {math.ceil(labelled / 4)} steps of 4", f" {math.ceil((labelled + len(MORE)) / 4)} steps of 4"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stages": [{"train": {"max_steps": 1}}]}, "only distillation uses examples without labels"),
        (
            {
                "stages": [
                    {"train": {"save_as": "teacher", "max_steps": 1}},
                    {"train": {"max_steps": 1, "modifiers": [{"use": "kd", "weight": 0}]}},
                ]
            },
            "only distillation uses examples without labels",
        ),
        ({"task": {"use": "text_classification", "train": "train.csv", "unlabelled": "none.csv"}}, "none.csv"),
        (
            {"task": {"use": "text_classification", "train": "train.csv", "text": "label", "label": "text"}
            | {"unlabelled": "more.csv"}},
            "no column 'label'",
        ),
    ],
)  # fmt: skip
def test_check_refuses_what_cannot_work(home, changes, text):
    _, problems = check_recipe(recipe(home, **changes))
    assert [problem for problem in problems if problem.path == "task.unlabelled" and text in problem.text], problems


def test_glue_takes_them_too(home):
    folder = home / "SST-2"
    folder.mkdir()
    rows = "\n".join(f"{text} {number}\t{label}" for number, (text, label) in enumerate(ROWS))
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{rows}\n")
    Path(home / "more.tsv").write_text("index\tsentence\n0\tgood plot\n")
    task = glue("sst2", path=folder, unlabelled=home / "more.tsv", tokenizer=tokenizer(home), notify=Notices())
    assert ids(distilled_task(task)) == list(range(task.sizes["train"] + 1))
