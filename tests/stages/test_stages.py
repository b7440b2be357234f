"""What verbs do beyond what a whole run shows: training models that stand alone."""

import json
from pathlib import Path

import pytest
import torch

import nasframe as nf
from nasframe.cli import main
from nasframe.recipe.resolve import check_recipe
from nasframe.running.runner import resume
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore
from nasframe.testing.toy import ToyTask, tiny_inputs
from nasframe_basics.loop import Loop

RECIPE = str(Path(__file__).parents[1] / "data" / "toy.yaml")
SIZES = "{a: {layers: 2}, b: {heads: 2, ffn: 16}}"
TUNE = "train: {name: tune, models: [a, b], max_steps: 3, checkpoint_every: 0, modifiers: [kd]}"


def overrides(*stages: str) -> list[str]:
    listed = ["train: {save_as: teacher, max_steps: 2}", f"extract: {{archs: {SIZES}}}", *stages]
    return [f"stages=[{', '.join('{' + stage + '}' for stage in listed)}]", "~budgets"]


def logits(net) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(**tiny_inputs()).logits


@pytest.mark.slow
def test_each_model_is_trained_as_if_it_were_alone(works, tmp_path):
    run = nf.run(nf.load_recipe(RECIPE, overrides(TUNE)), out=tmp_path / "together")
    together, before = works["tune"], works["extract"]
    alone = "train: {name: tune, from: a, save_as: c, max_steps: 3, checkpoint_every: 0, modifiers: [kd]}"
    nf.run(nf.load_recipe(RECIPE, overrides(alone)), out=tmp_path / "alone")
    assert torch.equal(logits(together.models["a"]), logits(works["tune"].models["c"]))
    for name in ("a", "b"):
        assert (logits(together.models[name]) - logits(before.models[name])).abs().max() > 1e-4
    assert together.net is before.net
    assert together.models["teacher"] is before.models["teacher"]
    store = RunStore(run.directory, shared=True)
    steps = dict(store.db.execute("SELECT role, steps FROM ledger WHERE stage = 'tune'"))
    names = {name for (name,) in store.db.execute("SELECT name FROM metric WHERE stage = 'tune'")}
    store.close()
    assert steps == {"student": 6, "teacher": 6}
    assert names == {"a loss", "a learning_rate", "b loss", "b learning_rate"}


@pytest.mark.slow
def test_a_stop_between_two_models_changes_nothing(works, tmp_path, monkeypatch):
    nf.run(nf.load_recipe(RECIPE, overrides(TUNE)), out=tmp_path / "whole")
    whole = {name: logits(works["tune"].models[name]) for name in ("a", "b")}
    fit, calls = Loop.fit, []

    def stopped(self, job):
        calls.append(job.stage)
        if calls.count("tune") == 2:
            raise KeyboardInterrupt
        return fit(self, job)

    monkeypatch.setattr(Loop, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        nf.run(nf.load_recipe(RECIPE, overrides(TUNE)), out=tmp_path / "run")
    monkeypatch.setattr(Loop, "fit", fit)
    resume(tmp_path / "run")
    for name in ("a", "b"):
        assert torch.equal(logits(works["tune"].models[name]), whole[name])


def test_a_found_architecture_gets_another_name(works, tmp_path):
    nf.run(nf.load_recipe(RECIPE, overrides("extract: {name: again, archs: {a@50%: a}}")), out=tmp_path / "run")
    work = works["again"]
    assert work.archs["a@50%"] == work.archs["a"]
    assert torch.equal(logits(work.models["a@50%"]), logits(work.models["a"]))


@pytest.mark.slow
def test_a_model_over_the_budget_that_its_name_says_is_told(tmp_path, capsys):
    stages = overrides("extract: {name: again, archs: {best@40%: {heads: 4}, best@75%: a}}")[:1]
    run = nf.run(nf.load_recipe(RECIPE, stages), out=tmp_path / "run")
    store = RunStore(run.directory, shared=True)
    (text,) = store.db.execute("SELECT result FROM stage WHERE name = 'again'").fetchone()
    store.close()
    result = json.loads(text)
    assert list(result["over_budget"]) == ["best@40%"]
    assert "Expected encoder_params" in result["over_budget"]["best@40%"]
    assert result["extract_error"].keys() == {"best@40%", "best@75%"}
    assert max(result["extract_error"].values()) <= 1e-5


@pytest.mark.slow
def test_a_trained_model_is_exported_as_it_became(works, tmp_path):
    run = nf.run(nf.load_recipe(RECIPE, overrides(TUNE, "export: {}")), out=tmp_path / "run")
    assert run.models.keys() == {"teacher", "a", "b"}


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("train: {models: [c], max_steps: 1}", "no model 'c' at this point"),
        ("train: {models: [a], max_steps: 1, save_as: d}", "Expected no 'save_as'"),
        ("train: {models: [a], max_steps: 1, sampler: random}", "Expected no 'sampler'"),
    ],
)
def test_models_that_do_not_go_together_with_the_rest_are_refused(stage, text):
    plan, problems = check_recipe(RECIPE, overrides(stage))
    assert plan is None
    assert text in "\n".join(map(str, problems))


