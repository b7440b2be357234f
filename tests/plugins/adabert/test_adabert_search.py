"""AdaBERT's search: the draw, its gradients, the losses and the derivation, against computations of their own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_adabert.costs import OperationCosts, operation_costs
from nasframe_adabert.derive import derived
from nasframe_adabert.differentiable import (
    Annealing,
    Differentiable,
    expected_cost,
    findings,
    gumbel,
    relaxed,
    straight_through,
)
from nasframe_adabert.examples import probed_net, space_and_net
from nasframe_adabert.network import EDGES, INPUTS, NODES, operation_names
from nasframe_adabert.probes import FitProbes, ProbeKD, confidences, probe_loss, probes_for
from nasframe_adabert.space import built
from nasframe_adabert.supernet import Sampled, depth_gradient

NAMES = operation_names()


def trained(*modifiers, **fields):
    """Train a small super-network for some steps."""
    space, net = space_and_net()
    models = {"teacher": tiny_net(seed=1), "probes": probed_net()}
    job = toy_job(**{"net": net, "space": space, "models": models, "modifiers": modifiers, "max_steps": 3, **fields})
    return job, registry.make("trainer", "loop").fit(job)


def differentiable(**options):
    said = []
    modifier = Differentiable(**{"prices": ["params"], "notify": lambda place, text: said.append(text), **options})
    modifier.said = said
    return modifier


# ---- the draw


def test_gumbel_noise_has_its_mean_and_variance():
    noise = gumbel((200_000,), torch.Generator().manual_seed(0))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_draws_have_the_probabilities_of_alpha():
    alpha = torch.tensor([0.3, -1.0, 1.2])
    noise = gumbel((100_000, 3), torch.Generator().manual_seed(1))
    shares = torch.stack([straight_through(alpha, row, 0.5) for row in noise[:4000]]).mean(0)
    torch.testing.assert_close(shares, alpha.softmax(0), rtol=0, atol=0.03)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_gradient_of_a_draw_is_that_of_the_relaxation(temperature):
    """By hand: ∂y_i/∂α_j = (y_i (δ_ij − y_j) − y_i Σ_k p-terms) / τ; log softmax cancels in the outer softmax."""
    alpha = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([0.1, 0.7, -0.4], dtype=torch.float64)
    y = relaxed(alpha, noise, temperature).detach()
    jacobian = torch.autograd.functional.jacobian(lambda a: straight_through(a, noise, temperature), alpha)
    torch.testing.assert_close(jacobian, (torch.diag(y) - torch.outer(y, y)) / temperature)
    drawn = straight_through(alpha, noise, temperature)
    torch.testing.assert_close(drawn, functional.one_hot(y.argmax(), 3).double())


def test_the_temperature_falls_in_stairs_to_its_last_value():
    annealing = Annealing(1.0, 0.2, decay=0.9, staircase=100)
    assert [annealing.temperature(step, 20_000) for step in (0, 99)] == [1.0, 1.0]
    assert annealing.temperature(100, 20_000) == pytest.approx(0.2 ** (100 / 18_000))
    assert annealing.temperature(17_999, 20_000) == pytest.approx(0.2 ** (17_900 / 18_000))
    assert annealing.temperature(18_000, 20_000) == annealing.temperature(19_999, 20_000) == 0.2


# ---- gradients of the super-network


INPUTS_OF_TEXTS = {**tiny_inputs(), "token_type_ids": torch.zeros(3, 7, dtype=torch.long)}


def whole_mixture(net, operations):
    """Return the logits at every depth with gradients through everything, one operation after the other."""
    first, second, mask = net.embedding(**INPUTS_OF_TEXTS)
    words = mask.sum(2)
    states = [((first + second) / 2 * mask).sum(2) / words]
    logits = [net.read(states)]
    for cell in net.cells:
        values = [first, second]
        for node in range(NODES):
            total = 0
            for source in range(INPUTS + node):
                row = EDGES.index((source, node))
                for index, name in enumerate(net.names):
                    total = total + operations[row, index] * cell.edges[row][name](values[source], mask)
            values.append(total)
        share = cell.weights.softmax(0)
        first, second = second, sum(share[node] * values[INPUTS + node] for node in range(NODES))
        states.append((second * mask).sum(2) / words)
        logits.append(net.read(states))
    return torch.stack(logits, 1)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_leaving_out_what_has_weight_0_changes_no_gradient(depth):
    """The quick forward pass against Σ ŷ_k CE_k with gradients through all operations and cells."""
    labels = torch.tensor([0, 1, 1])
    gradients = []
    for is_quick in (True, False):
        _, net = space_and_net()
        torch.manual_seed(0)
        with torch.no_grad():
            net.alpha.copy_(torch.randn(net.alpha.shape))
            net.mix.copy_(torch.randn(net.mix.shape))
        net.eval()  # without dropout, and with the same statistics
        net.training = True
        noise = gumbel(net.alpha.shape, torch.Generator().manual_seed(3))
        operations = straight_through(net.alpha, noise, 0.7)
        depth_noise = torch.zeros(3).index_fill(0, torch.tensor([depth]), 5.0)
        depths = straight_through(net.alpha_depth, depth_noise, 0.7)
        if is_quick:
            net.sampled = Sampled(operations, depths)
            outputs = net(**INPUTS_OF_TEXTS)
            losses = torch.stack([functional.cross_entropy(x, labels) for x in outputs.depth_logits.unbind(1)])
            loss = functional.cross_entropy(outputs.logits, labels) + depth_gradient(outputs.depth, losses)
        else:
            logits = whole_mixture(net, operations)
            losses = torch.stack([functional.cross_entropy(x, labels) for x in logits.unbind(1)])
            loss = (depths * losses).sum()
        loss.backward()
        found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        gradients.append((loss.detach(), found))
    (loss, quick), (other_loss, whole) = gradients
    torch.testing.assert_close(loss, other_loss)
    assert quick.keys() == whole.keys()
    assert "alpha_depth" in quick
    assert ("alpha" in quick) == (depth > 0)
    for name, gradient in whole.items():
        torch.testing.assert_close(quick[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_expected_cost_is_the_formula_and_reaches_both_alphas():
    torch.manual_seed(0)
    alpha = torch.randn(9, 10, requires_grad=True)
    alpha_depth = torch.randn(4, requires_grad=True)
    y = straight_through(alpha, torch.randn(9, 10), 0.5)
    depth = straight_through(alpha_depth, torch.randn(4), 0.5)
    charges = torch.rand(10)
    total = 0.0
    for edge, operation in itertools.product(range(9), range(10)):
        total += float(y[edge, operation].detach()) * float(charges[operation])
    cells = sum(k * float(depth[k].detach()) for k in range(4))
    cost = expected_cost(Sampled(y, depth), charges)
    assert float(cost.detach()) == pytest.approx(cells / 3 * total / 9, rel=1e-5)
    cost.backward()
    assert alpha_depth.grad.abs().sum() > 0
    assert alpha.grad.abs().sum() > 0 or cells == 0


class Watch(Modifier):
    """Records α's gradient before any update."""

    def on_gradients(self, step):
        net = step.job.net
        self.gradient = None if net.alpha.grad is None else net.alpha.grad.clone()
        self.sampled = net.sampled


