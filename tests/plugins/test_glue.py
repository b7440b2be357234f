import csv
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from words import Words, seeing

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.recipe.resolve import check_recipe
from nasframe_basics.glue import TASKS, glue
from stand_in import WORDS, write_net

REAL = Path(os.environ.get("NASFRAME_GLUE") or Path(__file__).parents[3] / "shared" / "glue")

MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
HEADERS = {  # GLUE's own
    "cola": None,
    "sst2": "sentence label",
    "mrpc": "Quality;#1 ID;#2 ID;#1 String;#2 String",
    "stsb": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "mnli": f"{MNLI} sentence1 sentence2 label1 gold_label",
    "qnli": "index question sentence label",
    "rte": "index sentence1 sentence2 label",
    "wnli": "index sentence1 sentence2 label",
}


def fields(name, i):
    """One row as GLUE writes it; its label is ``i`` modulo the number of classes."""
    one, two = f'first " text {i}', f"second text {i}"
    names = TASKS[name].labels
    label = names[i % len(names)] if names else str(i % 6 / 2)
    if TASKS[name].numbered:
        label = str(i % len(names))
    return {
        "cola": ["gj04", label, "*" if label == "0" else "", one],
        "sst2": [one, label],
        "mrpc": [label, "1", "2", one, two],
        "stsb": ["0", "g", "f", "y", "0", "none", "none", one, two, label],
        "qqp": ["0", "1", "2", one, two, label],
        "mnli": [*["x"] * 8, one, two, *["x"] * 1, label],
        "qnli": ["0", one, two, label],
        "rte": ["0", one, two, label],
        "wnli": ["0", one, two, label],
    }[name]


