"""A recipe's own ``teacher``: loaded, measured and distilled from, in place of the stage that trains one."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
)

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.folders import model_folder
from nasframe.recipe.resolve import check_recipe
from nasframe.report.read import read_run
from nasframe.running import runner
from nasframe.running.cache_keys import chains
from nasframe.running.dry_run import dry_run
from nasframe.stages import verbs
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore
from nasframe_deploy.deploy import deploy
from nasframe_studies.file import load_study
from stand_in import WORDS, write_net, write_reviews

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 3}
REVERSED = {"id2label": {0: "1", 1: "0"}, "label2id": {"1": 0, "0": 1}}


@pytest.fixture
def home(tmp_path):
    """A folder with a fine-tuned teacher whose labels are reversed, an encoder without a head, and texts."""
    write_net(tmp_path / "tuned", **SIZES, **REVERSED)
    write_net(tmp_path / "small", kind=BertModel, **{**SIZES, "hidden_size": 8})
    write_reviews(tmp_path)
    return tmp_path


def written(home, method="magnitude", **changes):
    """Write what a user writes; ``None`` takes a key out."""
    data = {
        "extends": str(ROOT / f"recipes/methods/{method}.yaml"),
        "teacher": {"use": "hf", "path": str(home / "tuned")},
        "task": {"use": "text_classification", "train": str(home / "reviews.csv"), "max_length": 12},
    }
    data |= changes
    path = home / "recipe.yaml"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return path


def loaded(home, *overrides, **changes):
    return nf.load_recipe(written(home, **changes), ["smoke=true", *overrides])


QUICK = "~stages.export"
"""Most of a small run's time is the verification of its export."""


def run(home, name, recipe, **options):
    return nf.run(recipe, out=home / name, report=False, progress=False, **options)


def rows(directory, table):
    store = RunStore(directory, shared=True)
    found = store.rows(table)
    store.close()
    return found


def problems(home, *overrides, **changes):
    _, found = check_recipe(written(home, **changes), overrides)
    return [str(problem) for problem in found]


# ---- what is written out


def test_the_stage_that_trains_the_teacher_loads_it_and_its_network_is_compressed(home):
    recipe = loaded(home).data
    assert recipe["stages"][0] == {"load": {"save_as": "teacher"}}
    assert recipe["model"] == recipe["teacher"]
    assert "from" not in recipe["stages"][1]["transform"]
    resolved = nf.resolve(nf.load_recipe(recipe)).recipe
    assert nf.resolve(nf.load_recipe(resolved)).recipe == resolved
    assert resolved["model"] == resolved["teacher"]


def test_a_model_of_its_own_stays_and_is_compressed(home):
    model = {"use": "hf", "path": str(home / "small")}
    stages = loaded(home, model=model).data["stages"]
    assert stages[0] == {"load": {"save_as": "teacher"}}
    assert stages[1]["transform"]["from"] == "pretrained"


def test_an_override_names_the_teacher_of_a_packaged_recipe(home):
    overrides = ["teacher.use=hf", f"teacher.path={home / 'tuned'}"]
    recipe = nf.load_recipe("methods/hspg", overrides).data
    assert recipe["model"] == recipe["teacher"]
    named = nf.load_recipe("methods/hspg", [*overrides, "model=minilm-l6"]).data
    assert named["model"] == "minilm-l6"


def test_a_recipe_without_a_stage_that_trains_one_begins_with_the_teacher(home):
    stages = [{"train": {"max_steps": 1, "modifiers": [{"use": "kd", "teacher": "teacher"}]}}, {"evaluate": {}}]
    data = json.loads(written(home).read_text()) | {"stages": stages}
    del data["extends"]
    assert [next(iter(stage)) for stage in nf.load_recipe(data).data["stages"]] == ["load", "train", "evaluate"]


def test_every_method_takes_a_teacher(home):
    for path in sorted((ROOT / "recipes/methods").glob("[!_]*.yaml")):
        assert problems(home, method=path.stem) == []