def test_the_efficiency_loss_adds_its_gradient_to_that_of_the_task():
    gradients = {}
    for beta in (0.0, 2.0):
        modifier, watch = differentiable(efficiency=beta, warmup=0.9), Watch()
        trained(modifier, watch, max_steps=1)
        gradients[beta] = watch.gradient
    alpha = torch.zeros(9, 10, requires_grad=True)  # as it is at the start
    y = straight_through(alpha, modifier.noise.operations, 1.0)
    (2.0 * expected_cost(Sampled(y, watch.sampled.depth.detach()), modifier.charges)).backward()
    without = gradients[0.0] if gradients[0.0] is not None else 0
    torch.testing.assert_close(gradients[2.0] - without, alpha.grad, rtol=1e-4, atol=1e-6)


def test_costs_are_sums_over_operations_and_depth():
    space, net = space_and_net()
    job = toy_job(net=net, space=space)
    costs = operation_costs(job, "params", "test")
    rng = np.random.default_rng(5)
    for _ in range(5):
        arch = space.domain.sample(rng)
        cells, nodes = built(arch)
        edges = [name for node in nodes for _, name in node]
        expected = costs.fixed[cells] + cells * sum(costs.each[NAMES.index(name)] for name in edges)
        assert expected == pytest.approx(sum(p.numel() for p in space.extract(net, arch).parameters()))


