"""``nasframe init`` and ``compress`` on a table whose rows have several labels."""

import contextlib
import io
import json
import random

import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from conftest import SIZES, WORDS, load
from nasframe.cli import main
from nasframe.report.predictions import predictions_of
from stand_in import SPECIAL, write_net

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TAGS = ("sad", "fun", "odd")


def write_tickets(home):
    """Write tickets as lists and as columns; a tag holds if its word is there."""
    draw = random.Random(0)
    rows = []
    for _ in range(160):
        words = draw.choices(WORDS[len(SPECIAL) :], k=8)
        rows.append((" ".join(words), [tag for place, tag in enumerate(TAGS) if WORDS[len(SPECIAL) + place] in words]))
    lines = [json.dumps({"body": body, "tags": tags}) for body, tags in rows]
    (home / "lists.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = [",".join(["body", *TAGS])]
    for body, tags in rows:
        table.append(",".join([body, *(str(int(tag in tags)) for tag in TAGS)]))
    (home / "columns.csv").write_text("\n".join(table), encoding="utf-8")


def write_tagger(home):
    """Write a model that says a tag if its word is there: its outputs are in another order than the table's labels."""
    write_net(home / "tagger", WORDS, **SIZES)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        net = BertForSequenceClassification.from_pretrained(
            home / "tagger", num_labels=3, problem_type="multi_label_classification", ignore_mismatched_sizes=True
        )
    net.config.id2label = dict(enumerate(TAGS))
    net.config.label2id = {tag: output for output, tag in enumerate(TAGS)}
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        ids = torch.randint(len(SPECIAL), len(WORDS), (32, 8), generator=generator)
        ids[:, 0] = torch.randint(len(SPECIAL), len(SPECIAL) + 3, (32,), generator=generator)
        answers = torch.stack([(ids == len(SPECIAL) + place).any(1) for place in range(3)], 1).float()
        batch = torch.cat([torch.full((32, 1), 2), ids, torch.full((32, 1), 3)], 1)
        net(input_ids=batch, labels=answers).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        net.save_pretrained(home / "tagger")


@pytest.fixture
def tickets(user):
    write_tickets(user)
    return user


@pytest.mark.parametrize(
    ("table", "flags", "expected"),
    [
        ("lists.jsonl", [], {"label": "tags", "multi_label": True}),
        ("columns.csv", ["--label", "sad,fun,odd"], {"label": ["sad", "fun", "odd"]}),
    ],
)
def test_init_writes_a_task_of_several_labels(tickets, capsys, table, flags, expected):
    assert main(["init", "base", table, "--methods", "magnitude", "--out", "out", *flags]) in (0, None)
    task = yaml.safe_load((tickets / "out/recipe.yaml").read_text(encoding="utf-8"))["task"]
    assert {key: task[key] for key in expected} == expected
    said = " ".join(capsys.readouterr().err.split())
    assert "a teacher is trained first" in said
    assert "label odd" in said
    assert "no label" in said


def test_a_tagger_is_compressed_and_its_export_is_a_pipelines(tickets, monkeypatch, capsys):
    from in_process import InProcess

    monkeypatch.setattr("nasframe.export.write.Verifier", InProcess)
    write_tagger(tickets)
    arguments = ["compress", "tagger", "lists.jsonl", "--methods", "magnitude", "--budget", "60%", "--out", "out"]
    assert main([*arguments, "--no-progress"]) in (0, None)
    said = " ".join(capsys.readouterr().err.split())
    assert "its head is trained for these labels (micro_f1" in said
    folder = tickets / "out/models/best-60"
    net = load(folder)
    assert net.config.problem_type == "multi_label_classification"
    assert net.config.id2label == dict(enumerate(TAGS))

    (table,) = tickets.glob("out/run/**/best*/predictions.csv")
    found = predictions_of(pd.read_csv(table, dtype=str).to_dict("list"))
    assert found.are_sets
    (result,) = json.loads((tickets / "out/recommendation.json").read_text(encoding="utf-8"))
    (network,) = result["methods"][0]["networks"]
    scores = network["metrics"]["dev"]
    assert scores["micro_f1"] == pytest.approx(f1_score(found.labels, found.predictions, average="micro"))
    assert scores["subset_accuracy"] == pytest.approx(accuracy_score(found.labels, found.predictions))
    pipe = pipeline("text-classification", model=net, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None)
    answers = {answer["label"]: answer["score"] for answer in pipe(WORDS[len(SPECIAL)])[0]}
    with torch.no_grad():
        logits = net(**AutoTokenizer.from_pretrained(folder)(WORDS[len(SPECIAL)], return_tensors="pt")).logits[0]
    assert answers == pytest.approx(dict(zip(TAGS, logits.sigmoid().tolist(), strict=True)), abs=1e-5)

    page = (tickets / "out/run/report.html").read_text(encoding="utf-8")
    assert "Label by label" in page
    assert "wrongly said" in page
