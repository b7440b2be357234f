"""Domain, space and sampler keep the contracts of their kinds; equal graphs have one form."""

import numpy as np
from nasframe import registry
from nasframe.testing import DomainContract, SamplerContract
from nasframe_graphs.domain import Graphs
from nasframe_graphs.example import Space
from nasframe_graphs.sampler import Foresight
from nasframe_graphs.space import GraphSpace


class TestGraphs(DomainContract):
    def make(self):
        return Graphs()


class TestGraphSpace(Space):
    def make(self, config):
        return GraphSpace(config=config)


class TestForesight(SamplerContract):
    def make(self, domain, seed):
        return Foresight(domain, seed)

    def domains(self):
        return [Graphs(3), Graphs(5)]


def test_nodes_that_agree_are_one_and_their_order_does_not_matter():
    domain = Graphs()
    twins = {
        "nodes": [{"op": "conv3", "inputs": [0]}, {"op": "conv3", "inputs": [0]}, {"op": "max3", "inputs": [1, 2]}]
    }
    assert domain.canonical(twins) == {"nodes": [{"op": "conv3", "inputs": [0]}, {"op": "max3", "inputs": [1]}]}
    forward = {"nodes": [{"op": "max3", "inputs": [0]}, {"op": "conv1", "inputs": [0]}]}
    backward = {"nodes": forward["nodes"][::-1]}
    assert domain.canonical(forward) == domain.canonical(backward)


def test_every_operation_is_drawn():
    rng = np.random.default_rng(0)
    drawn = {node["op"] for _ in range(50) for node in Graphs().sample(rng)["nodes"]}
    assert drawn == {"conv1", "conv3", "depthwise3", "max3"}


def test_they_are_registered():
    assert registry.find("space", "graphs").package == "nasframe-graphs"
    assert registry.find("sampler", "foresight").package == "nasframe-graphs"