class Uneven:
    unit = "ms"

    def estimate(self, space, net, arch=None):
        cells, nodes = built(arch)
        return float(cells**2 + sum(name != "zero" for node in nodes for _, name in node))


@pytest.mark.parametrize(
    ("costs", "text"),
    [
        (["uneven"], "'uneven' is no sum over operations times the number of cells"),
        (["parms"], "unknown cost 'parms'.*Did you mean 'params'"),
        (["macs"], "'macs' cannot be estimated for these networks. Expected another cost."),  # there is no batch
    ],
)
def test_costs_that_cannot_be_charged_are_refused(costs, text):
    with pytest.raises(UsageError, match=text):
        trained(differentiable(prices=costs), estimators={"uneven": Uneven()})


# ---- the derivation


def published_rule(alpha, alpha_depth, names, fewest):
    """The two edges of each node whose best operation is most probable, and the most probable depth."""
    exponentials = np.exp(alpha / 0.2)
    p = exponentials / exponentials.sum(1, keepdims=True)
    nodes = []
    for node in range(NODES):
        rows = [EDGES.index((source, node)) for source in range(INPUTS + node)]
        best = sorted(rows, key=lambda row: -p[row].max())[:2]
        nodes.append([[EDGES[row][0], names[p[row].argmax()]] for row in sorted(best)])
    return fewest + int(np.argmax(alpha_depth)), nodes


