"""Operation priority against the formula by hand, and generations of parents."""

import math

import numpy as np
import pytest

from nasframe.records import Trial
from nasframe.search.domain import Choices
from nasframe_autobert_zero.domain import ExpressionGraphs, operations_of
from nasframe_autobert_zero.op_priority import OpPriority
from nasframe_bench.listed import Listed

FIRST = "matmul(softmax(matmul(q, transpose(k))), v)"  # transpose, matmul, softmax, matmul
SECOND = "matmul(softmax(cosine(k, q)), v)"  # cosine, softmax, matmul
THIRD = "add(k, q)"


def domain(layers=1, **options):
    options = {"primitives": ["neg", "transpose", "softmax", "add", "matmul", "cosine", "scale"], **options}
    return ExpressionGraphs(layers, kernels=[3], ffn=[8], **options)


def arch(*mixes):
    return {"layers": [{"mix": mix, "ffn": 8} for mix in mixes]}


def sampler(**options):
    return OpPriority(domain(), seed=0, initial=2, **options)


def told(one):
    one.tell([Trial(arch(FIRST), 0.9), Trial(arch(SECOND), 0.5), Trial(arch(THIRD), 0.1)])
    return one


def test_the_priority_is_the_mean_and_a_bound():
    one = told(sampler(alpha=0.7))
    u = one.priorities("0.2", ["softmax", "matmul", "neg"])
    bound = 0.7 * math.sqrt(2 * math.log(3))  # of an operation that one of three architectures has
    # Node 2 is the softmax of the first and the product of the second; nobody tried a sign there.
    assert u == pytest.approx([0.9 + bound, 0.5 + bound, 0.5 + bound])
    twice = told(sampler(alpha=0.7))
    twice.tell([Trial(arch("matmul(softmax(matmul(k, transpose(q))), v)"), 0.3)])
    expected = (0.9 + 0.3) / 2 + 0.7 * math.sqrt(2 * math.log(4) / 2)
    assert twice.priorities("0.2", ["softmax"]) == pytest.approx([expected])


def test_standard_scores_weigh_as_much_as_the_bound():
    one = told(sampler(alpha=0.0, scores="standard"))
    deviation = np.std([0.9, 0.5, 0.1])
    assert one.priorities("0.2", ["softmax", "matmul", "neg"]) == pytest.approx([0.4 / deviation, 0, 0])
    same = sampler(scores="standard", alpha=0.0)
    same.tell([Trial(arch(FIRST), 0.5), Trial(arch(SECOND), 0.5)])
    assert same.priorities("0.2", ["softmax", "matmul"]) == pytest.approx([0, 0])


def test_operations_are_drawn_from_the_softmax_of_priorities():
    one = told(sampler(alpha=0.0, scores="standard"))
    candidates = ["softmax", "matmul", "neg"]
    weights = np.exp(one.priorities("0.2", candidates))
    draws = [one.choose("0.2", candidates) for _ in range(4000)]
    shares = [draws.count(name) / 4000 for name in candidates]
    assert shares == pytest.approx(list(weights / weights.sum()), abs=0.03)
    plain = told(sampler(priority=False, alpha=0.0, scores="standard"))
    draws = [plain.choose("0.2", candidates) for _ in range(3000)]
    assert [draws.count(name) / 3000 for name in candidates] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_parents_are_the_best_of_the_latest():
    one = sampler(parents=1, population=2)
    told(one)
    assert [member.score for member in one.best()] == [0.5]  # the first one is no longer in the population
    everlasting = told(sampler(parents=2, population=None))
    assert [member.score for member in everlasting.best()] == [0.9, 0.5]


def test_children_differ_from_a_parent_in_a_node_or_a_layer():
    graphs = domain(layers=3)
    one = OpPriority(graphs, seed=0, initial=1, parents=1, layers=0.0)
    parent = graphs.canonical(arch(FIRST, "conv3", SECOND))
    one.ask(1)
    one.tell([Trial(parent, 1.0)])
    for child in one.ask(20):
        different = [a != b for a, b in zip(child["layers"], parent["layers"], strict=True)]
        assert sum(different) == 1
        assert child["layers"][1] == parent["layers"][1]


def test_children_take_over_what_did_well():
    """If every architecture with a sign at a node scored well, changes of that node are nearly always a sign."""
    one = sampler(alpha=0.1, scores="standard")
    for mix, score in (("add(k, neg(q))", 1.0), ("add(k, softmax(q))", 0.0), ("add(k, scale(q))", 0.0)):
        one.tell([Trial(arch(mix), score)])
    draws = [one.choose("0.0", ["neg", "softmax", "scale"]) for _ in range(600)]
    expected = np.exp(one.priorities("0.0", ["neg", "softmax", "scale"]))
    assert draws.count("neg") / 600 == pytest.approx(expected[0] / expected.sum(), abs=0.06)
    assert draws.count("neg") > 400


def test_repeats_and_failures_change_no_record():
    one = told(sampler())
    before = dict(one.records)
    one.tell([Trial(arch(FIRST), 0.9, state="repeat"), Trial(arch("add(k, neg(q))"), None, state="failed")])
    assert one.records == before
    assert len(one.members) == 3


def test_knobs_are_places_too():
    """In a domain without formulas, mutants with values that did well are preferred."""
    choices = Choices({f"k{i}": list(range(8)) for i in range(4)})
    one = OpPriority(choices, seed=0, initial=30, parents=1, population=None, alpha=0.0, scores="standard")
    for _ in range(30):
        (proposal,) = one.ask(1)
        one.tell([Trial(proposal, float(proposal["k0"] == 7))])
    assert one.priorities("k0", ["7"]) > one.priorities("k0", ["3"])


def test_a_table_of_graphs_is_searched():
    graphs = domain(layers=2)
    rng = np.random.default_rng(0)
    archs = []
    while len(archs) < 40:
        drawn = graphs.sample(rng)
        if drawn not in archs:
            archs.append(drawn)
    table = Listed(archs, [graphs.features(one) for one in archs], crosses=True)
    one = OpPriority(table, seed=0, initial=5, parents=2)
    found = []
    for _ in range(25):
        (proposal,) = one.ask(1)
        assert proposal in archs
        found.append(proposal)
        one.tell([Trial(proposal, len(operations_of(proposal)) / 10)])
    assert len({str(proposal) for proposal in found}) == 25
