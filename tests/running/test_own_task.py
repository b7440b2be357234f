"""Stages with a task of their own: what they train on, what they are checked for, and that recipes share them."""

import json
from pathlib import Path

import pytest
import yaml

import nasframe as nf
from nasframe.errors import RecipeError
from nasframe.records import IGNORED
from nasframe.report.read import gather
from nasframe.running.reopen import Finished
from nasframe.testing.toy import tiny_net, tiny_tokenizer

WORDS = [letter * 2 for letter in "bcdfghkm"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model without a head for tokens, texts, and two tables of classes."""
    folder = tmp_path_factory.mktemp("own-task")
    tokenizer = tiny_tokenizer()
    tiny_net(vocab_size=len(tokenizer)).bert.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = [" ".join(WORDS[(i * k) % 8] for k in range(1, 7)) for i in range(60)]
    (folder / "texts.txt").write_text("\n".join(f"{line} {i}" for i, line in enumerate(lines)))
    for name, classes in (("first", ("yes", "no")), ("second", ("red", "green", "blue"))):
        rows = [f"{line} {i},{classes[i % len(classes)]}" for i, line in enumerate(lines)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    return folder


def masked(folder: Path) -> dict:
    return {
        "use": "masked_lm",
        "train": str(folder / "texts.txt"),
        "documents": "line",
        "length": 16,
        "select": 10,
        "dev_share": 10,
    }


def recipe(folder: Path, data: str = "first", **changes) -> dict:
    own = masked(folder)
    stages = [
        {"train": {"save_as": "language", "task": own, "from": "pretrained", "space": None, "max_steps": 2}},
        {
            "train": {
                "name": "supernet",
                "task": own,
                "sampler": "random",
                "max_steps": 2,
                "modifiers": [{"use": "kd", "teacher": "language"}],
            }
        },
        {"search": {"task": own, "trials": 3, "sampler": "random", "budgets": {"encoder_params": "80%"}}},
        {"extract": {"task": own}},
        {"transform": {"use": "new_head", "models": ["best@*"]}},
        {"train": {"name": "tuned", "models": ["best@*"], "max_steps": 2}},
        {"evaluate": {"costs": ["params"]}},
        {"export": {}},
    ]
    return {
        "nasframe": 1,
        "name": "own-task",
        "model": str(folder / "model"),
        "task": {
            "use": "text_classification",
            "train": str(folder / f"{data}.csv"),
            "select": 10,
            "dev_share": 10,
        },
        "space": {"use": "width_depth", "layers": [1, 2, 3], "heads": [1, 2, 4], "ffn": [8, 32, 64]},
        "stages": stages,
        **changes,
    }


def faults(data: dict) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        nf.resolve(nf.load_recipe(data))
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


@pytest.fixture(scope="module")
def runs(home):
    """Two runs with different recipes' tasks, which share a cache."""
    directories = {}
    for data in ("first", "second"):
        plan = nf.resolve(nf.load_recipe(recipe(home, data)))
        directories[data] = home / f"run-{data}"
        nf.run(plan, out=directories[data], cache=home / "cache", progress=False)
    return directories


def test_one_search_serves_two_tasks(runs):
    """Every stage with a task of its own comes from the cache, and no other one does."""
    stages = {}
    for data, directory in runs.items():
        results = gather(directory)["stages"]
        stages[data] = {stage["name"]: bool(stage["cached"]) for stage in results}
    shared = {name for name, cached in stages["second"].items() if cached}
    assert not any(stages["first"].values())
    assert shared == {"language", "supernet", "search", "extract"}


def test_models_have_the_head_of_the_recipes_task(runs):
    for data, classes in (("first", {"yes", "no"}), ("second", {"red", "green", "blue"})):
        report = gather(runs[data])
        measured = {model["name"]: model["metrics"] for model in report["models"] if model["metrics"]}
        assert set(measured) == {"best@80%"}
        assert "accuracy" in measured["best@80%"]["dev"]
        config = json.loads((runs[data] / "models" / "best-80" / "config.json").read_text())
        assert set(config["id2label"].values()) == classes


def test_a_search_goes_by_its_own_tasks_metric(runs):
    report = gather(runs["first"])
    (search,) = report["searches"]
    assert search["aim"] == "-perplexity"
    assert report["metric"] == "accuracy"
    assert not report["formats"]["perplexity"]["higher_is_better"]


def test_a_finished_search_is_measured_on_its_own_task(runs):
    finished = Finished(runs["second"])
    assert finished.objective == "-perplexity"
    trial = next(iter(finished.archive()))
    again = finished.evaluate(trial.arch)
    assert again.metrics["perplexity"] == pytest.approx(trial.metrics["perplexity"], rel=1e-4)


def test_the_resolved_recipe_means_the_same(home):
    plan = nf.resolve(nf.load_recipe(recipe(home)))
    again = nf.resolve(nf.load_recipe(yaml.safe_load(yaml.safe_dump(plan.recipe))))
    assert again.recipe == plan.recipe
    assert [stage.options.get("task") for stage in again.stages] == [stage.options.get("task") for stage in plan.stages]


def test_the_recipes_task_may_be_written_once_more(home):
    data = recipe(home)
    data["stages"] = [{"train": {"task": data["task"], "max_steps": 1}}]
    assert "task" not in nf.resolve(nf.load_recipe(data)).stages[0].options


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_only_some_verbs_have_a_task_of_their_own(home, verb):
    data = recipe(home)
    data["stages"].append({verb: {"task": masked(home), "models": ["best@*"], "name": "last"}})
    (fault,) = faults(data)
    assert "the recipe's" in fault
    assert "train" in fault


def test_options_of_the_own_task_are_checked(home):
    data = recipe(home)
    data["stages"][0]["train"]["task"] = {**masked(home), "lenght": 12}
    fault = faults(data)[0]
    assert fault.startswith("stages.language.task.lenght")
    assert "length" in fault


def test_files_of_the_own_task_are_checked(home):
    data = recipe(home)
    data["stages"][0]["train"]["task"] = {**masked(home), "train": str(home / "absent.txt")}
    assert any("absent.txt" in fault for fault in faults(data))


def test_a_block_longer_than_the_network_reads_is_refused(home):
    data = recipe(home)
    data["stages"][0]["train"]["task"] = {**masked(home), "length": 99}
    assert any("stages.language.task.length" in fault and "40" in fault for fault in faults(data))


def test_a_stage_needs_a_network_of_its_task(home):
    """A training for classes cannot go on with the head that predicts tokens, nor the other way round."""
    data = recipe(home)
    data["stages"] = [data["stages"][0], {"train": {"name": "classes", "max_steps": 1}}]
    (fault,) = faults(data)
    assert fault.startswith("stages.classes")
    assert "AutoModelForMaskedLM" in fault
    assert "from: pretrained" in fault

    data["stages"] = [{"train": {"task": masked(home), "max_steps": 1}}]
    (fault,) = faults(data)
    assert "from: pretrained" in fault


def test_an_evaluation_needs_a_network_of_its_task(home):
    """If none was saved with the recipe's head, the current network is measured, which has another head here."""
    data = recipe(home)
    data["stages"] = [data["stages"][0], {"evaluate": {}}]
    (fault,) = faults(data)
    assert fault.startswith("stages.evaluate")
    assert "AutoModelForMaskedLM" in fault


def test_an_export_needs_a_model_of_its_task(home):
    """Without ``models`` it writes the extracted ones, which have another head as long as none was given."""
    data = recipe(home)
    data["stages"] = [*data["stages"][:4], {"export": {}}]
    (fault,) = faults(data)
    assert fault.startswith("stages.export")
    assert "AutoModelForMaskedLM" in fault


def test_a_named_network_of_another_task_is_refused(home):
    data = recipe(home)
    data["stages"][-2] = {"evaluate": {"models": ["language"]}}
    (fault,) = faults(data)
    assert fault.startswith("stages.evaluate.models.0")


def test_a_teacher_of_another_task_is_refused(home):
    data = recipe(home)
    data["stages"][5]["train"]["modifiers"] = [{"use": "kd", "teacher": "language"}]
    (fault,) = faults(data)
    assert "stages.tuned.modifiers.0.teacher" in fault


def test_objectives_are_those_of_the_own_task(home):
    data = recipe(home)
    data["stages"][2]["search"]["objectives"] = ["accuracy"]
    nf.resolve(nf.load_recipe(data))
    data["stages"][2]["search"]["objectives"] = ["perplexity"]
    (fault,) = faults(data)
    assert "-perplexity" in fault


def test_distillation_looks_at_masked_tokens_alone():
    """A difference at positions whose labels do not count changes nothing."""
    import torch

    from nasframe.nn.losses import counted, distillation

    labels = torch.tensor([[IGNORED, 3, IGNORED], [2, IGNORED, IGNORED]])
    student = torch.randn(2, 3, 7)
    teacher = student.clone()
    teacher[labels == IGNORED] += torch.randn(4, 7)
    assert float(distillation(counted(student, labels), counted(teacher, labels))) == 0