@given(seed=st.integers(0, 10**6), fewest=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_without_a_budget_it_is_the_published_rule(seed, fewest):
    rng = np.random.default_rng(seed)
    alpha, alpha_depth = rng.normal(size=(9, 10)), rng.normal(size=4)
    cells, nodes = published_rule(alpha, alpha_depth, NAMES, fewest)
    arch = derived(alpha, alpha_depth, NAMES, fewest)
    assert arch["cells"] == cells
    if cells:
        assert built(arch) == (cells, nodes)


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_within_a_budget_it_is_the_most_probable_of_all(seed, share):
    """By brute force over all architectures of three operations and three depths."""
    rng = np.random.default_rng(seed)
    names = ("zero", "conv3", "conv5")
    alpha, alpha_depth = rng.normal(size=(9, 3)), rng.normal(size=3)
    costs = OperationCosts(fixed=np.array([5.0, 6.0, 7.0]), each=np.array([0.0, 3.0, 5.0]))
    bound = 5.0 + share * 60
    log_p = np.log(np.exp(alpha / 0.2) / np.exp(alpha / 0.2).sum(1, keepdims=True))
    log_k = np.log(np.exp(alpha_depth / 0.2) / np.exp(alpha_depth / 0.2).sum())
    options = []
    for node in range(NODES):
        of_node = []
        for pair in itertools.combinations(range(INPUTS + node), 2):
            for chosen in itertools.product(range(3), repeat=2):
                rows = [EDGES.index((source, node)) for source in pair]
                score = sum(log_p[row, op] for row, op in zip(rows, chosen, strict=True))
                of_node.append((score, sum(costs.each[op] for op in chosen)))
        options.append(np.array(of_node))
    scores = options[0][:, None, None, 0] + options[1][None, :, None, 0] + options[2][None, None, :, 0]
    prices = options[0][:, None, None, 1] + options[1][None, :, None, 1] + options[2][None, None, :, 1]
    best = -np.inf
    for cells in range(3):
        fits = costs.fixed[cells] + cells * prices <= bound + 1e-9
        if fits.any():
            best = max(best, (scores + log_k[cells])[fits].max())
    arch = derived(alpha, alpha_depth, names, 0, costs=costs, bound=bound)
    cells, nodes = built(arch)
    if cells == 0:
        assert best == pytest.approx(scores.max() + log_k[0])
        return
    score, price = log_k[cells], 0.0
    for node, edges in enumerate(nodes):
        for source, name in edges:
            score += log_p[EDGES.index((source, node)), names.index(name)]
            price += costs.each[names.index(name)]
    assert costs.fixed[cells] + cells * price <= bound + 1e-9
    assert score == pytest.approx(best)


def test_a_budget_that_nothing_meets_has_no_architecture():
    costs = OperationCosts(fixed=np.array([5.0, 6.0]), each=np.zeros(10))
    assert derived(np.zeros((9, 10)), np.zeros(2), NAMES, 1, costs=costs, bound=4.0) is None


# ---- the stage


def test_alpha_learns_and_the_derived_network_is_within_its_target():
    modifier = differentiable(learning_rate=0.3, target="30%", bound="params")
    job, result = trained(modifier, ProbeKD(), max_steps=5)
    assert job.net.alpha.detach().abs().max() > 0.1
    cost = sum(p.numel() for p in job.space.extract(job.net, result.arch).parameters())
    assert cost <= 0.3 * sum(p.numel() for p in tiny_net().parameters())
    assert any(text.startswith("Derived") for text in modifier.said)


def test_alpha_waits_for_the_warmup():
    job, _ = trained(differentiable(learning_rate=0.3, warmup=0.9))
    assert not job.net.alpha.any()
    assert not job.net.alpha_depth.any()


def test_the_loops_optimiser_leaves_alpha_alone():
    """Adam's first step is as long as its rate, whatever the loop's rate is."""
    job, _ = trained(differentiable(learning_rate=1e-3, weight_decay=0), max_steps=1, learning_rate=0.5)
    moved = job.net.alpha_depth.detach().abs()
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-2)


def test_a_deep_penalty_leaves_no_cells_and_says_so():
    modifier = differentiable(efficiency=1000.0, learning_rate=1.0, max_grad_norm=0)
    _, result = trained(modifier, max_steps=20)
    assert result.arch == {"cells": 0}
    assert modifier.said[0] == "Derived 0 cells."
    assert "no cells" in modifier.said[1]


def test_a_collapse_is_reported():
    arch = {"cells": 5}
    for node in range(NODES):
        arch |= {f"sources.{node}": [0, 1], f"first.{node}": "avg_pool3", f"second.{node}": "avg_pool3"}
    assert findings(arch)[0] == "Derived 5 cells of avg_pool3 × 6."
    assert findings(arch)[1].startswith("The search has collapsed: all six edges are avg_pool3.")
    assert len(findings({**arch, "first.0": "conv3"})) == 1


@pytest.mark.parametrize(
    ("modifiers", "fields", "text"),
    [
        (lambda: [differentiable()], {"net": tiny_net()}, "trains BertForSequenceClassification. Expected the super"),
        (lambda: [ProbeKD(), differentiable()], {}, "Expected differentiable before probe_kd"),
        (lambda: [differentiable()], {"arch": {"cells": 0}}, "Expected neither 'sampler' nor 'arch'"),
        (lambda: [ProbeKD("teacher")], {}, "BertForSequenceClassification, without probes"),
        (lambda: [ProbeKD(layers="published")], {"max_steps": 1}, None),  # 3 layers for 2 cells will do
        (lambda: [FitProbes()], {}, "trains AdaBertSupernet. Expected the network that the transform attach_probes"),
        (lambda: [differentiable(target="1%", bound="params")], {}, "1% of 'teacher' are .* but the cheapest network"),
    ],
)
def test_stages_that_cannot_work_are_refused(modifiers, fields, text):
    if text is None:
        trained(*modifiers(), **fields)
        return
    with pytest.raises(UsageError, match=text):
        trained(*modifiers(), **fields)


