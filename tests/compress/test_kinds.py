"""Held-out kinds of data, each with a checkpoint of another family, to a winner that plain transformers load.

The scores are checked against predictions that the exported network makes in a process without nasframe.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from transformers import (
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from conftest import WORDS, write_mails, write_tuned
from nasframe.cli import main
from stand_in import SPECIAL

pytestmark = pytest.mark.slow

BERT_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": len(WORDS)}
PADDED = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
MODELS = {
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(n_layers=3, dim=32, n_heads=4, hidden_dim=64, vocab_size=len(WORDS))
    ),
    "roberta": lambda: RobertaModel(RobertaConfig(num_hidden_layers=4, **BERT_SIZES, **PADDED)),
    "electra": lambda: ElectraModel(ElectraConfig(num_hidden_layers=3, embedding_size=16, **BERT_SIZES)),
    "mpnet": lambda: MPNetModel(MPNetConfig(num_hidden_layers=2, **BERT_SIZES, **PADDED)),
    "deberta": lambda: DebertaV2Model(DebertaV2Config(num_hidden_layers=2, **BERT_SIZES, relative_attention=True)),
}
PREDICT = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
assert "nasframe" not in sys.modules
folder, columns = sys.argv[1], json.loads(sys.stdin.read())
net = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(*columns, return_tensors="pt", padding=True, truncation=True, max_length=128)
with torch.no_grad():
    logits = net(**inputs).logits
names = net.config.id2label
if net.config.problem_type == "multi_label_classification":
    outputs = [[names[i] for i, logit in enumerate(row) if logit > 0] for row in logits.tolist()]
elif net.config.num_labels == 1:
    outputs = logits[:, 0].tolist()
else:
    outputs = [names[i] for i in logits.argmax(1).tolist()]
print(json.dumps(outputs))
"""


def text(draw):
    return " ".join(draw.choices(WORDS[len(SPECIAL) :], k=8))


def number_of(sentence):
    return int(sentence.split()[0].removeprefix("word"))


def pairs(home, draw):
    rows = [(text(draw), text(draw)) for _ in range(240)]
    frame = pd.DataFrame(rows, columns=["premise", "hypothesis"])
    frame["gold"] = [["entailed", "not"][number_of(first) % 2] for first, _ in rows]
    frame.to_csv(home / "train.csv", index=False)
    return ["premise", "hypothesis"], "gold", ["--text", "premise", "--text", "hypothesis"]


def eight_classes(home, draw):
    frame = pd.DataFrame({"question": [text(draw) for _ in range(600)]})
    frame["intent"] = [f"intent {number_of(sentence) % 8}" for sentence in frame["question"]]
    frame.to_csv(home / "train.tsv", index=False, sep="\t")
    return ["question"], "intent", []


def regression(home, draw):
    frame = pd.DataFrame({"text": [text(draw) for _ in range(240)]})
    frame["score"] = [number_of(sentence) / 7 for sentence in frame["text"]]
    frame.to_csv(home / "train.csv", index=False)
    return ["text"], "score", []


def parquet(home, draw):
    frame = pd.DataFrame({"id": range(240), "body": [text(draw) for _ in range(240)]})
    frame["flag"] = [number_of(sentence) % 2 for sentence in frame["body"]]
    frame.to_parquet(home / "train.parquet")
    return ["body"], "flag", ["--label", "flag"]