# ---- what is refused before work


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"teacher": {"use": "hf", "path": "small"}},
            "teacher  its checkpoint has no classifier.bias, classifier.weight",
        ),
        ({"teacher": {"use": "hf", "path": "nowhere/"}}, "no such file or folder 'nowhere/'"),
        ({"teacher": {"use": "hf", "path": "tuned", "head": "new"}}, "teacher  head: new draws its head"),
        ({"teacher": {"use": "hf", "path": "tuned", "labls": []}}, "teacher.labls  "),
        (
            {"teacher": {"use": "from_config", "type": "bert", "tokens": "bpe", "configuration": {"vocab_size": 300}}},
            "from_config draws all of its weights",
        ),
        ({"teacher": None, "stages": [{"load": {}}]}, "stages.load  needs a teacher. Expected 'teacher:'"),
        (
            {"stages": [{"transform": {"use": "rewire", "score": "magnitude", "save_as": "teacher"}}]},
            "stages.teacher.save_as  saves a network as 'teacher'",
        ),
        (
            {"stages": [{"train": {"max_steps": 1}}, {"train": {"max_steps": 1, "save_as": "teacher"}}]},
            "stages.train  changes the network that the stage 'teacher' trains",
        ),
        (
            {
                "model": {"use": "hf", "path": "small"},
                "stages": [
                    {"train": {"max_steps": 1, "save_as": "teacher"}},
                    {"train": {"name": "tune", "max_steps": 1, "from": "teacher"}},
                ],
            },
            "stages.tune.from  starts from the teacher, but the recipe compresses its own model",
        ),
    ],
)
def test_a_recipe_that_cannot_mean_it_is_refused(home, changes, text):
    found = problems(home, **changes)
    assert len([problem for problem in found if text in problem]) == 1, found


LEFT_OUT = "changes a stage that is left out, because the recipe's 'teacher' is loaded in place of it"


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["stages.teacher.epochs=4", "+stages.teacher.max_steps=9"], ["epochs", "max_steps"]),
        (["~stages.teacher.keep"], [""]),
        (["stages.teacher.modifiers=[{use: dropout, rate: 0}]"], ["modifiers"]),
        (["stages.sparse.epochs=4"], []),
        (["smoke=true"], []),  # of the method's recipe, which has it for its use without a teacher
        (["short=true"], ["epochs"]),
    ],
)
def test_a_change_of_the_stage_that_is_left_out_is_refused(home, overrides, options):
    path = written(home, "hspg", switches={"short": {"stages.teacher.epochs": 1}})
    _, found = nf.recipe.loading.read_recipe(path, overrides)
    assert [problem.path for problem in found] == [f"stages.teacher.{option}".rstrip(".") for option in options]
    assert all(LEFT_OUT in problem.text for problem in found)


def test_a_set_beside_the_teacher_changes_no_stage_that_is_left_out(home):
    changes = {"stages.teacher.epochs": 1}
    assert any(LEFT_OUT in problem for problem in problems(home, set=changes))
    base = written(home, teacher=None, set=changes).rename(home / "base.yaml")
    assert problems(home, extends=str(base)) == []


def refusal(home, **changes):
    with pytest.raises(UsageError) as caught:
        run(home, "refused", loaded(home, **changes))
    assert rows(home / "refused", "stage") == [] if (home / "refused/run.db").is_file() else True
    return str(caught.value)


def teacher(home, name="odd", **config):
    write_net(home / name, **{**SIZES, **config})
    return {"use": "hf", "path": str(home / name)}


def test_a_head_of_other_classes_is_refused(home):
    names = {0: "good", 1: "bad", 2: "ugly"}
    odd = teacher(home, num_labels=3, id2label=names, label2id={name: i for i, name in names.items()})
    text = refusal(home, teacher=odd)
    assert text.startswith("teacher: The checkpoint's head has 'good', 'bad', 'ugly', the task '0', '1'")
    assert "The head is new" not in text
    assert "Expected a checkpoint that was fine-tuned for the task" in text


def test_a_head_for_tokens_is_refused(home):
    write_net(home / "tokens", kind=BertForTokenClassification, **SIZES)
    found = problems(home, teacher={"use": "hf", "path": str(home / "tokens")})
    assert any("bert.pooler.dense" in problem for problem in found), found


def test_a_regression_needs_one_output(home):
    task = {"use": "text_classification", "train": str(home / "reviews.csv"), "max_length": 12, "regression": True}
    assert "its head is for classes, and the task has scores" in refusal(home, task=task)


