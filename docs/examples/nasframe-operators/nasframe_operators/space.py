"""The space: which operation each layer has."""

import torch
from nasframe.domain import Choices

from nasframe_operators.network import OPERATIONS, ChosenReader, SuperReader


class Operators:
    """Choose attention, a depthwise convolution, a perceptron or nothing in each layer.

    Args:
        config: injected; the description of the network.
        layers: how many layers there are to choose for.
    """

    def __init__(self, config, layers: int = 4):
        self.layers = layers
        self.domain = Choices({f"op.{layer}": list(OPERATIONS) for layer in range(layers)})

    def supernet(self, net):
        """Put every operation into every layer, between the ends of the network."""
        supernet = SuperReader(self.layers, **net.describe())
        supernet.load_state_dict(net.state_dict(), strict=False)
        return supernet.to(next(net.parameters()).device).train(net.training)

    def view(self, net, arch):
        """Return the sub-network as a function that shares the super-network's weights."""
        operations = self.operations(arch)
        return lambda rows: net.classify(rows, net.chosen(operations))

    def extract(self, net, arch):
        """Return the sub-network as a model of its own."""
        operations = self.operations(arch)
        device = next(net.parameters()).device
        with torch.random.fork_rng(devices=[]), torch.device(device):  # the drawn weights are replaced at once
            model = ChosenReader(operations, **net.sizes)
        ends = {name: value for name, value in net.state_dict().items() if not name.startswith("layers.")}
        model.load_state_dict(ends, strict=False)
        kept = [module for name, module in zip(operations, net.chosen(operations), strict=True) if name != "identity"]
        for own, shared in zip(model.layers, kept, strict=True):
            own.load_state_dict(shared.state_dict())
        return model.train(net.training)

    def operations(self, arch):
        """Return the name of each layer's operation."""
        return [arch[f"op.{layer}"] for layer in range(self.layers)]
