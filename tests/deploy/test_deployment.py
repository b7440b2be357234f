"""New constraints for a finished run: from its archive, by a short search, and never without proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import nasframe as nf
from in_process import InProcess
from nasframe.cli import main
from nasframe.errors import UnsatisfiableError, UsageError, VerificationError
from nasframe.export import reload
from nasframe.folders import folder_name
from nasframe.plan import searched_net
from nasframe.recipe.resolve import resolve
from nasframe.running import runner
from nasframe.running.reopen import Finished
from nasframe.search.budgets import Budget
from nasframe.search.constraints import parse_bounds
from nasframe.store import RunStore
from nasframe.testing.toy import ToyTask, tiny_inputs
from nasframe_deploy import deploy as deployment
from nasframe_deploy import deployer
from nasframe_deploy.commands import _show
from nasframe_deploy.deploy import deploy

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
STAGES = (
    "stages=[{train: {save_as: supernet, sampler: random, max_steps: 4, learning_rate: 1e-3}}, "
    "{search: {sampler: random, trials: 40, examples: 8, finalists: 3}}]"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return nf.run(nf.load_recipe(RECIPE, [STAGES]), out=tmp_path_factory.mktemp("deploy") / "run").directory


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(deployment, "Verifier", InProcess)


@pytest.fixture
def no_dev(monkeypatch):
    measure = ToyTask.evaluate

    def evaluate(self, forward, split, examples=None):
        assert split == "select"
        return measure(self, forward, split, examples)

    monkeypatch.setattr(ToyTask, "evaluate", evaluate)


def models_of(found):
    return {model["name"]: model for model in found["models"]}


def test_the_command_writes_models_that_a_stranger_can_load(finished, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["deploy", finished, "params<=100%", "--budgets", "encoder_params=70%,50%", "--out", out, "--no-search"]
    assert main([*map(str, arguments), "--json", "--no-progress"]) == 0
    printed, said = capsys.readouterr()
    found = json.loads(printed)
    assert said == ""
    assert json.loads((out / "deploy.json").read_text()) == found
    assert "| best@70% |" in (out / "deploy.md").read_text()
    run = Finished(finished)
    for name, share in (("best@70%", 0.7), ("best@50%", 0.5)):
        model = models_of(found)[name]
        place = out / folder_name(name)
        assert (model["origin"], model["path"]) == ("archive", place.name)
        assert model["shares"]["encoder_params"] <= share
        report = json.loads((place / "export_report.json").read_text())
        assert report["verified"]
        assert report["loaded"].startswith("in a fresh process")
        loaded = AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True).eval()
        with torch.no_grad():
            view = run.space.view(run.net, model["arch"])(**tiny_inputs()).logits
            assert torch.allclose(loaded(**tiny_inputs()).logits, view, atol=1e-5)
        assert loaded.num_parameters() == model["costs"]["params"]


@pytest.mark.parametrize("width", [48, 60, 100])
def test_a_narrow_terminal_leaves_out_costs_that_nobody_asked_for_and_breaks_no_word(monkeypatch, capsys, width):
    costs = {"encoder_params": 5.3e6, "params": 1.7e7, "macs": 7e8, "size": 6.9e7}
    model = {"name": "best@60%", "path": "best-60", "asked": "params <= 18,000,000", "origin": "archive", "score": 0.3}
    model |= {"costs": costs, "shares": dict.fromkeys(costs, 0.5), "over_budget": None}
    facts = {"models": [model], "objective": "accuracy", "metric": {"percent": True}, "evaluations": 0}
    facts |= {"cost_formats": {}, "seconds": {"total": 1.0}}
    monkeypatch.setenv("COLUMNS", str(width))
    _show(facts, Path("out"))
    lines = capsys.readouterr().out.splitlines()
    words = {word for line in lines for word in line.split()}
    assert {"accuracy", "params", "17.0M", "archive", "best@60%"} <= words
    assert ("size" in words) is (width == 100)
    assert max(map(len, lines)) <= width


def test_the_archive_gives_the_winner_that_the_search_found(finished, tmp_path, quick, no_dev):
    store = RunStore(finished, shared=True)
    winners = store.stage_result("search")["winners"]
    store.close()
    found = models_of(deploy(finished, budgets=["encoder_params=75%,40%"], out=tmp_path / "out", search=0))
    for name, winner in winners.items():
        assert found[name]["arch"] == winner["arch"]
        assert found[name]["score"] == winner["score"]


@pytest.mark.slow
def test_a_search_adds_what_the_archive_lacks(finished, tmp_path, quick, no_dev, monkeypatch):
    fit = []
    monkeypatch.setattr("nasframe_basics.loop.Loop.fit", lambda *_: fit.append(1), raising=False)
    found = deploy(finished, ["encoder_params<=14%"], out=tmp_path / "auto")
    assert found["evaluations"] > 0
    tight = Finished(finished)
    whole = found["models"][0]
    assert whole["shares"]["encoder_params"] <= 0.14
    again = tight.evaluate(whole["arch"], whole["examples"])
    assert whole["score"] == again.metrics["accuracy"]
    more = deploy(finished, ["encoder_params<=14%"], out=tmp_path / "more", search=12)
    assert more["models"][0]["score"] >= whole["score"] - 0.3
    assert not fit
    none = deploy(finished, ["encoder_params<=80%"], out=tmp_path / "none", search=0)
    assert none["evaluations"] == 0
    assert none["models"][0]["origin"] == "archive"


def test_the_archive_answers_by_itself_where_it_is_dense(finished, monkeypatch):
    monkeypatch.setattr(deployer, "ENOUGH", 3)
    run = Finished(finished)
    full = run.estimator("encoder_params").estimate(run.space, run.net, None)

    def enough(text):
        budget = Budget("best", {"encoder_params": parse_bounds(text, full)})
        return deployer.Deployer(run, [budget], InProcess()).has_enough(budget)

    assert enough("75%")
    assert not enough("14%")
    assert not enough("100%")


def test_what_is_out_of_reach_is_3_with_the_nearest_value(finished, tmp_path, capsys):
    arguments = [
        "deploy",
        str(finished),
        "params<=1%",
        "--budgets",
        "encoder_params=50%,2%",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 3
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("The nearest reachable is params = ") == 2
    assert "% of the full network" in error
    assert not (tmp_path / "o").exists()


def test_all_bad_constraints_are_told_at_once(finished, tmp_path, capsys):
    bad = ["encoder_parms<=60%", "latency=3", "macs<=2x", "--budgets", "parms=3", "--out", str(tmp_path / "o")]
    assert main(["deploy", str(finished), *bad]) == 2
    _, error = capsys.readouterr()
    for words in (
        "Did you mean 'encoder_params'?",
        "Did you mean 'latency<=3'?",
        "unknown unit",
        "Did you mean 'params'?",
    ):
        assert words in error
    for rest in ([], ["params<=90%", "--search", "3", "--no-search"], ["params<=90%", "--stage", "serch"]):
        assert main(["deploy", str(finished), *rest, "--out", str(tmp_path / "o")]) == 2
    assert "Did you mean 'search'?" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_nothing_is_overwritten(finished, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="never overwritten"):
        deploy(finished, ["params<=90%"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_that_computes_something_else_is_refused(finished, tmp_path, monkeypatch):
    class Wrong(InProcess):
        def outputs(self, jobs):
            right = super().outputs(jobs)
            return {name: {"logits": outputs["logits"] + 1e-2} for name, outputs in right.items()}

    monkeypatch.setattr(deployment, "Verifier", Wrong)
    with pytest.raises(VerificationError, match="differ by"):
        deploy(finished, ["encoder_params<=70%"], out=tmp_path / "o", search=0)
    assert not any((tmp_path / "o").rglob("*"))


def test_a_measured_cost_is_measured_best_first(finished, tmp_path, quick, monkeypatch):
    from nasframe_basics.latency import Latency

    timed = []

    def measure(self, space, net, arch=None, again=False):
        timed.append(arch)
        size = sum(p.numel() for p in (net if arch is None else space.extract(net, arch)).parameters())
        return {"median": size / 1000, "spread": 0.0, "how": {}}

    monkeypatch.setattr(Latency, "measure", measure)
    monkeypatch.setattr(
        Latency, "estimate", lambda self, space, net, arch=None: measure(self, space, net, arch)["median"]
    )
    run = Finished(finished)
    half = 0.6 * sum(p.numel() for p in run.net.parameters()) / 1000
    found = deploy(finished, [f"latency<={half}ms"], out=tmp_path / "o", search=0)["models"][0]
    assert found["costs"]["latency"] <= half
    assert len(timed) <= 12 < len(run.trials)
    with pytest.raises(UnsatisfiableError, match="nearest measured here"):
        deploy(finished, ["latency<=0.1ms"], out=tmp_path / "p", search=0)


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ("[{train: {save_as: s, max_steps: 1}}, {search: {}}]", "s"),
        ("[{search: {}}]", "pretrained"),
        ("[{train: {max_steps: 1}}, {search: {}}]", None),
        ("[{train: {save_as: s, max_steps: 1}}, {transform: {use: rewire}}, {search: {}}]", None),
        ("[{train: {save_as: s, max_steps: 1}}, {transform: {use: rewire, save_as: r}}, {search: {}}]", "r"),
        ("[{train: {save_as: s, max_steps: 1}}, {train: {max_steps: 1}}, {search: {from: s}}]", "s"),
        ("[{train: {save_as: s, max_steps: 1}}, {search: {}}, {train: {name: t, save_as: s, max_steps: 1}}]", None),
    ],
)
def test_the_network_of_a_search_is_known_by_name(stages, name):
    plan = resolve(nf.load_recipe(RECIPE, [f"stages={stages}"]))
    assert searched_net(plan, next(stage for stage in plan.stages if stage.verb == "search")) == name


def test_a_super_network_without_a_name_is_kept(tmp_path, quick):
    stages = "stages=[{train: {sampler: random, max_steps: 1}}, {search: {sampler: random, trials: 12}}]"
    run = nf.run(nf.load_recipe(RECIPE, [stages]), out=tmp_path / "run").directory
    assert deploy(run, ["encoder_params<=70%"], out=tmp_path / "one", search=0)["net"] == "search"
    shutil.rmtree(run / "models" / "search.net")
    with pytest.raises(UsageError, match=r"was not kept.*save_as"):
        deploy(run, ["encoder_params<=70%"], out=tmp_path / "two", search=0)


def test_a_run_that_is_not_finished_is_refused_with_the_way_on(finished, tmp_path, capsys, monkeypatch):
    part = tmp_path / "part"
    shutil.copytree(finished, part)
    store = RunStore(part)
    store.put("finished", False)
    store.close()
    assert main(["deploy", str(part), "params<=90%", "--out", str(tmp_path / "o")]) == 2
    assert f"nasframe run --resume {part}" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no run here"):
        deploy(tmp_path, ["params<=90%"], out=tmp_path / "o")


def test_the_python_name(finished):
    with pytest.raises(ImportError, match=r"nasframe_deploy\.deploy\.deploy"):
        _ = nf.deploy
    assert runner.Run(finished).directory == finished
    assert callable(reload.run)


def test_the_runs_own_sampler_proposes_with_what_it_has_learned(tmp_path, quick):
    changes = [
        "space={use: compound, smallest: '20%', step: 1.05}",
        "sampler={use: banded_sng, bands: ['30%', '60%'], top: 3}",
        "budgets={encoder_params: ['60%']}",
        "stages=[{train: {save_as: teacher, max_steps: 2}}, "
        "{train: {name: supernet, save_as: supernet, sampler: shared, max_steps: 12, learning_rate: 1e-3, "
        "modifiers: [{use: probes, examples: 4, share: 4}]}}, {search: {sampler: shared, trials: 3}}]",
    ]
    recipe = nf.load_recipe(RECIPE, changes)
    nf.run(recipe, out=tmp_path / "first", cache=tmp_path / "cache", progress=False)
    run = nf.run(recipe, out=tmp_path / "run", cache=tmp_path / "cache", progress=False).directory  # all from the cache
    assert Finished(run).shared_sampler().updates > 0
    found = deploy(run, ["encoder_params<=45%"], out=tmp_path / "out", search=40)
    assert found["evaluations"] == 3  # the sampler's best guesses, and not 40 draws of evolution
    assert models_of(found)["best"]["shares"]["encoder_params"] > 0.4
    (run / "sampler.safetensors").unlink()  # as in a run of an earlier version
    assert Finished(run).shared_sampler() is None
    assert deploy(run, ["encoder_params<=45%"], out=tmp_path / "out2", search=10)["evaluations"] == 10