def test_another_tokenizer_is_refused_and_an_equal_one_is_not(home):
    others = [*WORDS[:5], *reversed(WORDS[5:])]
    write_net(home / "other", words=others, kind=BertModel, **SIZES)
    model = {"use": "hf", "path": str(home / "other")}
    assert "its tokenizer is not the model's" in refusal(home, model=model)


def distil(home):
    """Write a DistilBERT with the teacher's words, which reads no types, and return its use."""
    config = DistilBertConfig(n_layers=2, dim=16, n_heads=4, hidden_dim=32, vocab_size=len(WORDS))
    DistilBertModel(config).save_pretrained(home / "distil")
    BertTokenizer(vocab={word: place for place, word in enumerate(WORDS)}).save_pretrained(home / "distil")
    return {"use": "hf", "path": str(home / "distil")}


def test_a_teacher_with_types_teaches_a_model_without_them_on_single_texts(home):
    """What it computes from the model's inputs is what it computes from its own."""
    inputs = RunInputs(nf.resolve(loaded(home, model=distil(home))))
    inputs.load()
    batch = next(iter(inputs.task.train_batches(0, 0, 4)))
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    net = inputs.teacher_net.eval()
    own = AutoTokenizer.from_pretrained(home / "tuned")
    texts = own.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
    whole = own(texts, padding=True, return_tensors="pt")
    assert "token_type_ids" in whole
    with torch.no_grad():
        assert torch.equal(net(**batch.inputs).logits, net(**whole).logits)


def test_a_teacher_with_types_does_not_teach_pairs_to_a_model_without_them(home):
    lines = (home / "reviews.csv").read_text(encoding="utf-8").splitlines()
    header, *texts = lines
    rows = [f"{line.rpartition(',')[0]},{line}" for line in texts]
    (home / "pairs.csv").write_text("\n".join([f"first,{header}", *rows]) + "\n", encoding="utf-8")
    text, label = header.split(",")
    task = {
        "use": "text_classification", "train": str(home / "pairs.csv"), "max_length": 12,
        "text": ["first", text], "label": label,
    }  # fmt: skip
    said = refusal(home, model=distil(home), task=task)
    assert "it tells the two texts of a pair apart by token_type_ids, which the model does not read" in said
    assert "Expected single texts" in said


def test_a_teacher_that_reads_fewer_tokens_is_refused(home):
    short = teacher(home, max_position_embeddings=8, **REVERSED)
    model = {"use": "hf", "path": str(home / "small")}
    assert "Expected 'task.max_length: 8' or less" in refusal(home, teacher=short, model=model)


# ---- what a run does


def test_the_teacher_is_measured_as_it_stands_and_its_own_network_is_compressed(home):
    done = run(home, "run", loaded(home))
    models = {model.name: model for model in read_run(done.directory).models}
    assert next(iter(models)) == "teacher"
    assert models["teacher"].role == "teacher"
    # Independently: plain transformers on the texts and labels that the run says it measured.
    net = AutoModelForSequenceClassification.from_pretrained(home / "tuned").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "tuned")
    plan = nf.resolve(loaded(home))
    task = RunInputs(plan).task
    assert task.labels == ["1", "0"]  # the order of the head
    split = task._splits["dev"]
    hits = 0
    for (text,), label in zip(split.texts, split.labels, strict=True):
        with torch.no_grad():
            logits = net(**tokenizer(text, truncation=True, max_length=12, return_tensors="pt")).logits
        hits += int(logits.argmax()) == label
    metrics = {row["name"]: row["metrics"] for row in rows(done.directory, "model")}["teacher"]
    assert metrics["dev"]["accuracy"] == pytest.approx(hits / len(split.labels))
    assert metrics["select"].keys() == metrics["dev"].keys()
    # Its weights are the checkpoint's own, and no stage spent a step on them.
    kept = load_file(done.directory / "models/teacher/model.safetensors")
    for name, tensor in net.state_dict().items():
        assert torch.equal(kept[name], tensor), name
    assert {row["role"] for row in rows(done.directory, "ledger") if row["stage"] == "teacher"} == {"evaluation"}
    # What was compressed is the teacher: the smaller network's embedding is the teacher's before it was tuned.
    assert models["best@50%"].costs["encoder_params"] <= 0.5 * models["teacher"].costs["encoder_params"]


