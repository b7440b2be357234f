"""The networks: the ends alone, every operation in every layer, and one operation a layer.

Exports carry this file, so it needs nothing but torch and the class that nasframe replaces there.
"""

import torch
from nasframe import Described
from torch import nn
from torch.nn import functional


class Answer(dict):
    """What a network returns: a mapping whose entry `logits` is an attribute, too."""

    @property
    def logits(self) -> torch.Tensor:
        """The scores of the classes, `(batch, classes)`."""
        return self["logits"]


class Identity(nn.Module):
    """Add nothing to what passes by."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, hidden):
        """Return zeros in the shape of `hidden`, `(batch, length, width)`."""
        return torch.zeros_like(hidden)


class Convolution(nn.Module):
    """A depthwise convolution over three positions, then a map that mixes the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width)
        self.mix = nn.Linear(width, width)

    def forward(self, hidden):
        """Compute the change of `hidden`, `(batch, length, width)`."""
        channels_first = self.norm(hidden).transpose(1, 2)
        local = self.depthwise(channels_first).transpose(1, 2)
        return self.mix(functional.gelu(local))


class Attention(nn.Module):
    """Attention of all positions to all, with four heads."""

    heads = 4

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, hidden):
        """Compute the change of `hidden`, `(batch, length, width)`."""
        batch, length, width = hidden.shape
        projected = self.project(self.norm(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, width of a head)
        read = functional.scaled_dot_product_attention(query, key, value)
        return self.merge(read.transpose(1, 2).reshape(batch, length, width))


class Perceptron(nn.Module):
    """A perceptron at each position, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, hidden):
        """Compute the change of `hidden`, `(batch, length, width)`."""
        return self.narrow(functional.gelu(self.widen(self.norm(hidden))))


OPERATIONS = {"identity": Identity, "convolution": Convolution, "attention": Attention, "mlp": Perceptron}  # by cost


class Reader(Described):
    """Reads a sequence and classifies it, with no operation between its two ends.

    Args:
        width: of the hidden states; a multiple of four, the number of heads.
        length: positions in a sequence.
        features: numbers at each position.
        classes: how many there are.
    """

    def __init__(self, width: int = 32, length: int = 8, features: int = 8, classes: int = 10):
        super().__init__()
        self.sizes = {"width": width, "length": length, "features": features, "classes": classes}
        self.read = nn.Linear(features, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def describe(self):
        """Return the constructor's arguments."""
        return dict(self.sizes)

    def classify(self, rows, operations):
        """Apply operations one after the other, and classify the mean over the positions.

        Args:
            rows: `(batch, length, features)`.
            operations: modules that compute the change of the hidden states.
        """
        hidden = self.read(rows) + self.places
        for operation in operations:
            hidden = hidden + operation(hidden)
        return Answer(logits=self.head(self.norm(hidden).mean(1)))

    def forward(self, rows):
        """Classify sequences, `(batch, length, features)`."""
        return self.classify(rows, [])


class SuperReader(Reader):
    """Every operation in every layer.

    Args:
        layers: how many there are.
        **sizes: those of the reader.
    """

    def __init__(self, layers: int, **sizes: int):
        super().__init__(**sizes)
        width = self.sizes["width"]
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: make(width) for name, make in OPERATIONS.items()}) for _ in range(layers)
        )

    def describe(self):
        """Return the constructor's arguments."""
        return {"layers": len(self.layers), **self.sizes}

    def chosen(self, operations):
        """Return the modules with these names, one for each layer."""
        return [layer[name] for layer, name in zip(self.layers, operations, strict=True)]

    def forward(self, rows):
        """Classify sequences by the dearest operations."""
        return self.classify(rows, self.chosen(["mlp"] * len(self.layers)))


class ChosenReader(Reader):
    """One operation in each layer; layers without one are left out.

    Args:
        operations: the name of each layer's operation.
        **sizes: those of the reader.
    """

    def __init__(self, operations: list[str], **sizes: int):
        super().__init__(**sizes)
        self.operations = list(operations)
        kept = [name for name in operations if name != "identity"]
        self.layers = nn.ModuleList(OPERATIONS[name](self.sizes["width"]) for name in kept)

    def describe(self):
        """Return the constructor's arguments."""
        return {"operations": self.operations, **self.sizes}

    def forward(self, rows):
        """Classify sequences, `(batch, length, features)`."""
        return self.classify(rows, self.layers)
