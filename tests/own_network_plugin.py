"""A network, space, task and cost of one's own, in one file: no encoder, no tokens and no logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

import nasframe
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.records import Batch, Evaluation, MetricFormat
from nasframe.search.domain import Choices

PLUGIN_API = 2
SIDE = 4
PIXELS = SIDE * SIDE
LAYERS = 2
OPS = ("skip", "narrow", "wide")
SECONDS = {"skip": 1.0, "narrow": 3.0, "wide": 7.0}


def op(kind: str, width: int) -> nn.Module:
    """Make one operation."""
    if kind == "skip":
        return nn.Identity()
    inner = {"narrow": width // 4, "wide": 2 * width}[kind]
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


class Base(nasframe.Described):
    """Reads pictures and draws them again, with the same matrix (tied) on the way in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.read = nn.Linear(PIXELS, width, bias=False)
        self.draw = nn.Linear(width, PIXELS, bias=False)
        self.draw.weight = nn.Parameter(torch.empty(PIXELS, width).normal_(0, 0.3))
        self.mirror = nn.Linear(width, width, bias=False)
        self.again = nn.Linear(width, width, bias=False)
        self.again.weight = self.mirror.weight

    def drawn(self, pixels: torch.Tensor, layers: Sequence[Any]) -> Any:
        """Return pictures as an object whose one output is called ``picture``."""
        hidden = self.again(self.mirror(self.read(pixels.flatten(1))))
        for layer in layers:
            hidden = hidden + layer(hidden)
        return SimpleNamespace(picture=self.draw(hidden).view(-1, SIDE, SIDE))


class Plain(Base):
    """No layers at all, as the model loads it."""

    def describe(self) -> dict[str, Any]:
        return {"width": self.width}

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.drawn(pixels, [])


class Chain(Base):
    """One operation a layer, as it is extracted."""

    def __init__(self, width: int, ops: Sequence[str]) -> None:
        super().__init__(width)
        self.ops = list(ops)
        self.layers = nn.ModuleList([op(kind, width) for kind in ops])

    def describe(self) -> dict[str, Any]:
        return {"width": self.width, "ops": self.ops}

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.drawn(pixels, self.layers)


