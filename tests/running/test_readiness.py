"""What data and sizes show before the first stage: refused, or told, by a run and a dry run alike."""

import json
from pathlib import Path

import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.recipe.resolve import resolve
from nasframe.running.readiness import preflight
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore
from stand_in import SPECIAL, write_net

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"


def told(*overrides: str) -> dict[str, str]:
    """Return what the start of a run tells: place → text."""
    inputs = RunInputs(resolve(nf.load_recipe(RECIPE, ["~budgets", *overrides])))
    preflight(inputs)
    return {notice.place: notice.text for notice in inputs.notices}


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("train: {max_steps: 2, batch_size: 65}", "batch_size"),
        ("train: {epochs: 0.2}", "epochs"),
        ("train: {max_steps: 4, warmup_ratio: 1.0}", "warmup_ratio"),
        ("train: {max_steps: 4, eval_every: 5}", "eval_every"),
        ("train: {max_steps: 4, early_stop: 2}", "early_stop"),
        ("train: {max_steps: 4, early_stop: 2, eval_every: 2}", "early_stop"),
        ("search: {examples: 17}", "examples"),
        ("search: {examples: 8, trials: 4}", "finalists"),
        ("search: {trials: 16, sampler: evolution}", "sampler"),
        ("search: {trials: 7, within: {layers: [1], heads: [1, 2, 4], ffn: [8, 16]}}", "trials"),
    ],
)
def test_options_that_come_to_something_else_are_told(stage: str, place: str) -> None:
    verb = stage.partition(":")[0]
    assert list(told(f"stages=[{{{stage}}}]")) == [f"stages.{verb}.{place}"]


@pytest.mark.parametrize(
    "stage",
    [
        "train: {max_steps: 2, batch_size: 64}",
        "train: {epochs: 0.5}",
        "train: {max_steps: 1}",
        "train: {max_steps: 4, eval_every: 4}",
        "train: {max_steps: 6, early_stop: 2, eval_every: 2}",
        "search: {examples: 16, trials: 10}",
        "search: {trials: 17, sampler: evolution}",
        "search: {trials: 4, sampler: {use: evolution, population: 3}}",
        "search: {trials: 6, within: {layers: [1], heads: [1, 2, 4], ffn: [8, 16]}}",
    ],
)
def test_what_is_as_it_seems_is_not_told(stage: str) -> None:
    assert told(f"stages=[{{{stage}}}]") == {}


@pytest.mark.parametrize(
    "change",
    [
        "+stages.search.within={layers: [7]}",
        "+stages.search.within={head: [1]}",
        "+stages.search.sampler={use: grid, tie: [[heads, fnn]]}",
        "+stages.extract.archs={mine: {layers: 7}}",
    ],
)
def test_a_stage_that_does_not_fit_its_space_is_refused(change: str, tmp_path, capsys) -> None:
    command = ["run", str(RECIPE), "~budgets", "stages=[{train: {max_steps: 1}}, {search: {}}, {extract: {}}]", change]
    stage = change.split(".")[1]
    for more in (["--dry-run"], ["--no-progress", "--out", str(tmp_path / "run")]):
        assert main([*command, *more]) == 2
        assert f"stages.{stage}." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


PLUGIN = '''
from nasframe import hookimpl

class Plain:
    """As many as the heads of the first layer, without a table."""

    unit = "heads"

    def estimate(self, space, net, arch):
        return 4.0 if arch is None else float(arch.get("heads.0", 0))

@hookimpl
def register_estimators(register):
    register("plain", Plain)
'''


@pytest.mark.slow
def test_bounds_of_costs_without_a_table_are_sampled(tmp_path, capsys) -> None:
    (tmp_path / "plain.py").write_text(PLUGIN)
    plugins = f"plugins=[{RECIPE.parents[1]}/toy_plugin.py, {tmp_path}/plain.py]"
    stages = "stages=[{search: {budgets: {plain: [50%, 10%]}}}]"
    notices = told(plugins, stages)
    assert list(notices) == ["stages.search"]
    assert "best@10%: none of the 66 sampled architectures" in notices["stages.search"]
    assert "plain = 1 (25.0% of the full network)" in notices["stages.search"]
    assert main(["run", str(RECIPE), "~budgets", plugins, stages, "--dry-run", "--json"]) == 0
    assert [row["place"] for row in json.loads(capsys.readouterr().out)["notices"]] == ["stages.search"]
    measured = told("stages=[{search: {budgets: {latency: ['<= 0.000001']}}}]", "+estimators.latency={length: 8}")
    assert "none of the 4 sampled architectures" in measured["stages.search"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_few_steps_for_a_modifier_are_refused_before_the_first_stage(tmp_path: Path) -> None:
    """How many steps an epoch has is known with the data, so it is no problem of the recipe alone."""
    words = [*SPECIAL, "good", "bad"]
    write_net(tmp_path / "net", words, num_hidden_layers=3)
    rows = "".join(f"good bad {number},{number % 2}\n" for number in range(64))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "extends: methods/rosita\nname: short\nmodel: {use: hf, path: ./net}\n"
        "task: {use: text_classification, train: ./rows.csv, text: text, label: label}\n",
        encoding="utf-8",
    )
    recipe = nf.load_recipe(path)
    with pytest.raises(UsageError, match=r"stages.width.modifiers.0: scheduled_prune: 5 cuts within 0.2 of") as error:
        nf.run(recipe, out=tmp_path / "run", progress=False)
    assert "stages.depth.modifiers.0" in str(error.value)
    assert not list((tmp_path / "run").glob("states/*"))
    store = RunStore(tmp_path / "run", shared=True) if (tmp_path / "run/run.db").is_file() else None
    assert store is None or not store.stages()


def test_a_random_start_that_names_no_option_is_refused(monkeypatch) -> None:
    """Otherwise the plugin's users would never be told."""
    monkeypatch.setattr("nasframe_basics.evolution.EvolutionSampler.random_start", "popluation")
    with pytest.raises(UsageError, match=r"sampler 'evolution': random_start is 'popluation'"):
        told("stages=[{search: {trials: 4, sampler: evolution}}]")