def test_a_model_of_another_size_learns_from_the_teacher(home):
    model = {"use": "hf", "path": str(home / "small")}
    done = run(home, "run", loaded(home, QUICK, model=model))
    costs = {row["name"]: row["costs"]["params"] for row in rows(done.directory, "model")}
    nets = {name: AutoModelForSequenceClassification.from_pretrained(home / name) for name in ("tuned", "small")}
    params = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert costs["teacher"] == params["tuned"]
    assert costs["best@50%"] < params["small"] < params["tuned"]


def test_a_regression_has_a_teacher_of_scores(home):
    odd = teacher(home, num_labels=1)
    task = {"use": "text_classification", "train": str(home / "reviews.csv"), "max_length": 12, "regression": True}
    inputs = RunInputs(nf.resolve(loaded(home, teacher=odd, task=task)))
    inputs.load()
    weights = load_file(home / "odd/model.safetensors")
    assert torch.equal(inputs.teacher_net.classifier.weight, weights["classifier.weight"])


def test_the_cache_knows_the_teachers_weights(home):
    model = {"use": "hf", "path": str(home / "small")}
    cached = []
    for number in range(3):
        if number == 2:
            with contextlib.redirect_stderr(io.StringIO()):
                torch.manual_seed(1)
                config = BertConfig(vocab_size=len(WORDS), **SIZES, **REVERSED)
                BertForSequenceClassification(config).save_pretrained(home / "tuned")
        done = run(home, f"run{number}", loaded(home, QUICK, model=model), cache=home / "cache")
        stages = rows(done.directory, "stage")
        cached.append(["cached" in stage["result"] for stage in stages])
    assert not any(cached[0])
    assert all(cached[1])
    assert not any(cached[2])


def test_a_stopped_run_goes_on_with_its_teacher(home, monkeypatch):
    recipe = loaded(home, QUICK)
    whole = run(home, "whole", recipe)

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(verbs.VERBS, "extract", verbs.Verb(stop, verbs.VERBS["extract"].declaration))
    with pytest.raises(KeyboardInterrupt):
        run(home, "stopped", recipe)
    monkeypatch.undo()
    stopped = runner.resume(home / "stopped", progress=False, report=False)
    predictions = [
        (model_folder(each.directory, "best@50%") / "predictions.csv").read_bytes() for each in (whole, stopped)
    ]
    assert predictions[0] == predictions[1]


def test_a_dry_run_says_what_is_loaded(home):
    plan = nf.resolve(loaded(home))
    whats = [stage["what"] for stage in dry_run(plan)["stages"]]
    assert whats[0] == "load the teacher, evaluate on select (6 examples) and dev (16 examples)"
    with pytest.raises(UsageError, match="teacher: The checkpoint's head has"):
        dry_run(nf.resolve(loaded(home, teacher=teacher(home, id2label={0: "a", 1: "b"}))))


def test_a_run_from_a_teacher_is_deployed(home):
    done = run(home, "run", loaded(home, QUICK, method="uniform"))
    report = deploy(done.directory, budgets=["encoder_params=75%"], out=home / "deployed", progress=False)
    assert report


def test_arms_of_a_study_share_the_teacher(home):
    study = {
        "study": "two",
        "arms": {"magnitude": {"base": "methods/magnitude"}, "hspg": {"base": "methods/hspg"}},
        "tasks": {
            "reviews": {
                "teacher": {"use": "hf", "path": "tuned"},
                "task": {"use": "text_classification", "train": "reviews.csv", "max_length": 12},
            }
        },
        "seeds": [0],
    }
    (home / "study.yaml").write_text(json.dumps(study))
    plans = load_study(home / "study.yaml").plans
    first = {arm: (plan.stages[0].verb, chains(plan)["teacher"]) for (arm, _), plan in plans.items()}
    assert first["magnitude"] == first["hspg"]
    assert first["hspg"][0] == "load"
    assert all(plan.model == plan.teacher for plan in plans.values())
