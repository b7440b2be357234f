"""Settings that cannot work are refused by every command that reads a recipe, with the modifier's place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import nasframe as nf
from nasframe.cli import main
from nasframe.nn.blueprint import blueprint
from nasframe.plan import same_shape
from nasframe.recipe.preflight import planned_job, skeleton
from nasframe.recipe.resolve import check_recipe
from stand_in import write_net, write_reviews


@pytest.mark.parametrize(
    ("recipe", "change", "place", "words"),
    [
        (
            "nxmiformer/sst2-minilm", "stages.uniform-84.modifiers.2.pattern=2:5", "uniform-84.modifiers.2",
            "pattern 2:5 on 384 inputs: 5 does not divide 384. Expected",
        ),
        ("nxmiformer/sst2-minilm", "stages.uniform-84.keep=best", "uniform-84.modifiers.2", "has keep: best"),
        ("hspg/sst2-minilm", "stages.sparse.keep=best", "sparse.modifiers.0", "has keep: best and may end"),
        ("hspg/sst2-minilm", "stages.sparse.early_stop=2", "sparse.modifiers.0", "has early_stop and may end"),
        ("hspg/sst2-minilm", "+stages.sparse.arch={}", "sparse.modifiers.0", "Expected no 'sampler' and no 'arch'"),
        (
            "hspg/sst2-minilm", "stages.sparse.modifiers.0={use: hesso, units: [heads], target: {ffn: 50%}}",
            "sparse.modifiers.0", "there are no groups 'ffn'. Expected heads",
        ),
        (
            "hspg/sst2-minilm", "stages.sparse.modifiers=[fake_quant, {use: hspg, target: 50%}]",
            "sparse.modifiers.1", "which a parametrised layer does not allow",
        ),
        ("hspg/sst2-minilm", "+stages.sparse.modifiers.2={use: admm}", "sparse.modifiers.0", "admm, whose state"),
        ("hspg/obprox-minilm", "stages.sparse.keep=best", "sparse.modifiers.0", "has keep: best"),
        (
            "slimming/sst2-minilm", "stages.joint.modifiers.0={use: slimming, target: 30%, units: [heads]}",
            "joint.modifiers.0", "30% of encoder_params is out of reach: the parts without gates are 66.7%.",
        ),
        (
            "hspg/sst2-minilm", "+stages.sparse.modifiers.2={use: hesso, target: 50%}",
            "sparse.modifiers.2", "hspg and hesso both answer with an architecture. Expected one such modifier",
        ),
        ("hspg/stacked", "stages.transform={use: svd, rank: 385}", "transform", "rank: 385 for an embedding of (30522"),
        ("hspg/stacked", "stages.transform={use: svd, linears: 1537}", "transform", "rank 1537. Expected 1 to 384"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_work(recipe: str, change: str, place: str, words: str) -> None:
    plan, problems = check_recipe(recipe, [change])
    assert plan is None
    assert [problem.path for problem in problems] == [f"stages.{place}"]
    assert words in str(problems[0])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("stages.search.within={layers: [9]}", "stages.search.within"),
        ("stages.supernet.within={head: [4]}", "stages.supernet.within"),
        ("space.heads=[5, 99]", "space"),
        ("+stages.search.space={use: width_depth, layers: [99]}", "stages.search.space"),
        ("stages.search.sampler={use: grid, tie: false}", "stages.search.sampler"),
        ("stages.search.sampler={use: grid, tie: [[head]]}", "stages.search.sampler"),
        ("stages.search.sampler={use: evolution, population: 1}", "stages.search.sampler.population"),
        ("stages.extract.archs={mine: {layers: 9}}", "stages.extract.archs.mine"),
        ("stages.supernet={max_steps: 1, arch: {heads: 99}}", "stages.train.arch"),
    ],
)
def test_what_does_not_fit_the_space_is_refused(change: str, place: str) -> None:
    plan, problems = check_recipe("baselines/uniform-random", [change])
    assert plan is None
    assert [problem.path for problem in problems] == [place]


def test_a_space_without_a_network_is_compared_too(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("width,metric.accuracy,cost.params\n2,0.5,1\n4,0.75,2\n")
    recipe = {
        "space": {"use": "table", "path": str(tmp_path / "table.csv")},
        "task": {"use": "table"},
        "stages": [{"search": {"within": {"widths": [2]}}}],
    }
    plan, problems = check_recipe(recipe)
    assert plan is None
    assert [problem.path for problem in problems] == ["stages.search.within"]


def test_the_command_says_so_with_the_line(capsys: Any) -> None:
    assert main(["check", "hspg/sst2-minilm", "stages.sparse.keep=best"]) == 2
    assert "_minilm.yaml:15:3  stages.sparse.modifiers.0  hspg: stage 'sparse'" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "is_refused"), [(24, True), (25, False)])
def test_a_training_too_short_for_its_modifier_is_refused(steps: int, is_refused: bool) -> None:
    """Five cuts within a fifth of the steps need 25 of them; the sizes are those of an earlier stage."""
    _, problems = check_recipe("methods/rosita", [f"stages.width.max_steps={steps}"])
    texts = [(problem.path, problem.text) for problem in problems]
    text = (
        f"scheduled_prune: 5 cuts within 0.2 of {steps} steps. Expected at least a step for each: a longer stage, a "
        "larger 'over' or fewer 'times'."
    )
    assert texts == ([("stages.width.modifiers.0", text)] if is_refused else [])


def test_the_cuts_of_known_sizes_are_counted() -> None:
    """A sixth of six layers is one cut, a third are two."""
    short = ["stages.depth.max_steps=10"]
    assert check_recipe("methods/rosita", short)[1] == []
    _, (problem,) = check_recipe("methods/rosita", [*short, "stages.depth.modifiers.0.layers=67%"])
    assert "scheduled_prune: 2 cuts within 0.1 of 10 steps" in problem.text


def test_sizes_are_the_models_own_or_not_known() -> None:
    plan = nf.resolve(nf.load_recipe("hspg/stacked"))
    known = [stage.name for stage in same_shape(plan)]
    assert known == ["teacher", "transform", "sparse", "extract", "tune"]
    net = skeleton(plan)
    assert net is not None
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
    assert blueprint(net)["layers"] == [{"heads": 12, "ffn": 1536}] * 6
    tuned = next(stage for stage in plan.stages if stage.name == "tune")
    assert planned_job(plan, tuned, [], None).total == 240


def test_a_model_that_is_not_at_hand_is_not_fetched() -> None:
    plan, problems = check_recipe("hspg/sst2", ["model={use: hf, path: nobody/nothing}"])
    assert (problems, plan and skeleton(plan)) == ([], None)
    assert check_recipe("hspg/sst2", ["stages.sparse.keep=best"])[0] is None  # what needs no sizes is still told


# --- the model, and what goes with it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any) -> Path:
    """A folder with a model of 40 positions, and texts."""
    folder = tmp_path_factory.mktemp("home")
    write_net(folder / "net", max_position_embeddings=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    write_reviews(folder)
    return folder


def recipe_of(home: Path, model: str = "./net", task: str = "", more: str = "") -> Path:
    text = f"""
