"""Expected costs are the means of costs over a distribution, and modifiers reach the tables that they are made of."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.nn.expected import expected_cost
from nasframe.records import CostTable
from nasframe.search.costs import table_cost
from nasframe.search.domain import Choices
from nasframe.testing.toy import ToySpace, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_basics.estimators import macs, params


def mean_over_all(table, domain, probabilities):
    """Return the mean cost over all settings of the knobs, one by one."""
    cost = table_cost(table, domain.knobs)
    total = 0.0
    for values in itertools.product(*domain.knobs.values()):
        chance = 1.0
        for knob, value in zip(domain.knobs, values, strict=True):
            chance *= float(probabilities[knob][domain.knobs[knob].index(value)])
        total += chance * cost(domain.canonical(dict(zip(domain.knobs, values, strict=True))))
    return total


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20))
def test_it_is_the_mean_over_all_architectures(seed):
    rng = np.random.default_rng(seed)
    knobs = {"layers": [[0], [0, 1], [0, 1, 2]], "width.1": [1, 2], "width.2": [1, 2, 3], "free": ["a", "b"]}
    rules = {"width.1": ("layers", [[0, 1], [0, 1, 2]]), "width.2": ("layers", [[0, 1, 2]])}
    domain = Choices(knobs, rules)
    table = CostTable(float(rng.normal()), {knob: rng.normal(size=len(v)).tolist() for knob, v in knobs.items()})
    probabilities = {knob: torch.tensor(rng.dirichlet(np.ones(len(values)))) for knob, values in knobs.items()}
    expected = mean_over_all(table, domain, probabilities)
    assert float(expected_cost(table, domain, probabilities)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_certainty_costs_what_the_architecture_costs_and_gradients_flow():
    space, net = ToySpace(), tiny_net()
    job = toy_job(net=net, space=space, estimators={"params": params(), "macs": macs(length=8)})
    arch = space.domain.sample(np.random.default_rng(3))
    for cost in ("params", "macs"):
        logits = {}
        for knob, values in space.domain.knobs.items():
            chosen = list(values).index(arch.get(knob, values[0]))
            logits[knob] = torch.full((len(values),), -40.0, dtype=torch.float64)
            logits[knob][chosen] = 40.0
            logits[knob].requires_grad_(True)
        chances = {knob: logit.softmax(0) for knob, logit in logits.items()}
        value = expected_cost(job.table(cost), space.domain, chances)
        assert value.item() == pytest.approx(job.estimators[cost].estimate(space, net, arch))
    half = {k: torch.zeros(len(v), requires_grad=True) for k, v in space.domain.knobs.items()}
    expected_cost(job.table("macs"), space.domain, {k: v.softmax(0) for k, v in half.items()}).backward()
    for knob, logit in half.items():
        assert logit.grad[-1] > 0, f"the largest value of {knob} costs most"
        assert logit.grad[0] < 0


def test_what_has_no_table_is_refused():
    class Fixed:
        unit = "points"

        def estimate(self, space, net, arch):
            return 1.0

    space = ToySpace()
    job = toy_job(net=tiny_net(), space=space, estimators={"macs": macs(), "fixed": Fixed()})
    with pytest.raises(UsageError, match=r"has no cost 'mac'. There are: .*'estimators:'. Did you mean 'macs'"):
        job.table("mac")
    with pytest.raises(UsageError, match="'fixed' is no sum over the choices of ToySpace"):
        job.table("fixed")
    with pytest.raises(UsageError, match="has no space, so 'macs' has no table"):
        toy_job(net=tiny_net(), estimators={"macs": macs()}).table("macs")
    table = CostTable(0.0, {"a": [1.0, 2.0]})
    domain = Choices({"a": [1, 2]})
    with pytest.raises(UsageError, match="knob 'a' has no probabilities"):
        expected_cost(table, domain, {})
    with pytest.raises(UsageError, match=r"'a' have the shape \(3,\). Expected \(2,\)"):
        expected_cost(table, domain, {"a": torch.ones(3)})