def write(folder, name, train=40, dev=12):
    folder.mkdir(exist_ok=True)
    header = HEADERS[name]
    head = [] if header is None else [header.split(";") if ";" in header else header.split()]
    files = {"train": range(train), "dev": range(100, 100 + dev)}
    if name == "mnli":
        files = {"train": range(train), "dev_matched": range(100, 100 + dev), "dev_mismatched": range(200, 200 + dev)}
    for file, rows in files.items():
        columns = head
        if file.startswith("dev_"):  # the development files have five annotators' labels
            columns = [[*head[0][:-2], *(f"label{n}" for n in range(1, 6)), "gold_label"]]
        lines = columns + [fields(name, i) for i in rows]
        if file.startswith("dev_"):
            lines[1:] = [[*line[:-2], *["x"] * 5, line[-1]] for line in lines[1:]]
        mark = "\ufeff" if name == "mrpc" else ""
        (folder / f"{file}.tsv").write_text(mark + "\n".join("\t".join(line) for line in lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_read_from_its_own_layout(name, tmp_path):
    made = glue(name, path=str(write(tmp_path / "data", name)), tokenizer=Words(), select=8)
    assert made.sizes["train"] + made.sizes["select"] == 40
    assert made.sizes["dev"] == 12
    names = TASKS[name].labels
    truth = [i % len(names) if names else i % 6 / 2 for i in range(100, 112)]
    result = made.evaluate(lambda **i: seeing(i, len(names) if names else 1), "dev")
    assert result.predictions["label"][:12] == truth
    assert set(TASKS[name].metrics) <= set(result.metrics)
    assert made.primary == TASKS[name].metrics[0]
    texts = made._splits["dev"].texts[0]
    assert texts == ('first " text 100', "second text 100")[: len(TASKS[name].texts)]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_learned(name, tmp_path):
    made = glue(name, path=str(write(tmp_path / "data", name)), tokenizer=Words(), select=8)
    batch = next(iter(made.train_batches(0, 0, 5)))
    assert batch.labels.dtype == (torch.int64 if made.labels else torch.float32)
    outputs = len(made.labels) if made.labels else 1
    logits = torch.zeros(5, outputs, requires_grad=True)
    made.loss(types.SimpleNamespace(logits=logits), batch).backward()
    assert logits.grad.abs().sum(1).gt(0).all()


@pytest.mark.parametrize("recipe", ["yoco_bert/minilm", "yoco_bert/published/minilm"])
@pytest.mark.parametrize("name", TASKS)
def test_a_recipe_for_any_task_takes_every_task(recipe, name, tmp_path):
    write(tmp_path / TASKS[name].folder, name)
    plan, problems = check_recipe(recipe, [f"task.name={name}", f"task.path={tmp_path}"])
    assert problems == []
    assert plan.task["name"] == name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["yoco_bert/minilm", "yoco_bert/published/minilm"])
@pytest.mark.parametrize("name", TASKS)
def test_a_recipe_for_any_task_runs_on_every_task(recipe, name, tmp_path):
    write(tmp_path / TASKS[name].folder, name, train=120, dev=24)
    sizes = {"hidden_size": 48, "num_attention_heads": 12, "num_hidden_layers": 6, "intermediate_size": 1536}
    model = write_net(tmp_path / "net", WORDS, max_position_embeddings=160, **sizes)
    changes = ["smoke=true", f"model={model}", f"task.name={name}", f"task.path={tmp_path}"]
    recipe = nf.load_recipe(recipe, [*changes, "estimators.latency={repeats: 1}"])
    run = nf.run(recipe, out=tmp_path / "run", progress=False)
    assert (run.directory / "report.html").is_file()


def test_check_names_the_files_that_a_folder_lacks(tmp_path):
    write(tmp_path, "mnli")
    next(tmp_path.rglob("dev_mismatched.tsv")).unlink()
    problems = check_recipe("yoco_bert/minilm", ["task.name=mnli", f"task.path={tmp_path}"])[1]
    assert [problem.path for problem in problems] == ["task.path"]
    assert "dev_mismatched.tsv: no such file" in problems[0].text


def test_mnli_measures_both_development_sets(tmp_path):
    made = glue("mnli", path=str(write(tmp_path / "data", "mnli")), tokenizer=Words())
    result = made.evaluate(lambda **i: seeing(i, 3), "dev")
    assert {"accuracy", "accuracy_mismatched"} <= set(result.metrics)
    assert result.examples == len(result.predictions["id"]) == 24
    right = np.array(result.predictions["label"]) == np.array(result.predictions["prediction"])
    parts = np.array(result.predictions["split"])
    assert result.metrics["accuracy"] == right[parts == "dev"].mean()
    assert result.metrics["accuracy_mismatched"] == right[parts == "dev_mismatched"].mean()


def test_paths_are_read_against_the_recipes_folder_and_glues_own(tmp_path):
    write(tmp_path / "SST-2", "sst2")
    direct = glue("sst2", path="SST-2", base=tmp_path)
    assert glue("sst2", path=".", base=tmp_path).fingerprint == direct.fingerprint
    assert glue("sst2", path=str(tmp_path / "SST-2")).fingerprint == direct.fingerprint
    assert glue("sst2", path="SST-2", base=tmp_path, seed=1).fingerprint != direct.fingerprint


def test_a_train_limit_leaves_select_its_share_of_it(tmp_path):
    made = glue("sst2", path=str(write(tmp_path / "data", "sst2")), train_limit=20)
    assert dict(made.sizes) == {"train": 20, "dev": 12, "select": 2}


def test_qqps_broken_rows_are_left_out_and_others_refused(tmp_path):
    for name in ("qqp", "rte"):
        file = write(tmp_path / name, name) / "train.tsv"
        file.write_text(file.read_text() + "\n7\tcut off")
    assert sum(glue("qqp", path=str(tmp_path / "qqp")).sizes.values()) == 52
    with pytest.raises(UsageError, match=r"train\.tsv:42: unreadable row: 2 fields\. Expected 4\."):
        glue("rte", path=str(tmp_path / "rte"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"good\t2", r"dev\.tsv:14: unknown label '2' in 'label'\. Expected one of 0, 1\."),
        (b"\xff\xfe\t1", r"dev\.tsv:14: byte 0xff is not UTF-8"),
        (b"good\t1\tmore", r"dev\.tsv:14: unreadable row: 3 fields\. Expected 2\."),
    ],
)
def test_a_bad_row_is_named(line, message, tmp_path):
    file = write(tmp_path / "data", "sst2") / "dev.tsv"
    file.write_bytes(file.read_bytes() + b"\n" + line + b"\n")
    with pytest.raises(UsageError, match=message):
        glue("sst2", path=str(tmp_path / "data"))


