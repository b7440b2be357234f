"""The networks: the stem alone, the super-network, and one graph. Exports carry this file, so it needs torch alone."""

from types import SimpleNamespace

import torch
from nasframe import Described
from torch import nn

CLASSES = 10


def operation(op, channels):
    """Make one operation on ``(batch, channels, height, width)``, which keeps the shape."""
    if op == "max3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    kernel = 1 if op == "conv1" else 3
    groups = channels if op == "depthwise3" else 1
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, channels), nn.ReLU())


class Stem(Described):
    """Reads pictures of digits, ``(batch, 8, 8)``, and classifies them by what a graph makes of the stem's output."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4 * channels, CLASSES)  # of the four quarters of a picture

    def describe(self):
        return {"channels": self.channels}

    def logits(self, pixels, nodes, operations):
        """Run a graph.

        Args:
            pixels: ``(batch, 8, 8)``.
            nodes: the nodes of an architecture.
            operations: the module of each node.
        """
        states = [self.stem(pixels[:, None])]
        read = set()
        for node, module in zip(nodes, operations, strict=True):
            read.update(node["inputs"])
            inputs = torch.stack([states[source] for source in node["inputs"]])
            states.append(module(inputs.mean(0)))
        ends = [state for number, state in enumerate(states) if number not in read]
        pooled = nn.functional.adaptive_avg_pool2d(torch.stack(ends).mean(0), 2).flatten(1)
        return SimpleNamespace(logits=self.head(pooled))

    def forward(self, pixels):
        return self.logits(pixels, [], [])


class AllGraphs(Stem):
    """Every operation at every place of a graph; as a whole it is the chain of 3x3 convolutions.

    Args:
        channels: of every operation.
        most: nodes of the largest graph.
        ops: the operations.
    """

    def __init__(self, channels, most, ops):
        super().__init__(channels)
        self.most = most
        self.ops = list(ops)
        places = [nn.ModuleDict({op: operation(op, channels) for op in ops}) for _ in range(most)]
        self.places = nn.ModuleList(places)

    def describe(self):
        return {"channels": self.channels, "most": self.most, "ops": self.ops}

    def modules_of(self, nodes):
        """Return the shared modules of a graph's nodes: one for each place and operation."""
        return [self.places[number][node["op"]] for number, node in enumerate(nodes)]

    def forward(self, pixels):
        chain = [{"op": "conv3", "inputs": [number]} for number in range(self.most)]
        return self.logits(pixels, chain, self.modules_of(chain))


class OneGraph(Stem):
    """The network of one graph.

    Args:
        channels: of every operation.
        nodes: the nodes of its architecture.
    """

    def __init__(self, channels, nodes):
        super().__init__(channels)
        self.nodes = nodes
        self.operations = nn.ModuleList([operation(node["op"], channels) for node in nodes])

    def describe(self):
        return {"channels": self.channels, "nodes": self.nodes}

    def forward(self, pixels):
        return self.logits(pixels, self.nodes, self.operations)
