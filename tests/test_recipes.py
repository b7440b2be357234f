"""Every recipe in the tree passes `nasframe check`: recursive, and counted."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import nasframe as nf
from nasframe.cli.check import files_of, problems_of
from nasframe.nn.formats import encoder_matrices, parse_format
from nasframe.nn.storage import account
from nasframe.recipe.loading import extended_files
from nasframe.recipe.resolve import check_recipe
from nasframe.report.page import build
from nasframe_studies.commands.check import is_study
from nasframe_studies.file import load_study
from stand_in import WORDS, write_net, write_reviews

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for suffix in ("*.yaml", "*.yml") for path in (ROOT / "recipes").rglob(suffix))


RECIPES = files_of(str(ROOT / "recipes"))


LONG_STUDIES = {
    f"studies/{name}.yaml"
    for name in (
        "compressor_rates",
        "compressors",
        "device_rates",
        "devices",
        "published_systems",
        "published_system_rates",
        "yoco_defects",
    )
}
"""Studies of so many arms that checking all of them takes seconds."""


def recipes_to_check():
    for recipe in RECIPES:
        name = Path(recipe).relative_to(ROOT / "recipes").as_posix()
        marks = [pytest.mark.slow] if name in LONG_STUDIES else []
        yield pytest.param(recipe, id=name, marks=marks)


@pytest.mark.parametrize("recipe", list(recipes_to_check()))
def test_every_recipe_passes(recipe):
    assert [str(problem) for problem in problems_of(recipe)] == []


def test_no_recipe_is_left_out():
    checked: set[Path] = set()
    for recipe in RECIPES:
        checked |= {path.resolve() for path in extended_files(Path(recipe))}  # fragments are checked through these
    assert len(FILES) >= 4
    assert sorted(checked) == FILES


def test_every_recipe_opens_with_a_comment_that_says_how_to_run_it():
    for recipe in files_of(str(ROOT / "recipes")):
        text = Path(recipe).read_text(encoding="utf-8")
        name = Path(recipe).relative_to(ROOT / "recipes").with_suffix("").as_posix()
        assert text.startswith("# "), recipe
        verb = "ablate" if is_study(recipe) else "run"
        assert f"nasframe {verb} {name}" in text or f"nasframe {verb} recipes/{name}.yaml" in text, recipe


def test_compressors_are_at_the_shares_they_stand_under():
    plans = load_study("studies/compressors").plans
    stages = {key: {stage.name: stage.options for stage in plan.stages} for key, plan in plans.items()}
    asked = {key: (plan.budgets, stages[key]) for key, plan in plans.items()}
    for arm, task in plans:
        share = task.partition("-")[2]
        other = task.replace(share, "25%" if share == "50%" else "50%")
        assert asked[arm, task] != asked[arm, other], (arm, task)
        if arm == "nxmiformer":
            assert stages[arm, task]["assign"]["use"]["archs"] == {"assigned": share}
        if arm == "obprox":
            assert stages[arm, task]["sparse"]["modifiers"][0]["target"] == share


def test_formats_are_compared_at_the_bits_that_the_arms_say():
    with torch.device("meta"):
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        net = BertForSequenceClassification(config)
    plans = load_study("studies/nxmiformer").plans
    assert {arm for arm, _ in plans} == {"uniform-84", "uniform-90", "one-shot-90", "assigned-90"}
    for (arm, _), plan in plans.items():
        stages = {stage.name: stage.options for stage in plan.stages}
        bound = float(stages["assign"]["use"]["archs"]["assigned"].removesuffix("%"))
        formats = plan.space["formats"]
        if arm != "assigned-90":  # the one format fits, and is what the arm is called after
            record = dict.fromkeys((name for name, _ in encoder_matrices(net)), parse_format(formats[0]))
            assert len(formats) == 1
            assert 100 - bound < 100 * account(net, record)["saved"] < 100 - bound + 1
        assert bound == (16 if arm == "uniform-84" else 10)
        assert stages["assigned"]["modifiers"][2]["tune"] == (1 if arm == "one-shot-90" else 0.4)


@pytest.mark.parametrize("recipe", ["hspg/sst2-minilm", "slimming/mrpc-minilm", "rosita/cola-minilm"])
@pytest.mark.parametrize("more", [[], ["quarter=true"]])
def test_recipes_of_the_table_export_where_asked(recipe, more):
    plan, problems = check_recipe(recipe, ["export=true", *more])
    assert problems == []
    assert (plan.stages[-1].verb, plan.stages[-1].options["models"]) == ("export", ["best@*"])
    assert "export" not in [stage.verb for stage in check_recipe(recipe, more)[0].stages]


def test_what_is_stacked_is_measured_before_tuning_and_has_the_settings_of_its_method():
    stages = {stage.name: stage.options for stage in check_recipe("hspg/stacked")[0].stages}
    single = {stage.name: stage.options for stage in check_recipe("nxmiformer/sst2-minilm")[0].stages}["uniform-84"]
    last = stages["half-svd-2of4-int8"]
    assert last["modifiers"][2] == single["modifiers"][2]
    assert last["options"].max_grad_norm == single["options"].max_grad_norm == 0
    assert stages["extract"]["archs"]["half-raw"] == stages["extract"]["archs"]["half"] == "sparse"
    assert stages["tune"]["models"] == ["half"]
    assert stages["half-svd-raw"]["from_"] == "half"
    assert stages["raw"]["archs"] == {"half-svd-2of4-int8-raw": {}}
    assert stages["evaluate"].get("models") is None  # all of them


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["hspg/sst2-minilm", "slimming/sst2-minilm", "rosita/sst2-minilm", "hspg/stacked"])
def test_what_a_recipe_of_the_table_exports_loads_again(tmp_path, recipe):
    """In a process of its own, which export starts; on a network of MiniLM's counts of layers and heads."""
    sizes = {"hidden_size": 48, "num_attention_heads": 12, "max_position_embeddings": 160}
    words = [*WORDS, *(f"word{i}" for i in range(100 - len(WORDS)))]
    model = write_net(tmp_path / "net", words, num_hidden_layers=6, intermediate_size=1536, **sizes)
    task = write_reviews(tmp_path)
    changes = ["smoke=true", f"model={model}", f"task={task}", "estimators.latency={repeats: 1}"]
    changes += ["stages.half-svd-raw.rank=16"] if recipe == "hspg/stacked" else ["export=true"]
    run = nf.run(nf.load_recipe(recipe, changes), out=tmp_path / "run", progress=False, report=False)
    exported = {"half", "half-svd", "half-svd-2of4-int8"} if recipe == "hspg/stacked" else {"best-50"}
    assert {file.parent.name for file in (run.directory / "models").glob("*/export_report.json")} == exported
    if recipe == "hspg/stacked":
        rows = {model["name"]: model for model in build(run.directory)["models"]}
        assert {"half-raw", "half-svd-raw"} < rows.keys()
        assert rows["half-svd-2of4-int8-raw"]["stored"]["formats"] == {"2:4 int8": 36}
