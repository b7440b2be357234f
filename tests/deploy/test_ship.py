"""``nasframe export``: any model of any run or study, from what its directory or its cache has."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

import nasframe as nf
from hub_stub import HubStub
from in_process import InProcess
from nasframe.cli import main
from nasframe.errors import RunError, UsageError
from nasframe.export import write as export
from nasframe.export.files import read_net
from nasframe.folders import model_folder
from nasframe.recipe.yaml import dump
from nasframe.report.read import read_run
from nasframe.running.kept_models import KeptModels
from nasframe.running.runner import StageRunner
from nasframe.store import RunStore
from nasframe.testing.toy import tiny_inputs
from nasframe_deploy.ship import choose, export_models
from study_directory import make_study

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
WITHOUT_EXPORT = (
    "stages=[{train: {save_as: teacher, max_steps: 4, learning_rate: 1e-3}}, "
    "{extract: {archs: {best@50%: {layers: [0, 1], heads: 2, ffn: 32}, other: {layers: [2]}}}}, "
    "{train: {name: tune, models: ['best@*'], max_steps: 2}}, "
    "{evaluate: {costs: [params, encoder_params]}}]"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("ship")


@pytest.fixture(scope="module")
def run_dir(home):
    """A run without a cache, none of whose stages exports."""
    return nf.run(nf.load_recipe(RECIPE, [WITHOUT_EXPORT]), out=home / "run", report=False).directory


@pytest.fixture(scope="module")
def cached(home):
    """The same run with a cache, which alone has its extracted models, as for the runs of a study."""
    recipe = nf.load_recipe(RECIPE, [WITHOUT_EXPORT])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRunner, "_keep_models", lambda runner, work: None)
        return nf.run(recipe, out=home / "cached", cache=home / "cache", report=False).directory


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(export, "Verifier", InProcess)


def outputs(net):
    with torch.no_grad():
        return net(**tiny_inputs()).logits


# ---- what runs keep


def test_a_run_keeps_models_that_no_stage_writes(run_dir, cached):
    assert (model_folder(run_dir, "best@50%") / "model.safetensors").is_file()
    assert (model_folder(run_dir, "other") / "model.safetensors").is_file()
    assert not (model_folder(cached, "best@50%") / "model.safetensors").exists()  # the cache has it


def test_files_and_cache_hold_the_same_trained_network(run_dir, cached):
    with KeptModels(run_dir) as files, KeptModels(cached) as states:
        one, other = files.load("best@50%"), states.load("best@50%")
    assert (one.source, other.source) == ("files", "cache")
    assert torch.equal(outputs(one.net), outputs(other.net))
    assert one.arch == other.arch
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def test_a_run_that_was_stopped_has_its_models_in_its_states(run_dir, home):
    stopped = home / "stopped"
    recipe = nf.load_recipe(RECIPE, [WITHOUT_EXPORT])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRunner, "_keep_models", broken)
        with pytest.raises(RunError, match="pulled the plug"):
            nf.run(recipe, out=stopped, report=False)
    with KeptModels(stopped) as kept, KeptModels(run_dir) as files:
        model = kept.load("best@50%")
        assert model.source == "states"
        assert torch.equal(outputs(model.net), outputs(files.load("best@50%").net))


def broken(runner, work):
    raise RunError("somebody pulled the plug")


def test_a_model_that_is_gone_says_what_to_do(cached, home, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cached, copy)
    store = RunStore(copy)
    store.put("cache", str(tmp_path / "elsewhere"))
    store.close()
    with KeptModels(copy) as kept, pytest.raises(UsageError, match=r"'other' was not kept.*Run the\s+recipe again"):
        kept.load("other")
    with KeptModels(copy) as kept, pytest.raises(UsageError, match=r"no model 'bets@50%'.*Did you mean 'best@50%'"):
        kept.load("bets@50%")


def test_damaged_files_are_no_model(run_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    weights = model_folder(copy, "other") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with KeptModels(copy) as kept, pytest.raises(RunError, match="damaged"):
        kept.load("other")


# ---- exporting


@pytest.mark.parametrize("mode", ["hetero", "padded"])
def test_winners_are_written_by_default(run_dir, tmp_path, in_this_process, mode):
    (model,) = export_models(run_dir, out=tmp_path / "out", mode=mode)
    assert (model.name, model.mode, Path(model.directory).name) == ("best@50%", mode, "best-50")
    assert "ship best@50%" in model.why
    loaded = AutoModelForSequenceClassification.from_pretrained(model.directory).eval()
    with KeptModels(run_dir) as kept:
        assert torch.allclose(outputs(loaded), outputs(kept.load("best@50%").net), atol=1e-5)
    data = ModelCard.load(Path(model.directory) / "README.md").data
    score = {row.name: row for row in read_run(run_dir).models}["best@50%"].score
    assert data.eval_results[0].metric_value == pytest.approx(score, abs=1e-6)


def test_names_and_patterns_choose_others(cached, tmp_path, in_this_process):
    written = export_models(cached, ["oth*", "teacher"], out=tmp_path / "out")
    assert [model.name for model in written] == ["teacher", "other"]
    assert [model.source for model in written] == ["files", "cache"]
    again = read_net(tmp_path / "out" / "other")
    with KeptModels(cached) as kept:
        assert torch.equal(outputs(again), outputs(kept.load("other").net))


def test_nothing_is_written_over_unless_asked(run_dir, tmp_path, in_this_process):
    export_models(run_dir, out=tmp_path)
    with pytest.raises(UsageError, match=r"best-50: already there.*--replace"):
        export_models(run_dir, out=tmp_path)
    (model,) = export_models(run_dir, out=tmp_path, replace=True)
    assert (Path(model.directory) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{run}", "bets@50%"], "no model 'bets@50%'. Models: best@50%, other, teacher. Did you mean 'best@50%'?"),
        (["{run}", "--mode", "hetro"], "Did you mean 'hetero'?"),
        (["{home}"], "no run and no study here"),
        (["{run}", "--public"], "Expected --push REPO"),
        (["{run}", "--push", "a/b/c"], "Expected a repository such as 'me/my-model'"),
        (["{run}", "--push", "me/mine"], "HF_HUB_OFFLINE is set"),
    ],
)
def test_wrong_usage_is_2_and_writes_nothing(run_dir, home, tmp_path, capsys, arguments, text):
    words = [word.format(run=run_dir, home=tmp_path) for word in arguments]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_no_file_names_this_machine(run_dir, tmp_path, in_this_process):
    export_models(run_dir, ["*"], out=tmp_path / "out")
    names = [str(Path.home()), str(tmp_path), str(run_dir), str(Path(__file__).parents[2]), "/tmp/"]
    if getpass.getuser() not in ("root", "user"):  # words that any text may hold
        names.append(getpass.getuser())
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for name in names:
                assert name.encode() not in content, path


def test_the_command_prints_where_and_how_to_load(run_dir, tmp_path, capsys, in_this_process):
    out = tmp_path / "out"
    assert main(["export", str(run_dir), "--out", str(out), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert model["directory"] == str(out / "best-50")
    assert f'from_pretrained("{out / "best-50"}", trust_remote_code=True)' in model["snippet"]
    assert main(["export", str(run_dir), "--out", str(out), "--replace"]) == 0
    printed = capsys.readouterr().out
    assert "verified in a fresh process" in printed
    assert model["snippet"] in printed


# ---- studies


def test_a_study_offers_its_recommended_models_and_all_others(tmp_path):
    place = make_study(tmp_path / "study", seeds=3, trials=4)
    recommended = choose(place)
    assert len(recommended) == 6  # two tasks, three budgets
    assert {choice.model for choice in recommended} == {"best@75%", "best@50%", "best@30%"}
    assert {choice.label.split("/")[0] for choice in recommended} == {"sng"}  # which gains most
    assert len({choice.folder for choice in recommended}) == 6
    assert {choice.folder for choice in choose(place, ["best@50%"])} == {"sst2-best-50", "mrpc-best-50"}
    (other,) = choose(place, ["random/sst2/seed-0/best@50%"])
    assert (other.model, other.folder) == ("best@50%", "random-sst2-seed-0-best-50")
    assert other.run == place / "runs/random/sst2/seed-0"
    with pytest.raises(
        UsageError, match=r"no model 'bets@50%'. Models: best@30%, best@50%, best@75%. Did you mean 'best@50%'"
    ):
        choose(place, ["bets@50%"])
    with pytest.raises(UsageError, match=r"Did you mean 'random/sst2/seed-0/best@50%'"):
        choose(place, ["randm/sst2/seed-0/best@50%"])


def test_models_of_a_study_are_written_with_the_values_of_their_own_runs(cached, home, tmp_path, in_this_process):
    place = tmp_path / "study"
    runs = []
    for seed in (0, 1):
        run = f"runs/only/seed-{seed}"
        recipe = nf.load_recipe(RECIPE, [WITHOUT_EXPORT, f"seed={seed}"])
        nf.run(recipe, out=place / run, cache=home / "cache", report=False)
        runs.append({"arm": "only", "task": "toy", "seed": seed, "run": run})
    facts = {"format_version": 1, "study": "s", "arms": {"only": {}}, "seeds": [0, 1], "runs": runs}
    (place / "study.yaml").write_text(dump(facts))
    (model,) = export_models(place, out=tmp_path / "out")
    assert Path(model.directory).name == "best-50"
    assert "For 50%, ship best@50% of only, seed" in model.why
    assert "teacher" in model.why
    run = place / Path(model.run).relative_to(place)
    with KeptModels(run) as kept:
        loaded = AutoModelForSequenceClassification.from_pretrained(model.directory).eval()
        assert torch.allclose(outputs(loaded), outputs(kept.load("best@50%").net), atol=1e-5)
    both = export_models(place, ["only/*/best@50%"], out=tmp_path / "both")
    assert [Path(model.directory).name for model in both] == ["only-seed-0-best-50", "only-seed-1-best-50"]


# ---- the hub


def pushed(run_dir, out, hub):
    """Push in a process of its own, because huggingface_hub reads its address when it is imported."""
    environment = dict(os.environ, HF_ENDPOINT=hub.address, HF_TOKEN="hf_mine", HF_HUB_DISABLE_XET="1")
    environment["HF_HUB_OFFLINE"] = "0"
    command = [sys.executable, "-m", "nasframe", "export", str(run_dir), "--out", str(out), "--push", "me/mine"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_a_push_makes_a_private_repository_with_all_files(run_dir, tmp_path):
    with HubStub() as hub:
        done = pushed(run_dir, tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.address}/me/mine" in done.stderr
    (made,) = hub.made
    assert (made["organization"], made["name"]) == ("me", "mine")
    assert made.get("private") or made.get("visibility") == "private"  # as newer versions of huggingface_hub say it
    assert hub.tokens == {"Bearer hf_mine"}
    assert "model-index" in hub.cards[0]  # which the hub checks first
    names = {path.name for path in (tmp_path / "best-50").iterdir()}
    assert hub.files.keys() == names
    assert hub.files["README.md"] == (tmp_path / "best-50" / "README.md").read_bytes()


@pytest.mark.slow
def test_a_push_that_is_refused_leaves_the_model_here(run_dir, tmp_path):
    with HubStub(refuse=True) as hub:
        done = pushed(run_dir, tmp_path, hub)
    assert done.returncode == 1
    assert "me/mine: not pushed: " in done.stderr
    assert f"The model lies in {tmp_path / 'best-50'}" in done.stderr
    assert (tmp_path / "best-50" / "config.json").is_file()
