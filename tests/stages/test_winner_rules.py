"""Winners that are chosen by loss or by agreement: from a recipe to the report, the ledger and a deployment."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import nasframe as nf
from in_process import InProcess
from nasframe.cli import main
from nasframe.interfaces import Candidate, SearchJob
from nasframe.nn.count import forward_macs
from nasframe.recipe.resolve import check_recipe
from nasframe.records import arch_id
from nasframe.running.reopen import Finished
from nasframe.running.runner import resume
from nasframe.stages.trials import Divergence
from nasframe.store import RunStore
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics.evaluators import Agreement
from nasframe_deploy import deploy as deployment
from nasframe_deploy.deploy import deploy

HERE = Path(__file__).parents[1]
RECIPE = HERE / "data" / "toy.yaml"
PLUGINS = f"plugins=[{HERE / 'toy_plugin.py'}, {HERE / 'toy_losses.py'}]"
SELECT = 16
TRAIN = [
    "{train: {save_as: teacher, max_steps: 4, learning_rate: 1e-3}}",
    "{train: {name: supernet, save_as: supernet, sampler: random, max_steps: 3, learning_rate: 1e-3}}",
]


def overrides(search, task="toy_loss", before=TRAIN):
    return [PLUGINS, f"task={task}", f"stages=[{', '.join([*before, '{search: {' + search + '}}'])}]"]


def rows(directory):
    store = RunStore(directory, shared=True)
    trials = [trial for trial in store.trials("search") if trial.state == "done"]
    result = store.stage_result("search")
    ledger = [dict(row) for row in store.rows("ledger") if row["stage"] == "search"]
    store.close()
    return trials, result, ledger


def within_error(trials, high):
    """Return the fully scored trials within a budget that lie within one standard error of the best of them."""
    pool = [t for t in trials if t.examples is None and t.costs["encoder_params"] <= high]
    best = max(t.metrics["accuracy"] for t in pool)
    error = math.sqrt(best * (1 - best) / SELECT)
    return [t for t in pool if t.metrics["accuracy"] >= best - error - 1e-9]


@pytest.mark.parametrize("task", ["toy_lossless", "toy"])
def test_a_loss_that_is_not_measured_is_refused_before_any_work(task, tmp_path, capsys):
    changes = overrides("winner: loss", task)
    out = tmp_path / "run"
    # A task that says what it measures is refused by the check, any other one when the run has loaded it.
    command = ["check", str(RECIPE), *changes]
    if task == "toy":
        command = ["run", str(RECIPE), *changes, "--out", str(out), "--no-progress"]
    assert main(command) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert "stages.search.winner" in said
    assert "chooses by the metric 'loss', which the task does not measure on select. It measures: accuracy." in said
    assert not out.exists()


def test_a_teacher_that_no_stage_saves_is_refused():
    faults = []
    for search in ("winner: agreement, teacher: techer", "winner: agreement", "winner: best", "teacher: nobody"):
        before = TRAIN if "techer" in search or "nobody" in search else TRAIN[1:]
        _, problems = check_recipe(RECIPE, overrides(search, before=before))
        faults.append(" ".join(map(str, problems)))
    assert "stages.search.teacher  no saved network 'techer' at this point. There are: supernet, teacher." in faults[0]
    assert "Did you mean 'teacher'" in faults[0]
    assert "no saved network 'teacher' at this point. There are: supernet." in faults[1]
    assert "stages.search.winner  'best' does not fit. Expected 'score' or 'loss' or 'agreement'" in faults[2]
    assert faults[3] == ""  # nothing asks for it


def test_the_smallest_loss_wins_and_every_page_says_so(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    search = "sampler: random, trials: 25, winner: loss"
    assert main(["run", str(RECIPE), *overrides(search), "--out", str(out), "--no-progress"]) == 0
    assert "standard error" not in capsys.readouterr().err
    trials, result, _ = rows(out)
    choices = {
        choice["winner"]: choice for choice in json.loads((out / "report.json").read_text())["searches"][0]["choices"]
    }
    for name, winner in result["winners"].items():
        band = within_error(trials, result["bounds"][name]["encoder_params"][1])
        least = min(t.metrics["loss"] for t in band)
        assert winner["arch"] in [t.arch for t in band if t.metrics["loss"] == least]
        best = max(t.metrics["accuracy"] for t in band)
        error = pytest.approx(math.sqrt(best * (1 - best) / SELECT))
        assert winner["choice"] == {"rule": "loss", "within": len(band), "standard_error": error}
        assert choices[name]["text"].startswith(f"smallest loss of {len(band)} candidate")
        assert f"{name}: {choices[name]['text']}." in (out / "report.md").read_text()

    # A deployment chooses as the search did.
    monkeypatch.setattr(deployment, "Verifier", InProcess)
    found = deploy(out, budgets=["encoder_params=75%,40%"], out=tmp_path / "deployed", search=0)
    for model in found["models"]:
        assert model["arch"] == result["winners"][model["name"]]["arch"]
        assert model["chosen_by"] == choices[model["name"]]["text"]


def test_an_unknown_error_is_told_once(tmp_path, capsys):
    out = tmp_path / "run"
    nf.run(nf.load_recipe(RECIPE, overrides("trials: 12, winner: loss", "toy_unknown", TRAIN[1:])), out=out)
    said = capsys.readouterr().err
    assert said.count("The standard error of 'accuracy' is unknown, so loss decides between equal scores only.") == 1
    trials, result, _ = rows(out)
    for name, winner in result["winners"].items():
        high = result["bounds"][name]["encoder_params"][1]
        pool = [t for t in trials if t.costs["encoder_params"] <= high]
        best = max(t.metrics["accuracy"] for t in pool)
        ties = [t for t in pool if t.metrics["accuracy"] == best]
        assert winner["score"] == best
        assert winner["choice"] == {"rule": "loss", "within": len(ties), "standard_error": None}
        assert winner["arch"] == min(ties, key=lambda t: t.metrics["loss"]).arch


AGREEMENT = "sampler: random, trials: 12, examples: 8, finalists: 4, winner: agreement"


def divergence(task, teacher, candidate):
    """Return the mean KL divergence on select, in one batch and in numpy."""
    inputs = task.batch("select", np.arange(SELECT)).inputs
    with torch.no_grad():
        logits = [net.eval()(**inputs).logits.double().numpy() for net in (teacher, candidate)]
    log_q, log_p = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in logits)
    return float((np.exp(log_q) * (log_q - log_p)).sum(1).mean())


def test_the_closest_to_the_teacher_wins_and_its_cost_is_in_the_ledger(works, tmp_path, monkeypatch):
    out = tmp_path / "run"
    nf.run(nf.load_recipe(RECIPE, overrides(AGREEMENT)), out=out)
    trials, result, (ledger,) = rows(out)
    work = works["search"]
    length = work.task.data["select"].shape[1]

    def macs(arch):
        net = work.models["teacher"] if arch is None else work.space.extract(work.net, arch)
        return forward_macs(net, None, 1, length)

    compared = {}
    for name, winner in result["winners"].items():
        high = result["bounds"][name]["encoder_params"][1]
        partial = [t for t in trials if t.examples == 8 and t.costs["encoder_params"] <= high]
        partial.sort(key=lambda t: (-t.metrics["accuracy"], t.metrics["loss"]))
        finalists = {arch_id(t.arch) for t in partial[:4]}
        band = within_error([t for t in trials if arch_id(t.arch) in finalists], high)
        distances = {}
        for t in band:
            net = work.space.extract(work.net, t.arch)
            distances[arch_id(t.arch)] = divergence(work.task, work.models["teacher"], net)
            compared[arch_id(t.arch)] = t.arch
        assert arch_id(winner["arch"]) == min(distances, key=distances.get)
        assert winner["choice"]["within"] == len(band)

    # The ledger: each trial's sub-network over its examples, the teacher once, each compared network once.
    evaluations = [(t.arch, t.examples or SELECT) for t in trials]
    evaluations += [(None, SELECT), *((arch, SELECT) for arch in compared.values())]
    assert ledger["forward_macs"] == pytest.approx(sum(macs(arch) * count for arch, count in evaluations))
    assert ledger["evaluations"] == len(evaluations)
    assert ledger["examples"] == sum(count for _, count in evaluations)
    total = json.loads((out / "report.json").read_text())["ledger_total"]
    assert total["search_macs"] == ledger["forward_macs"]
    assert total["training_and_search_macs"] == pytest.approx(total["training_macs"] + total["search_macs"])

    # A run that stops while it compares ends with the same winners, and with the same costs.
    stopped = []

    def stop(self, arch, compute=Divergence.__call__):
        if len(stopped) < 3:
            stopped.append(arch)
            if len(stopped) == 3:
                raise KeyboardInterrupt
        return compute(self, arch)

    monkeypatch.setattr(Divergence, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        nf.run(nf.load_recipe(RECIPE, overrides(AGREEMENT)), out=tmp_path / "stopped")
    resume(tmp_path / "stopped")
    _, again, (ledger_again,) = rows(tmp_path / "stopped")
    assert again["winners"] == result["winners"]
    assert ledger_again | {"run_seconds": 0} == ledger | {"run_seconds": 0}

    # A deployment has the same teacher, and says so if it does not.
    monkeypatch.setattr(deployment, "Verifier", InProcess)
    found = deploy(out, budgets=["encoder_params=75%,40%"], out=tmp_path / "deployed", search=0)
    assert {m["name"]: m["arch"] for m in found["models"]} == {n: w["arch"] for n, w in result["winners"].items()}
    (out / "models" / "teacher").rename(tmp_path / "elsewhere")
    with pytest.raises(nf.errors.UsageError, match="the teacher 'teacher' of stage 'search' was not kept"):
        Finished(out).winner_rule()


def test_in_regression_outputs_are_compared_by_their_squares():
    task = ToyTask(train=512)
    task.labels = None
    nets = {number: tiny_net(seed=number, labels=1) for number in range(3)}

    def candidate(arch):
        return Candidate(arch, nets[arch["k"]], lambda: nets[arch["k"]])

    counted = []
    agreement = Agreement("t")
    agreement.start(search_job(task, lambda name: candidate({"k": 0}), counted))
    inputs = task.batch("select", np.arange(128)).inputs
    with torch.no_grad():
        outputs = {number: net(**inputs).logits.double() for number, net in nets.items()}
    for number in (0, 1, 2):
        expected = float((outputs[number] - outputs[0]).square().mean())
        measured = agreement.evaluate(candidate({"k": number}), None)
        assert measured.metrics["divergence"] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert len(counted) == 1  # the teacher, once
    nets[1] = tiny_net(seed=1, labels=3)
    with pytest.raises(nf.errors.RunError, match="cannot be compared: their outputs are"):
        agreement.evaluate(candidate({"k": 1}), None)


def search_job(task, saved, counted):
    return SearchJob(
        net=None,
        task=task,
        space=None,
        objectives=["-divergence"],
        seed=0,
        stage="search",
        saved=saved,
        count=lambda candidate, result: counted.append(result),
    )


def test_candidates_that_are_trained_first_cost_their_training(tmp_path):
    search = "trials: 3, fit: {max_steps: 2, batch_size: 8}"
    nf.run(nf.load_recipe(RECIPE, [*overrides(search, before=[]), "~budgets"]), out=tmp_path / "run")
    trials, _, (ledger,) = rows(tmp_path / "run")
    passes = 2 * 8 + SELECT  # of each candidate: its training, then its evaluation
    assert ledger["backward_macs"] == pytest.approx(ledger["forward_macs"] * 2 * 16 / passes)
    assert ledger["evaluations"] == len(trials)
    total = json.loads((tmp_path / "run" / "report.json").read_text())["ledger_total"]
    assert (total["training_macs"], total["search_macs"]) == (0, ledger["forward_macs"] + ledger["backward_macs"])