SMALL = "within: {layers: [1], heads: [1, 2, 4], ffn: [8, 16]}"


@pytest.mark.slow
def test_a_search_that_has_used_up_its_space_ends_and_says_so(tmp_path, capsys):
    stages = f"stages=[{{search: {{trials: 50, examples: 999, {SMALL}}}}}]"
    run = nf.run(nf.load_recipe(RECIPE, ["~budgets", "seed=1", stages]), out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "stages.search.trials: The search ended after 6 of 50 evaluations: every architecture" in said
    report = json.loads((run.directory / "report.json").read_text())
    store = RunStore(run.directory, shared=True)
    repeats = store.stage_result("search")["search"]["repeats"]
    assert repeats > 0
    assert report["searches"][0]["states"] == {"done": 6, "repeat": repeats, "screened": 0, "failed": 0}
    rows = store.db.execute("SELECT state, examples FROM trial").fetchall()
    store.close()
    assert rows == [("done", None)] * 6  # 999 examples are all that there are, so nothing is scored again


def test_failed_evaluations_are_told(tmp_path, capsys, monkeypatch):
    calls = []

    def evaluate(self, forward, split, examples=None):
        calls.append(split)
        if len(calls) == 2:
            raise ValueError("boom")
        return original(self, forward, split, examples)

    original = ToyTask.evaluate
    monkeypatch.setattr(ToyTask, "evaluate", evaluate)
    stages = "stages=[{search: {trials: 3}}]"
    nf.run(nf.load_recipe(RECIPE, ["~budgets", stages]), out=tmp_path / "run")
    assert "stages.search: 1 of 4 evaluations failed" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_not_measured(tmp_path, capsys, monkeypatch):
    """The largest of two NaN is a class, and would be right half the time."""

    def spoilt(self, random=False):
        net = original(self, random)
        net.classifier.weight.data.fill_(torch.inf)
        return net

    original = RunInputs.net
    monkeypatch.setattr(RunInputs, "net", spoilt)
    changes = ["~budgets", "stages=[{evaluate: {costs: []}}]", "--out", str(tmp_path / "run"), "--no-progress"]
    assert main(["run", RECIPE, *changes]) == 1
    assert "model 'evaluate': the outputs are not finite" in capsys.readouterr().err
    changes = ["~budgets", f"stages=[{{search: {{{SMALL}}}}}]", "--out", str(tmp_path / "other"), "--no-progress"]
    assert main(["run", RECIPE, *changes]) == 1
    assert "all 6 evaluations failed, the first with RunError" in capsys.readouterr().err


def test_a_network_may_have_fewer_layers_than_the_recipes_space(works, tmp_path):
    shallow = "extract: {name: cut, archs: {shallow: {layers: 2}}}"
    own = "space: {use: width_depth, layers: [2], heads: [2, 4], ffn: [16, 64]}"
    train = f"train: {{name: width, from: shallow, save_as: width, {own}, sampler: random, max_steps: 2}}"
    extract = "extract: {name: narrow, archs: {best@75%: {layers: 2, heads: 2, ffn: 16}}}"
    evaluate = "evaluate: {costs: [params, encoder_params, macs], models: ['best@75%']}"
    listed = ["train: {save_as: teacher, max_steps: 2}", shallow, train, extract, evaluate]
    stages = f"stages=[{', '.join('{' + stage + '}' for stage in listed)}]"
    run = nf.run(nf.load_recipe(RECIPE, [stages]), out=tmp_path / "run")
    model = works["evaluate"].models["best@75%"]
    assert model.base_model.config.num_hidden_layers == 2
    store = RunStore(run.directory, shared=True)
    costs = store.model("best@75%")["costs"]
    store.close()
    assert costs["params"] == sum(parameter.numel() for parameter in model.parameters())
