"""Bi-branch weight sharing, against children that are trained by hand."""

import copy

import pytest
import torch
import yaml

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.records import Trial
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_autobert_zero.biws import BIWS
from nasframe_autobert_zero.children import Children
from nasframe_autobert_zero.expression import STANDARD
from nasframe_autobert_zero.space import ExpressionGraphSpace


class Listed:
    """Proposes architectures from a list, and hears scores."""

    def __init__(self, archs):
        self.archs = list(archs)
        self.heard = []

    def ask(self, n=1, within=None):
        return [self.archs.pop(0)] if self.archs else []

    def tell(self, trials):
        self.heard += trials


def made(mixes, steps=2, children=2, keep=1):
    net = tiny_net()
    space = ExpressionGraphSpace(config=net.config, kernels=[3, 7])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        supernet = space.supernet(net)
    archs = [space.arch({"mix": mix}) for mix in mixes]
    sampler = Children(space.domain, steps=steps)
    sampler.inner = Listed(archs)
    modifier = BIWS(children=children, keep=keep)
    job = toy_job(supernet, space=space, sampler=sampler, modifiers=[modifier], max_steps=steps * len(mixes))
    return job, archs


def trained(job):
    return registry.make("trainer", "loop").fit(job).net


def test_each_child_begins_with_the_shared_weights_and_is_measured(monkeypatch):
    job, archs = made(["conv3", STANDARD, "conv7"], children=3)
    starts = []
    original = BIWS.on_batch

    def noting(self, step):
        before = self.child
        original(self, step)
        if self.child != before:
            starts.append(copy.deepcopy(job.net.state_dict()))

    monkeypatch.setattr(BIWS, "on_batch", noting)
    trained(job)
    assert len(starts) == 3
    for state in starts[1:]:
        assert all(torch.equal(tensor, starts[0][name]) for name, tensor in state.items())
    heard = job.sampler.inner.heard
    assert [trial.arch for trial in heard] == archs
    assert all(trial.metrics and trial.origin == "train" for trial in heard)


def test_the_best_child_of_a_round_writes_its_branch_back(monkeypatch):
    """Scores are set by hand, so that the small kernel wins: the middle of the largest changes, and no attention."""
    job, _ = made(["conv3", STANDARD])
    scores = iter([0.9, 0.1])
    task = ToyTask()
    monkeypatch.setattr(
        "nasframe.training.step.Passes.evaluated", lambda self, arch, split, examples=None: {task.primary: next(scores)}
    )
    before = copy.deepcopy(job.net.state_dict())
    after = trained(job).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("convolution.widen" in name for name in changed)
    assert not any("attention.self.attention" in name for name in changed)
    for layer in range(3):
        name = f"net.bert.encoder.layer.{layer}.attention.self.convolution.kernels"
        assert not torch.equal(before[name][:, 2:5], after[name][:, 2:5])
        # Nothing but the weight decay of the optimiser touched the ends, and it leaves out what has no gradient there.
        assert (before[name][:, :2] - after[name][:, :2]).abs().max() < 1e-4


def test_where_two_write_back_the_better_one_wins(monkeypatch):
    job, _ = made(["conv7", "conv3"], keep=2)
    scores = iter([0.1, 0.9])
    task = ToyTask()
    monkeypatch.setattr(
        "nasframe.training.step.Passes.evaluated", lambda self, arch, split, examples=None: {task.primary: next(scores)}
    )
    states = []
    original = BIWS.finish_child

    def noting(self, step):
        states.append(copy.deepcopy(job.net.state_dict()))
        original(self, step)

    monkeypatch.setattr(BIWS, "finish_child", noting)
    before = copy.deepcopy(job.net.state_dict())
    after = trained(job).state_dict()
    for name, tensor in after.items():
        from_best = states[1][name] != before[name]
        expected = torch.where(from_best, states[1][name], states[0][name])
        assert torch.equal(tensor, expected), name


def test_children_stay_for_their_steps_and_pass_on_measured_scores_only():
    space = ExpressionGraphSpace(config=tiny_net().config)
    sampler = Children(space.domain, inner="random", steps=3)
    sampler.start("train", 9, origin="train")
    proposals = [sampler.ask(1)[0] for _ in range(9)]
    assert proposals[0] == proposals[1] == proposals[2] != proposals[3]
    assert sampler.started == 3
    sampler.inner = Listed([])
    sampler.tell([Trial(proposals[0], -0.7, origin="train"), Trial(proposals[0], 0.7, metrics={"accuracy": 0.7})])
    assert [trial.score for trial in sampler.inner.heard] == [0.7]


def test_children_that_nobody_measures_are_told_once():
    notices = []
    job, _ = made(["conv3", STANDARD, "conv7"])
    job.sampler.notify = lambda place, text: notices.append((place, text))
    trained(job)
    assert notices == []  # biws measures them
    job, _ = made(["conv3", STANDARD, "conv7"])
    job.sampler.notify = lambda place, text: notices.append((place, text))
    job.modifiers = []
    trained(job)
    assert job.sampler.inner.heard == []
    [(place, text)] = notices
    assert place == "sampler"
    assert "hears no scores" in text
    assert "'biws'" in text


def test_stages_without_children_are_refused():
    job, _ = made(["conv3"])
    job.sampler = registry.make("sampler", "random", {"domain": job.space.domain, "seed": 0})
    with pytest.raises(UsageError, match=r"proposes another architecture in each step. Expected .*children"):
        trained(job)
    job, _ = made(["conv3"])
    job.options = toy_job(archs_per_step=2).options
    with pytest.raises(UsageError, match=r"archs_per_step: 2. Expected 1"):
        trained(job)
    with pytest.raises(UsageError, match=r"2 of 1 children"):
        BIWS(children=1, keep=2)


def test_a_recipe_without_children_is_refused_before_work(tmp_path):
    recipe = yaml.safe_load(
        """
        extends: autobert_zero/sst2-minilm
        set: {stages.supernet.sampler: random}
        """
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    from nasframe.cli.check import problems_of

    found = [str(problem) for problem in problems_of(str(path))]
    assert len(found) == 1
    assert "proposes another architecture in each step" in found[0]


def test_a_report_takes_no_formula_for_a_position():
    """Architectures of any space may have an entry ``layers``."""
    from types import SimpleNamespace

    from nasframe.report.read import _positions

    assert list(_positions(SimpleNamespace(arch={"layers": [0, 2]}))) == [0, 2]
    assert list(_positions(SimpleNamespace(arch={"layers": [{"mix": "conv3", "ffn": 8}, None]}))) == []