def unicode_lines(home, draw):
    lines = []
    for _ in range(240):
        sentence = text(draw)
        row = {"satz": f"{sentence} — „déjà“ 日本", "klasse": ["schön", "öde"][number_of(sentence) % 2]}
        lines.append(json.dumps(row, ensure_ascii=False))
    (home / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["satz"], "klasse", []


def several_labels(home, draw):
    lines = []
    for _ in range(240):
        sentence = text(draw)
        number = number_of(sentence)
        row = {"body": sentence, "tags": [f"t{part}" for part in (2, 3, 5) if number % part == 0]}
        lines.append(json.dumps(row))
    (home / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["body"], "tags", []


KINDS = {
    "pairs": (pairs, "roberta"),
    "eight classes": (eight_classes, "electra"),
    "regression": (regression, "mpnet"),
    "parquet": (parquet, "distilbert"),
    "unicode": (unicode_lines, "deberta"),
    "several labels": (several_labels, "roberta"),
}


def predicted(folder, columns):
    """Return the outputs of an export, by a process that has no nasframe."""
    command = [sys.executable, "-P", "-c", PREDICT, str(folder)]
    done = subprocess.run(command, input=json.dumps(columns), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_data_with_a_checkpoint_of_another_family(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make, family = KINDS[kind]
    MODELS[family]().save_pretrained("model")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained("model")
    texts, label, flags = make(tmp_path, random.Random(1))
    (table,) = tmp_path.glob("train.*")
    # The same rows once more, in another order of the words, are the development set.
    reader = {"csv": pd.read_csv, "tsv": lambda path: pd.read_csv(path, sep="\t"), "parquet": pd.read_parquet,
              "jsonl": lambda path: pd.read_json(path, lines=True, dtype=False)}[table.suffix[1:]]  # fmt: skip
    frame = reader(table)
    dev = frame.sample(80, random_state=0)
    dev[texts[0]] = [" ".join([first, *reversed(rest)]) for first, *rest in map(str.split, dev[texts[0]])]
    dev.to_csv("dev.csv", index=False)
    arguments = ["compress", "model", table.name, "--dev", "dev.csv", "--methods", "magnitude", "--budget", "60%",
                 "--out", "out", "--no-progress", *flags]  # fmt: skip
    assert main(arguments) in (0, None)
    (result,) = json.loads(Path("out/recommendation.json").read_text(encoding="utf-8"))
    (network,) = result["methods"][0]["networks"]
    outputs = predicted("out/models/best-60", [dev[name].tolist() for name in texts])
    metrics = network["metrics"]["dev"]
    if kind == "regression":
        assert metrics["pearson"] == pytest.approx(pearsonr(outputs, dev[label])[0], abs=1e-4)
    elif kind == "several labels":
        binarizer = MultiLabelBinarizer(classes=["t2", "t3", "t5"])
        truth, predicted_labels = binarizer.fit_transform(dev[label]), binarizer.transform(outputs)
        expected = f1_score(truth, predicted_labels, average="micro", zero_division=0.0)
        assert metrics["micro_f1"] == pytest.approx(expected, abs=1e-6)
        assert metrics["subset_accuracy"] == pytest.approx(accuracy_score(truth, predicted_labels), abs=1e-9)
    else:
        expected = [str(value) for value in dev[label]]
        assert metrics["accuracy"] == pytest.approx(accuracy_score(expected, outputs), abs=1e-9)
        assert metrics["macro_f1"] == pytest.approx(f1_score(expected, outputs, average="macro"), abs=1e-6)


def test_rare_classes_in_a_checkpoints_reversed_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_mails(tmp_path)
    write_tuned(tmp_path)
    mails = pd.read_csv("mails.csv")
    dev = mails.iloc[200:]
    mails.iloc[:200].to_csv("train.csv", index=False)
    dev.to_csv("dev.csv", index=False)
    arguments = ["compress", "tuned", "train.csv", "--dev", "dev.csv", "--budget", "60%", "--out", "out"]
    assert main([*arguments, "--no-progress"]) in (0, None)
    (result,) = json.loads(Path("out/recommendation.json").read_text(encoding="utf-8"))
    (network,) = result["methods"][0]["networks"]
    outputs = predicted("out/models/best-60", [dev["body"].tolist()])
    assert set(outputs) <= {"SPAM", "HAM"}
    folders = [folder.upper() for folder in dev["folder"]]
    assert network["metrics"]["dev"]["macro_f1"] == pytest.approx(f1_score(folders, outputs, average="macro"), abs=1e-6)