def test_a_missing_file_an_empty_one_a_missing_column_and_an_unknown_task_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere.train\.tsv: no such file"):
        glue("sst2", path="nowhere", base=tmp_path)
    folder = write(tmp_path / "data", "sst2")
    (folder / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(UsageError, match=r"dev\.tsv: no rows"):
        glue("sst2", path=str(folder))
    (folder / "dev.tsv").write_text("sentence\tlabels\ngood\t1\n")
    with pytest.raises(UsageError, match=r"dev\.tsv:2: no 'label'.*'sentence', 'labels'"):
        glue("sst2", path=str(folder))
    with pytest.raises(UsageError, match=r"unknown task 'sst'\. Expected one of cola, sst2"):
        glue("sst", path=str(folder))


HUB_COLUMNS = {  # the hub's own
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    "rte": ["sentence1", "sentence2"],
    "wnli": ["sentence1", "sentence2"],
}


@pytest.mark.parametrize("name", TASKS)
def test_the_hubs_layout_gives_the_same_data(name, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write(tmp_path / "tsv", name)
    hub = tmp_path / "hub"
    hub.mkdir()
    columns = HUB_COLUMNS[name]
    lines = ["---", "configs:", f"- config_name: {name}", "  data_files:"]
    for file in sorted(folder.glob("*.tsv")):
        split = file.stem.replace("dev", "validation")
        lines += [f"  - split: {split}", f"    path: {split}.csv"]
        with file.open() as source, (hub / f"{split}.csv").open("w", newline="") as target:
            rows = list(csv.reader(source, delimiter="\t", quoting=csv.QUOTE_NONE))
            rows[0][0] = rows[0][0].removeprefix("\ufeff")
            rows = [list(TASKS[name].header), *rows] if HEADERS[name] is None else rows
            keep = [rows[0].index(column) for column in (*TASKS[name].texts, TASKS[name].label)]
            csv.writer(target).writerows([[*columns, "label"], *([row[i] for i in keep] for row in rows[1:])])
    names = TASKS[name].labels
    if TASKS[name].numbered:  # indices with names, as the hub has them
        lines += ["dataset_info:", f"- config_name: {name}", "  features:"]
        lines += [f"  - {{name: {column}, dtype: string}}" for column in columns]
        classes = ", ".join(f"'{i}': {n}" for i, n in enumerate(names))
        lines += [f"  - {{name: label, dtype: {{class_label: {{names: {{{classes}}}}}}}}}"]
    (hub / "README.md").write_text("\n".join([*lines, "---", ""]))
    direct, made = glue(name, path=str(folder)), glue(name, hub="hub", base=tmp_path)
    assert made.sizes == direct.sizes
    assert made.fingerprint == direct.fingerprint


@pytest.mark.parametrize(
    ("name", "folder", "train", "dev"),
    [("cola", "CoLA", 8551, 1043), ("mrpc", "MRPC", 3667, 408), ("sst2", "SST-2", 67349, 872)],
)
def test_the_published_files_are_read_whole(name, folder, train, dev):
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {folder} in {REAL}; NASFRAME_GLUE names GLUE's folder")
    made = glue(name, path=str(REAL), select=400)
    split = made._splits
    assert len(split["dev"]) == dev
    assert (len(split["train"]), len(split["select"])) == (train - 400, 400)
    assert not set(split["train"].texts) & set(split["select"].texts)
    quoted = any('"' in part for text in split["train"].texts for part in text)
    assert quoted == (name != "sst2")