model: {model}
task: {{use: text_classification, train: reviews.csv{task}}}
{more}
stages: [evaluate: {{costs: [latency]}}]
"""
    (home / "recipe.yaml").write_text(text)
    return home / "recipe.yaml"


def paths(home: Path, *changes: str, **parts: str) -> list[str]:
    """The options that check refuses, each at its line."""
    problems = check_recipe(recipe_of(home, **parts), changes)[1]
    assert all(problem.place.startswith(str(home / "recipe.yaml:")) or changes for problem in problems)
    return [problem.path for problem in problems]


@pytest.mark.parametrize("model", ["./net", "net/", "{use: hf, path: net}", "{use: ./net, attention: eager}"])
def test_a_path_in_place_of_a_models_name_is_one_of_hf(home: Path, model: str) -> None:
    plan, problems = check_recipe(recipe_of(home, model))
    assert problems == []
    assert plan
    assert plan.model["use"] == "hf"
    assert plan.model["path"] == str(home / "net")


def test_a_hub_id_in_place_of_a_models_name_is_one_of_hf(home: Path) -> None:
    plan = check_recipe(recipe_of(home, "google-bert/bert-base-uncased"))[0]
    assert plan
    assert plan.model["path"] == "google-bert/bert-base-uncased"


@pytest.mark.parametrize("model", ["./gone", "../gone", "/gone", "~/gone/net", "a/b/c", "{use: hf, path: ./gone}"])
def test_a_path_that_is_not_there_says_so_in_check(home: Path, model: str) -> None:
    problems = check_recipe(recipe_of(home, model))[1]
    assert [problem.path for problem in problems] == ["model.path"]
    assert "no such file or folder" in problems[0].text
    assert "hub" not in problems[0].text


def test_a_folders_bare_name_is_no_models_name(home: Path) -> None:
    (problem,) = check_recipe(recipe_of(home, "net"))[1]
    assert problem.path == "model"
    assert "./net" in problem.text


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (", max_length: 40", None),
        (", max_length: 41", "task.max_length"),
        (", max_length: 128", "task.max_length"),
        (", max_length: 3", None),
        (", max_length: 2", "task.max_length"),
        (", max_length: 0", "task.max_length"),
        (", max_length: -1", "task.max_length"),
        (", text: [text, label], label: label, max_length: 4", "task.max_length"),
        (", text: [text, label], label: label, max_length: 5", None),
    ],
)
def test_a_written_length_must_fit_model_and_texts(home: Path, task: str, path: str | None) -> None:
    assert paths(home, task=task) == ([path] if path else [])


def test_glue_and_package_docs_are_asked_too(home: Path) -> None:
    glue = "task={use: glue, name: NAME, max_length: LENGTH}"
    for name, length, problems in (("mrpc", 4, 1), ("mrpc", 5, 0), ("sst2", 3, 0), ("sst2", 41, 1)):
        change = glue.replace("NAME", name).replace("LENGTH", str(length))
        assert paths(home, change) == ["task.max_length"] * problems
    assert paths(home, "task={use: package_docs, max_length: 41}") == ["task.max_length"]


@pytest.mark.parametrize(("length", "path"), [(40, None), (41, "estimators.latency.length")])
def test_a_written_length_of_latency_must_fit_the_model(home: Path, length: int, path: str | None) -> None:
    assert paths(home, more=f"estimators: {{latency: {{length: {length}}}}}") == ([path] if path else [])


def test_a_model_that_is_broken_is_told_with_all_other_problems(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    (tmp_path / "home/net/tokenizer.json").unlink()
    (tmp_path / "home/net/model.safetensors").write_bytes(b"")
    assert sorted(paths(tmp_path / "home", task=", labl: x")) == ["model.path", "model.path", "task.labl"]


def test_the_commands_refuse_with_the_place(home: Path, capsys: Any) -> None:
    recipe = str(recipe_of(home, task=", max_length: 41"))
    for command in (["check", recipe], ["run", recipe], ["run", "--dry-run", recipe]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{recipe}:3:" in error
        assert "task.max_length" in error
        assert "at most 40" in error


@pytest.mark.slow
def test_what_adapts_to_the_model_is_told_when_a_run_starts(home: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = str(recipe_of(home))
    for command in (["run", "--dry-run", "--json", recipe], ["run", recipe, "--out", str(tmp_path / "run")]):
        assert main(command) == 0
        output = capsys.readouterr()
        for place in ("task.max_length", "latency.length"):
            assert place in output.out + output.err
    assert nf.Run(tmp_path / "run").directory.exists()


def test_values_that_are_not_finite_are_refused_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(home, tmp_path / "home")
    weights = tmp_path / "home/net/model.safetensors"
    tensors = load_file(weights)
    tensors["bert.pooler.dense.bias"][0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    recipe = str(recipe_of(tmp_path / "home"))
    assert main(["check", recipe]) == 0
    capsys.readouterr()
    for command in (["run", "--dry-run", recipe], ["run", recipe, "--out", str(tmp_path / "run")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{weights}: bert.pooler.dense.bias" in error
    assert not (tmp_path / "run").exists()