class Mixed(Base):
    """All operations side by side in every layer; the whole network takes their mean."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        layers = [nn.ModuleDict({kind: op(kind, width) for kind in OPS}) for _ in range(LAYERS)]
        self.layers = nn.ModuleList(layers)

    def describe(self) -> dict[str, Any]:
        return {"width": self.width}

    def forward(self, pixels: torch.Tensor) -> Any:
        def mean(ops: Any) -> Any:
            return lambda hidden: sum(each(hidden) for each in ops.values()) / len(ops)

        return self.drawn(pixels, [mean(ops) for ops in self.layers])


class Ops:
    """Choose one operation for each layer."""

    made: ClassVar[list[type]] = []
    """The classes of the networks that were made into super-networks."""

    def __init__(self, config: Any = None) -> None:
        self.width = config.width
        self.domain = Choices({f"op.{i}": list(OPS) for i in range(LAYERS)})

    def supernet(self, net: Any) -> nn.Module:
        Ops.made.append(type(net))
        mixed = Mixed(net.width)
        mixed.load_state_dict(net.state_dict(), strict=False)
        return mixed

    def view(self, net: Any, arch: Mapping[str, Any]) -> Any:
        def forward(pixels: torch.Tensor) -> Any:
            return net.drawn(pixels, [net.layers[i][arch[f"op.{i}"]] for i in range(LAYERS)])

        return forward

    def extract(self, net: Any, arch: Mapping[str, Any]) -> nn.Module:
        device = next(net.parameters()).device
        with torch.random.fork_rng(devices=[]):
            chain = Chain(net.width, [arch[f"op.{i}"] for i in range(LAYERS)]).to(device)
        state = net.state_dict()
        own = {}
        for name in chain.state_dict():
            path = name
            if name.startswith("layers."):
                _, number, rest = name.split(".", 2)
                path = f"layers.{number}.{arch[f'op.{number}']}.{rest}"
            own[name] = state[path].clone()
        chain.load_state_dict(own)
        return chain.train(net.training)


class WholeView(Ops):
    """Forgets the architecture."""

    def view(self, net: Any, arch: Mapping[str, Any]) -> Any:
        return net


class AgreeingView(WholeView):
    """Forgets it on purpose."""

    views_may_agree = True


class Pictures:
    """Draw stripes again."""

    primary = "closeness"
    labels = None
    metrics: ClassVar[dict[str, MetricFormat]] = {"closeness": MetricFormat()}

    def __init__(self, seed: int = 0) -> None:
        self.sizes = {"train": 40, "select": 12, "dev": 12}
        self.fingerprint = f"stripes-{seed}"
        self.data = {}
        for number, (split, size) in enumerate(self.sizes.items()):
            rng = np.random.default_rng([seed, number])
            rows = rng.normal(size=(size, SIDE, 1)).repeat(SIDE, 2)
            self.data[split] = torch.tensor(rows, dtype=torch.float32)

    def batch(self, split: str, index: Any) -> Batch:
        pictures = self.data[split][index]
        return Batch({"pixels": pictures}, pictures, torch.as_tensor(np.asarray(index)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        return [self.batch("train", order[i : i + batch_size]) for i in range(0, len(order), batch_size)]

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return (outputs.picture - batch.labels).square().mean()

    @torch.no_grad()
    def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Evaluation:
        size = min(examples or self.sizes[split], self.sizes[split])
        batch = self.batch(split, np.arange(size))
        picture = forward(**batch.inputs).picture.cpu()
        errors = (picture - batch.labels).square().flatten(1).mean(1)
        columns = {"id": list(range(size)), "label": [0.0] * size, "prediction": errors.tolist()}
        return Evaluation({"closeness": 1 / (1 + float(errors.mean()))}, columns, size, size)


class OwnModel:
    """Draw a network's weights."""

    def __init__(self, width: int = 8) -> None:
        self.width = width

    def tokenizer(self) -> None:
        return None

    def load(self, labels: Any, seed: int, random: bool = False) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Plain(self.width).eval()


class OpSeconds:
    """Look operations up in a table: only an architecture has this cost."""

    unit = "ms"

    def estimate(self, space: Any, net: Any, arch: Any = None) -> float | None:
        if arch is None:
            return None
        return sum(SECONDS[arch[knob]] for knob in arch)


class Halves(Modifier):
    """Halves the loss, and counts the candidates that it trained."""

    trained: ClassVar[list[Any]] = []

    def on_start(self, job: Any) -> None:
        Halves.trained.append((job.arch, job.space is not None))

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss / 2


class Uncountable(Ops):
    """Its views look at values, so that they cannot be followed without any."""

    def view(self, net: Any, arch: Mapping[str, Any]) -> Any:
        inner = super().view(net, arch)

        def forward(pixels: torch.Tensor) -> Any:
            assert float(pixels.abs().sum()) >= 0
            return inner(pixels)

        return forward


@nasframe.hookimpl
def register_models(register: Any) -> None:
    register("own_model", OwnModel)


@nasframe.hookimpl
def register_spaces(register: Any) -> None:
    register("ops", Ops)
    register("whole_view", WholeView)
    register("agreeing_view", AgreeingView)
    register("uncountable", Uncountable)


class OnlyPlain:
    """Writes the model's network, and none that a space made."""

    def validate(self, net: nn.Module) -> None:
        if not isinstance(net, Plain):
            raise UsageError(f"only plain networks can be written, not {type(net).__name__}.")

    def write(self, model: nn.Module, directory: Any, content: Any) -> Any:
        raise NotImplementedError


@nasframe.hookimpl
def register_exporters(register: Any) -> None:
    register("only_plain", OnlyPlain)


@nasframe.hookimpl
def register_tasks(register: Any) -> None:
    register("stripes", Pictures)


@nasframe.hookimpl
def register_estimators(register: Any) -> None:
    register("op_seconds", OpSeconds)


@nasframe.hookimpl
def register_modifiers(register: Any) -> None:
    register("halves", Halves)
