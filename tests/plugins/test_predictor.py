"""Learned costs: the same numbers in the search, the report, a resume, the cache and a deployment, with their error."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

import nasframe as nf
from in_process import InProcess
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.search.domain import Choices
from nasframe.store import RunStore
from nasframe.testing.toy import ToySpace, tiny_net
from nasframe_basics.latency import Latency
from nasframe_deploy import deploy as deployment
from nasframe_deploy.deploy import deploy
from nasframe_predictor.memory import path_of
from nasframe_predictor.regression import ALPHAS, Regression

HERE = Path(__file__).parents[1]
RECIPE = HERE / "data" / "toy.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "nasframe-cache"))
    return tmp_path / "nasframe-cache"


@pytest.fixture
def clock(monkeypatch):
    """A latency that counts calls, and differs from call to call."""
    calls = []

    def measure(self, space, net, arch=None, again=False):
        calls.append(arch)
        sizes = sum(p.numel() for p in (net if arch is None else space.extract(net, arch)).parameters())
        return {"median": sizes / 1000 + 0.01 * (len(calls) % 7), "spread": 0.0, "how": {}}

    monkeypatch.setattr(Latency, "measure", measure)
    return calls


def predictor(notices=None, **options):
    options = {"of": {"use": "latency", "repeats": 3}, "samples": 20, **options}
    notify = (lambda place, text: notices.append(text)) if notices is not None else (lambda place, text: None)
    return registry.make("estimator", {"use": "predictor", **options}, {"notify": notify})


def test_the_error_is_that_of_cross_validation():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 4))
    values = 5 + rows @ np.array([1.0, -2.0, 0.5, 0.0]) * 0.3 + rng.normal(0, 0.1, 30)
    regression = Regression(rows.tolist(), values.tolist(), "ridge")
    errors = np.empty(30)
    for train, test in KFold(5, shuffle=True, random_state=0).split(rows):
        scaler = StandardScaler().fit(rows[train])
        model = RidgeCV(alphas=ALPHAS).fit(scaler.transform(rows[train]), values[train])
        errors[test] = np.abs(model.predict(scaler.transform(rows[test])) - values[test]) / values[test]
    assert regression.error == pytest.approx(errors.mean())
    assert regression.worst == pytest.approx(errors.max())
    assert 0.8 < regression.rank_correlation <= 1
    assert values.min() <= regression.predict([100.0, -100.0, 0.0, 0.0]) <= values.max()


@pytest.mark.parametrize("model", ["ridge", "forest", "boosting"])
def test_what_was_measured_gives_the_same_predictions_again(clock, model):
    space, notices = ToySpace(), []
    first = predictor(notices, model=model)
    archs = [space.domain.sample(np.random.default_rng(number)) for number in range(5)]
    net = tiny_net()
    costs = [first.estimate(space, net, arch) for arch in archs]
    assert len(clock) == 60  # twenty sub-networks, three rounds
    assert (
        "predictor of latency: predicted from 20 measured sub-networks (made now); cross-validated error" in notices[0]
    )
    assert len(notices) == 1

    # From the cache, for another network of the same shape; without it, from the state that a run keeps.
    second = predictor(notices, model=model)
    assert [second.estimate(space, tiny_net(seed=4), arch) for arch in archs] == costs
    assert "(in the cache)" in notices[-1]
    third = predictor(model=model, remember=False)
    third.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [third.estimate(space, net, arch) for arch in archs] == costs
    assert len(clock) == 60
    assert predictor(remember=False).state_dict() == {}

    # Other options, another shape or a damaged file are measured again.
    predictor(of={"use": "latency", "repeats": 4}).estimate(space, net, archs[0])
    assert len(clock) == 120
    (key,) = first.state_dict()
    path_of(key).write_text("{")
    predictor().estimate(space, net, archs[0])
    assert len(clock) == 180


def test_a_cost_of_weights_is_measured_again_when_they_change(cache):
    space = ToySpace()
    options = {"of": "encoder_nonzeros", "samples": 12}
    for seed in (0, 1):
        predictor(**options).estimate(space, tiny_net(seed=seed), space.domain.smallest())
    assert len(list(cache.glob("predictor/*.json"))) == 2


def test_each_space_of_a_network_has_a_regression_of_its_own():
    net, wide, narrow = tiny_net(), ToySpace(), ToySpace()
    narrow.domain = Choices({"heads.0": [1, 2], "ffn.0": [8, 24], "ffn.1": [8, 48]})
    arch = narrow.domain.smallest()
    alone = predictor(of="params", samples=8, remember=False).estimate(narrow, net, arch)
    estimator = predictor(of="params", samples=8, remember=False)
    estimator.estimate(wide, net, wide.domain.largest())
    assert estimator.estimate(narrow, net, arch) == alone


def test_what_it_is_not_asked_for():
    space = ToySpace()
    estimator = predictor(of="macs", remember=False)
    net = tiny_net()
    assert estimator.estimate(None, net, None) is None
    assert estimator.estimate(space, tiny_net().to("meta"), None) is None
    assert estimator.estimate(space, tiny_net(layers=1), None) is None  # not this space's network
    largest = space.domain.largest()
    assert estimator.estimate(space, net, None) == estimator.estimate(space, net, largest)
    with pytest.raises(UsageError, match=r"the domain has only 3 architectures\. Expected 8 or more"):
        predictor(of="macs").estimate(_small(), net, largest)


def _small():
    space = ToySpace()
    space.domain = space.domain.restrict({f"{k}.{i}": [v] for k, v in (("heads", 1), ("ffn", 16)) for i in range(3)})
    return space


def test_search_report_resume_cache_and_deployment_have_the_same_numbers(tmp_path, clock, monkeypatch, cache):
    cost = "estimators={soon: {use: predictor, of: {use: latency, repeats: 3}, samples: 16}}"
    stages = (
        "stages=[{train: {save_as: supernet, sampler: random, max_steps: 2}}, {search: {trials: 8, sampler: random}}, "
        "{extract: {}}, {evaluate: {costs: [soon, params]}}]"
    )
    recipe = nf.load_recipe(RECIPE, [cost, stages, "budgets={soon: ['75%', '50%']}"])

    def costs_in(directory):
        store = RunStore(directory, shared=True)
        trials = {json.dumps(t.arch, sort_keys=True): t.costs["soon"] for t in store.trials("search") if t.costs}
        winners = store.stage_result("search")["winners"]
        models = {name: store.model(name)["costs"]["soon"] for name in winners}
        store.close()
        for name, winner in winners.items():
            assert models[name] == trials[json.dumps(winner["arch"], sort_keys=True)]
        return models

    shared = tmp_path / "stages"
    models = costs_in(nf.run(recipe, out=tmp_path / "first", cache=shared).directory)
    measured = len(clock)
    assert measured == 48
    assert "predictor of latency: predicted from 16" in (tmp_path / "first" / "report.md").read_text()
    for file in cache.glob("predictor/*"):
        file.unlink()
    # All but the last stage from the cache of stages: its estimator gets what the search's had learned.
    other = nf.load_recipe(RECIPE, [cost, stages.replace("[soon, params]", "[soon]"), "budgets={soon: ['75%', '50%']}"])
    monkeypatch.setattr("nasframe.running.runner.preflight", lambda inputs: None)
    assert costs_in(nf.run(other, out=tmp_path / "second", cache=shared).directory) == models
    assert len(clock) == measured
    monkeypatch.setattr(deployment, "Verifier", InProcess)
    found = deploy(tmp_path / "second", budgets=["soon=75%,50%"], out=tmp_path / "deployed", search=0)
    assert {model["name"]: model["costs"]["soon"] for model in found["models"]} == pytest.approx(models)
    assert len(clock) == measured