# ---- probes


@pytest.mark.parametrize(
    ("cells", "layers", "rule", "expected"),
    [
        (8, 12, "published", list(range(9))),
        (7, 12, "published", list(range(8))),
        (3, 12, "published", [0, 3, 6, 9]),
        (4, 6, "spread", [0, 2, 3, 4, 6]),
        (0, 6, "spread", [0]),
    ],
)
def test_which_probes_teach(cells, layers, rule, expected):
    assert probes_for(cells, layers, rule) == expected


def test_probe_losses_are_the_formulas():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    labels = torch.tensor([0, 4, 2, -100])
    plain, weighted = 0.0, 0.0
    for row, label in enumerate(labels.tolist()):
        terms, weights = [], []
        for m in range(3):
            p = teacher[row, m].softmax(0)
            terms.append(-float((p * student[row, m].log_softmax(0)).sum()))
            weights.append(float(p[label]) if label >= 0 else 1.0)
        plain += np.mean(terms) / 4
        weighted += np.dot(weights, terms) / sum(weights) / 4
    assert float(probe_loss(student, teacher, labels, "plain")) == pytest.approx(plain, rel=1e-5)
    assert float(probe_loss(student, teacher, labels, "confidence")) == pytest.approx(weighted, rel=1e-5)
    assert float(probe_loss(student, teacher, labels, "plain", "numbers")) == pytest.approx(
        float((student - teacher).square().mean()), rel=1e-5
    )
    torch.testing.assert_close(confidences(teacher, labels).sum(1), torch.ones(4))


def test_the_probes_term_is_weighed_and_remembered():
    """Σ ŷ_k KD_k at the drawn depth; with teacher_cache: run every example is run once."""
    losses = []

    class Record(Modifier):
        def on_loss(self, step, loss):
            losses.append(float(loss.detach()))
            return loss

    before, after = Record(), Record()
    kd = ProbeKD(weight=0.25, average="plain")
    _, result = trained(differentiable(), before, kd, after, max_steps=16, teacher_cache="run")
    assert len(kd.remembered) == 64
    teacher = next(entry for entry in result.ledger if entry.role == "teacher")
    assert teacher.examples == 64
    assert teacher.forward_macs > 0
    assert losses[0] != losses[1]


def test_probes_learn_and_the_teacher_stays():
    net = probed_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    job = toy_job(net=net, modifiers=[FitProbes()], max_steps=8)
    result = registry.make("trainer", "loop").fit(job)
    for name, tensor in result.net.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("teacher."), name
    inputs = tiny_inputs()
    hidden = tiny_net(seed=1)(**inputs, output_hidden_states=True).hidden_states
    mask = inputs["attention_mask"][..., None]
    expected = [net.probes[0]((hidden[0] * mask).sum(1) / mask.sum(1))]
    expected += [probe(states[:, 0]) for probe, states in zip(net.probes[1:], hidden[1:], strict=True)]
    torch.testing.assert_close(net(**inputs).probe_logits, torch.stack(expected, 1))
    student = result.ledger[0]
    assert 0 <= student.backward_macs < student.forward_macs  # the frozen teacher has no backward pass


def test_scores_have_no_confidence():
    job = toy_job(
        net=space_and_net()[1], space=space_and_net()[0], models={"probes": probed_net()}, modifiers=[ProbeKD()]
    )
    job.task.labels = None
    with pytest.raises(UsageError, match=r"only classes of which one is true have a confidence\. Expected plain\."):
        registry.make("trainer", "loop").fit(job)
