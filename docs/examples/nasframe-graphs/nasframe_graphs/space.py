"""The space: which module of the super-network runs at which node."""

import copy

import torch
from nasframe_graphs.domain import OPS, Graphs
from nasframe_graphs.network import AllGraphs, OneGraph


class GraphSpace:
    """Choose a graph of operations between a network's stem and its head.

    Args:
        config: injected; the description of the network.
        most: operations of the largest graph.
    """

    def __init__(self, config, most: int = 5):
        self.channels = config.channels
        self.domain = Graphs(most)

    def supernet(self, net):
        """Return a network with every operation at every place, and the stem and head of ``net``."""
        supernet = AllGraphs(self.channels, self.domain.most, OPS)
        supernet.load_state_dict(net.state_dict(), strict=False)
        return supernet.to(next(net.parameters()).device).train(net.training)

    def view(self, net, arch):
        """Return the graph as a function on the super-network's own modules."""
        nodes = arch["nodes"]

        def forward(pixels):
            return net.logits(pixels, nodes, net.modules_of(nodes))

        return forward

    def extract(self, net, arch):
        """Return the graph as a network of its own, with copies of the modules that it uses."""
        nodes = copy.deepcopy(arch["nodes"])
        with torch.random.fork_rng(devices=[]):  # the weights that it is made with are replaced at once
            model = OneGraph(net.channels, [])
        model.load_state_dict({name: tensor for name, tensor in net.state_dict().items() if "places" not in name})
        model.nodes = nodes
        model.operations.extend(copy.deepcopy(net.modules_of(nodes)))
        return model.to(next(net.parameters()).device).train(net.training)
