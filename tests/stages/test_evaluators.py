"""Evaluators in a run: from a recipe to trials, winners, ledger, report and deployment; refused before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nasframe as nf
from in_process import InProcess
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.interfaces import SearchJob, Work
from nasframe.recipe.resolve import check_recipe
from nasframe.records import arch_id
from nasframe.running.runner import resume
from nasframe.stages.trials import Scorer
from nasframe.store import RunStore
from nasframe.testing.toy import PartialToyTask, ToySpace, tiny_net
from nasframe.training.macs import MacCounter
from nasframe_basics.gradients import Gradients
from nasframe_deploy import deploy as deployment
from nasframe_deploy.deploy import deploy

HERE = Path(__file__).parents[1]
RECIPE = HERE / "data" / "toy.yaml"
PLUGINS = f"plugins=[{HERE / 'toy_plugin.py'}, {HERE / 'toy_losses.py'}, {HERE / 'toy_parts.py'}]"
TRAIN = [
    "{train: {save_as: teacher, max_steps: 4, learning_rate: 1e-3}}",
    "{train: {name: supernet, save_as: supernet, sampler: random, max_steps: 3, learning_rate: 1e-3}}",
]


def overrides(search, task="toy_parts", after=(), *more):
    trials = "" if "trials" in search else "trials: 10, "
    stages = [*TRAIN, "{search: {sampler: random, " + trials + search + "}}", *after]
    return [PLUGINS, f"task={task}", f"stages=[{', '.join(stages)}]", *more]


def ran(out, *arguments):
    nf.run(nf.load_recipe(RECIPE, overrides(*arguments)), out=out)
    store = RunStore(out, shared=True)
    trials = [trial for trial in store.trials("search") if trial.state == "done"]
    result = store.stage_result("search")
    (ledger,) = [dict(row) for row in store.rows("ledger") if row["stage"] == "search"]
    store.close()
    return trials, result, ledger


@pytest.mark.parametrize(
    ("search", "options", "text"),
    [
        (
            "evaluator: los",
            (),
            "unknown evaluator 'los'. There are: agreement, gradients, loss, metric, racing. Did you",
        ),
        ("evaluator: {use: agreement, teacher: techer}", (), "search.evaluator.teacher  no saved network 'techer'"),
        (
            "evaluator: gradients, examples: 8",
            (),
            "search.examples  has no effect, because the evaluator measures nothing",
        ),
        ("evaluator: gradients, objectives: [accuracy]", (), "unknown metric or cost 'accuracy'. Metrics: snip; costs"),
        ("evaluator: {use: gradients, score: synflow}", (), "'synflow' does not fit. Expected 'snip' or 'grad_norm'"),
        ("evaluator: agreement, objectives: [divergence]", (), "Expected '-divergence'"),
        (
            "evaluator: racing, objectives: [accuracy, -macs]",
            (),
            "a search for accuracy, -macs looks for more than that",
        ),
        ("evaluator: gradients", ("objectives=[accuracy]",), "does not go with the recipe's objective 'accuracy'"),
        ("evaluator: gradients, winner: loss", (), "chooses by the metric 'loss', which the task does not measure"),
    ],
)
def test_what_cannot_work_is_refused_by_the_check(search, options, text):
    _, problems = check_recipe(RECIPE, overrides(search, "toy_loss", (), *options))
    assert text in " ".join(map(str, problems))


def test_a_task_that_has_no_loss_or_no_parts_is_refused_before_any_work(tmp_path, capsys):
    for search, task, text in [
        (
            "evaluator: loss",
            "toy_lossless",
            "the evaluator chooses by the metric 'loss', which the task does not measure",
        ),
        ("evaluator: racing", "toy_loss", "racing needs a task that is measured part by part"),
    ]:
        out = tmp_path / task
        command = ["run", str(RECIPE), *overrides(search, task), "--out", str(out), "--no-progress"]
        assert main(command) == 2
        said = " ".join("".join(capsys.readouterr()).split())
        assert "stages.search.evaluator" in said
        assert text in said
        assert not out.exists()


def test_the_loss_scores_and_metrics_stay_with_the_trials(tmp_path):
    trials, result, _ = ran(tmp_path / "run", "evaluator: loss")
    assert result["objectives"] == ["-loss"]
    assert "metrics" not in result  # the task says how its loss reads
    for trial in trials:
        assert trial.score == -trial.metrics["loss"]
        assert "accuracy" in trial.metrics
    for name, winner in result["winners"].items():
        high = result["bounds"][name]["encoder_params"][1]
        assert winner["score"] == max(t.score for t in trials if t.costs["encoder_params"] <= high)


def test_agreement_ranks_by_the_teacher_and_a_deployment_goes_on_with_it(tmp_path, monkeypatch):
    out = tmp_path / "run"
    trials, result, ledger = ran(out, "evaluator: agreement", "toy_parts", ["{extract: {}}", "{evaluate: {}}"])
    assert result["objectives"] == ["-divergence"]
    assert result["metrics"]["divergence"]["higher_is_better"] is False
    assert all(trial.score == -trial.metrics["divergence"] for trial in trials)
    assert ledger["evaluations"] == len(trials) + 1  # the teacher, once
    report = json.loads((out / "report.json").read_text())
    assert report["searches"][0]["aim"] == "-divergence"
    assert report["formats"]["divergence"]["higher_is_better"] is False
    monkeypatch.setattr(deployment, "Verifier", InProcess)
    found = deploy(out, budgets=["encoder_params=75%"], out=tmp_path / "deployed", search=3)
    assert found["objective"] == "-divergence"
    known = {arch_id(t.arch) for t in trials}
    (model,) = found["models"]
    assert model["metrics"]["divergence"] >= 0
    assert found["evaluations"] >= 1
    assert known


def test_gradients_are_those_of_the_extracted_model_and_cost_a_backward_pass(tmp_path):
    trials, result, ledger = ran(tmp_path / "run", "evaluator: {use: gradients, batch_size: 16}")
    assert result["objectives"] == ["snip"]
    assert ledger["backward_macs"] == pytest.approx(2 * ledger["forward_macs"])
    assert ledger["examples"] == 16 * len(trials)
    assert all(set(trial.metrics) == {"snip"} for trial in trials)


@pytest.mark.parametrize("score", ["snip", "grad_norm"])
def test_a_proxy_is_what_its_formula_says(score):
    task, space, net = PartialToyTask(), ToySpace(), tiny_net()
    evaluator = Gradients(score=score, batch_size=24, batches=2, seed=5)
    work = Work(net, None, task, space)
    scorer = Scorer(evaluator, work, MacCounter(task, space), SearchJob(["snip"], 0, "s"), "fp32", {}.get)
    arch = space.domain.sample(np.random.default_rng(1))
    model = space.extract(net, arch).eval()
    batches = task.train_batches(5, 0, 24)[:2]
    logits = [model(**batch.inputs).logits for batch in batches]
    losses = [torch.nn.functional.cross_entropy(x, b.labels) for x, b in zip(logits, batches, strict=True)]
    gradients = torch.autograd.grad(sum(losses) / 2, list(model.parameters()), allow_unused=True)
    pairs = [(g, p.detach()) for g, p in zip(gradients, model.parameters(), strict=True) if g is not None]
    snip = sum(float((g * p).abs().sum()) for g, p in pairs)
    norm = sum(float(g.square().sum()) for g, _ in pairs) ** 0.5
    expected = {"snip": snip, "grad_norm": norm}[score]
    assert scorer.score(arch, None).metrics == {score: pytest.approx(expected, rel=1e-5)}
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_race_is_told_in_the_report_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    search = "trials: 24, objectives: [-loss], evaluator: {use: racing, start: 16, known: 4}"
    trials, result, ledger = ran(tmp_path / "run", search)
    count = result["search"]["broken_off"]
    assert count == sum(trial.examples is not None for trial in trials) > 0
    assert ledger["examples"] == sum(trial.examples or 128 for trial in trials)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["searches"][0]["broken_off"] == count
    assert not [p for p in report["searches"][0]["points"] if p["broken_off"] and p["front"]]
    assert (
        f"24 evaluations ({count} broken off, as they could no longer win)"
        in (tmp_path / "run" / "report.md").read_text()
    )

    add = RunStore.add_trial

    def stop(self, stage, number, trial, seconds):
        add(self, stage, number, trial, seconds)
        if number == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunStore, "add_trial", stop)
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path / "stopped", search)
    monkeypatch.setattr(RunStore, "add_trial", add)
    resume(tmp_path / "stopped")
    store = RunStore(tmp_path / "stopped", shared=True)
    again = [trial for trial in store.trials("search") if trial.state == "done"]
    assert [(t.arch, t.score, t.examples) for t in again] == [(t.arch, t.score, t.examples) for t in trials]
    assert store.stage_result("search")["winners"] == result["winners"]
    store.close()


def test_no_evaluator_can_read_dev():
    class Peeks:
        def metrics(self, primary, of_task):
            return of_task

        def start(self, job):
            self.job = job

        def evaluate(self, candidate, examples):
            return self.job.task.evaluate_at(candidate.forward, "dev", [0, 1])

    task, space, net = PartialToyTask(), ToySpace(), tiny_net()
    job = SearchJob(["accuracy"], 0, "s")
    scorer = Scorer(Peeks(), Work(net, None, task, space), MacCounter(task, space), job, "fp32", {}.get)
    with pytest.raises(UsageError, match="an evaluator called evaluate_at on 'dev', which is for reporting"):
        scorer.score(space.domain.largest(), None)


def test_the_parts_of_a_text_task_add_up_to_the_whole():
    from nasframe.testing.registered import contract_of

    contract = contract_of(registry.find("task", "text_classification"))()
    task = contract.shared()
    forward = tiny_net(labels=len(task.labels))
    whole = task.evaluate(forward, "select")
    order = task.order("select")
    assert sorted(order) == list(range(task.sizes["select"]))
    half = len(order) // 2
    parts = [task.evaluate_at(forward, "select", ids) for ids in (order[:half], order[half:])]
    columns = {name: [*parts[0].predictions[name], *parts[1].predictions[name]] for name in parts[0].predictions}
    assert columns["id"] == order
    for name, value in task.metrics_of(columns).items():
        assert value == pytest.approx(whole.metrics[name], abs=1e-6)
    subset = task.evaluate(forward, "select", half)
    assert parts[0].metrics["accuracy"] == pytest.approx(subset.metrics["accuracy"])
