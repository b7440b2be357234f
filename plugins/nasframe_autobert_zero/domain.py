"""The domain of AutoBERT-Zero: for each layer a formula or a convolution, and how many neurons follow.

An architecture is ``{"layers": [{"mix": "conv7", "ffn": 1536}, {"mix": "matmul(…)", "ffn": 1536}, …]}``. A layer that
is left out is ``null``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.records import Arch, Drawing
from nasframe_autobert_zero.expression import (
    ARITY,
    BINARY,
    INPUTS,
    STANDARD,
    UNARY,
    Expression,
    leaves_of,
    parse,
    text_of,
)
from nasframe_autobert_zero.expression import nodes_of as graph_of
from nasframe_autobert_zero.formulas import KEEPS_ZEROS, FormulaError, checked
from nasframe_autobert_zero.guard import numerical_fault

Choose: TypeAlias = Callable[[str, Sequence[str]], str]
"""Chooses one of some operations for a node at a place such as ``2.0``: layer 2, node 0."""
Layer: TypeAlias = Mapping[str, Any] | None

KERNELS = (3, 5, 7, 9, 15, 31, 65)
PRIMITIVES = ("neg", "transpose", "scale", "softmax", "logsigmoid", "softsign", "add", "matmul")
"""What the paper's figure shows, but for its ambiguous ``sqrt``, see :mod:`nasframe_autobert_zero.published`."""
NEEDED = ("transpose", "softmax", "matmul")
"""Operations without which no formula could mix words."""
MOST = 12
TRIES = 200
"""Changes that are tried until one is valid."""
DRAFTS = 5000
"""Formulas that are drawn until one is valid."""
ANY = "any"
"""Stands for an input that is still to be drawn."""
NUMBERS = {"not finite": "values that are not finite", "vanishing": "gradients that vanish"}


class ExpressionGraphs:
    """All networks whose layers mix words by a valid formula or by a convolution.

    Args:
        layers: number of layers.
        kernels: words under the kernels of convolutions.
        primitives: operations that formulas may have.
        most: operations that the graph of a formula may have.
        ffn: numbers of neurons, ascending; the last is the network's own.
        skip: whether layers may be left out.
        report: called with the number of rejected formulas by reason, after 1,000 of them, 10,000, and so on.
    """

    def __init__(
        self,
        layers: int,
        kernels: Sequence[int] = KERNELS,
        primitives: Sequence[str] = PRIMITIVES,
        most: int = MOST,
        ffn: Sequence[int] = (0,),
        skip: bool = False,
        report: Callable[[Mapping[str, int]], None] = lambda rejected: None,
    ) -> None:
        self.layers = layers
        self.kernels = sorted(set(kernels))
        self.primitives = tuple(dict.fromkeys(primitives))
        self.most = most
        self.ffn = sorted(set(ffn))
        self.skip = skip
        self.report = report
        self.rejected: Counter[str] = Counter()
        self._next_report = 1000

    # ---- the whole of a domain

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw each layer: whether it is there, attention or convolution, and its size.

        How likely layers are kept is drawn first, so that small networks are drawn as often as large ones.
        """
        kept = rng.random() if self.skip else 1.0
        layers: list[Layer] = [self._there(rng) if rng.random() < kept else None for _ in range(self.layers)]
        if not any(layers):
            layers[int(rng.integers(self.layers))] = self._there(rng)
        return {"layers": layers}

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Change one layer: a node of its formula, or what it is."""
        if rng.random() < 0.5:
            return self.mutate_formula(arch, rng, _uniformly(rng))
        return self.mutate_layers(arch, rng)

    def contains(self, arch: Arch) -> bool:
        """Tell whether each layer is left out, a convolution or a valid formula, and has a size of the domain."""
        if not isinstance(arch, Mapping) or set(arch) != {"layers"}:
            return False
        layers = arch["layers"]
        if not isinstance(layers, list | tuple) or len(layers) != self.layers:
            return False
        if not any(layer is not None for layer in layers):
            return False
        return all(self._has_layer(layer) for layer in layers)

    def canonical(self, arch: Arch) -> Arch:
        """Return the architecture with each formula in the form that equal formulas share.

        Raises:
            UsageError: a layer is no part of the domain.
        """
        layers: list[Layer] = []
        for number, layer in enumerate(arch["layers"]):
            if layer is None:
                layers.append(None)
                continue
            mix = layer["mix"]
            if not self.is_kernel(mix):
                try:
                    mix = checked(mix, self.most)
                except FormulaError as error:
                    raise UsageError(f"layers.{number}.mix: {error}") from None
            layers.append({"mix": mix, "ffn": layer["ffn"]})
        return {"layers": layers}

    def _has_layer(self, layer: Any) -> bool:
        if layer is None:
            return self.skip
        if not isinstance(layer, Mapping) or set(layer) != {"mix", "ffn"}:
            return False
        if isinstance(layer["ffn"], bool) or not isinstance(layer["ffn"], int) or layer["ffn"] not in self.ffn:
            return False
        if not isinstance(layer["mix"], str):
            return False
        return self.is_kernel(layer["mix"]) or not self.fault(layer["mix"])

    def is_kernel(self, mix: str) -> bool:
        """Tell whether a layer's mix is one of the domain's convolutions."""
        return mix in self.convolutions

    @property
    def convolutions(self) -> list[str]:
        """The convolutions, as layers name them."""
        return [f"conv{kernel}" for kernel in self.kernels]

    def fault(self, formula: str) -> str:
        """Return a word for what makes a formula invalid, an empty text if it is valid."""
        try:
            self.valid(formula)
        except FormulaError as error:
            return error.reason
        return ""

    def valid(self, formula: str) -> str:
        """Return the canonical form of a formula of the domain.

        Raises:
            FormulaError: it is no part of the domain, or its numbers are no use.
        """
        text = checked(formula, self.most)
        unknown = {node[0] for node in graph_of(parse(text))} - set(self.primitives)
        if unknown:
            raise FormulaError(
                "primitives",
                f"{formula!r}: {listing(sorted(unknown))} is not among the space's primitives. Expected formulas of "
                f"{listing(self.primitives)}.",
            )
        fault = numerical_fault(text)
        if fault:
            raise FormulaError(fault, f"{formula!r}: has {NUMBERS[fault]} on random numbers. Expected another formula.")
        return text

    def explain(self, mix: str) -> None:
        """Raise UsageError for a mix that is no part of the domain; says why."""
        if self.is_kernel(mix):
            return
        if mix.startswith("conv"):
            raise UsageError(
                f"{mix!r}: no such convolution. Expected one of {listing(self.convolutions)}."
                f"{suggestion(mix, self.convolutions)}"
            )
        self.valid(mix)

    # ---- what a domain may say besides

    def smallest(self) -> Arch:
        """Return the architecture with the smallest kernels and FFNs, and the fewest layers."""
        layer = {"mix": self.convolutions[0], "ffn": self.ffn[0]}
        if self.skip:
            return {"layers": [layer, *[None] * (self.layers - 1)]}
        return {"layers": [dict(layer) for _ in range(self.layers)]}

    def largest(self) -> Arch:
        """Return the network as it was, with the standard attention in all layers: percentages refer to it."""
        text = checked(STANDARD, max(self.most, 6))
        return {"layers": [{"mix": text, "ffn": self.ffn[-1]} for _ in range(self.layers)]}

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Take each layer from one of two architectures."""
        layers = []
        for pair in zip(a["layers"], b["layers"], strict=True):
            layer = pair[int(rng.integers(2))]
            layers.append(None if layer is None else dict(layer))
        if not any(layers):
            return self.canonical(a)
        return self.canonical({"layers": layers})

    def features(self, arch: Arch) -> list[float]:
        """Return for each layer whether it is there, its kernel, nodes and neurons, and how often each operation is.

        All are numbers from 0 to about 1.
        """
        numbers: list[float] = []
        counts: Counter[str] = Counter()
        for layer in arch["layers"]:
            if layer is None:
                numbers += [0, 0, 0, 0]
                continue
            is_kernel = self.is_kernel(layer["mix"])
            nodes = [] if is_kernel else graph_of(parse(layer["mix"]))
            counts.update(node[0] for node in nodes)
            kernel = int(layer["mix"].removeprefix("conv")) / self.kernels[-1] if is_kernel else 0
            numbers += [1, kernel, len(nodes) / self.most, layer["ffn"] / max(self.ffn[-1], 1)]
        return [*numbers, *(counts[name] / (self.layers * self.most) for name in ARITY)]

    def drawing(self, arch: Arch) -> Drawing:
        """Return the layers one after the other, each with the graph of its formula."""
        labels = {"in": "embeddings"}
        edges: list[tuple[str, str]] = []
        before = "in"
        for number, layer in enumerate(arch["layers"]):
            if layer is None:
                continue
            after = f"{number}"
            labels[after] = f"FFN {layer['ffn']:,}"
            if self.is_kernel(layer["mix"]):
                convolution = f"{number}.conv"
                labels[convolution] = f"convolution {layer['mix'].removeprefix('conv')}"
                edges += [(before, convolution), (convolution, after)]
            else:
                result = _draw_formula(parse(layer["mix"]), f"{number}", before, labels, edges)
                edges.append((result, after))
            before = after
        labels["out"] = "head"
        edges.append((before, "out"))
        return Drawing(labels, edges)

    # ---- what the sampler op_priority works with

    def mutate_formula(self, arch: Arch, rng: np.random.Generator, choose: Choose) -> Arch:
        """Change one node of one formula: add it, remove it, change its operation or what it reads.

        Args:
            arch: a member of the domain.
            rng: draws everything but operations.
            choose: chooses operations.

        Returns:
            A neighbour; one with another layer if there is no formula, or no change of it is valid.
        """
        before = self.canonical(arch)
        numbers = []
        for number, layer in enumerate(before["layers"]):
            if layer is not None and not self.is_kernel(layer["mix"]):
                numbers.append(number)
        if not numbers:
            return self.mutate_layers(before, rng)
        number = numbers[int(rng.integers(len(numbers)))]
        layer = before["layers"][number]
        formula = self.changed(layer["mix"], number, rng, choose)
        if formula is None:
            return self.mutate_layers(before, rng)
        return _with_layer(before, number, {**layer, "mix": formula})

    def mutate_layers(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Change what one layer is: attention or convolution, its kernel, its neurons, whether it is there."""
        before = self.canonical(arch)
        for _ in range(TRIES):
            number = int(rng.integers(self.layers))
            layer = before["layers"][number]
            others = [other for place, other in enumerate(before["layers"]) if place != number]
            new = self._other_layer(layer, others, rng)
            is_last_one = new is None and not any(other is not None for other in others)
            if new != layer and not is_last_one:
                return _with_layer(before, number, new)
        return before

    def _other_layer(self, layer: Layer, others: Sequence[Layer], rng: np.random.Generator) -> Layer:
        """Return what may stand in the place of a layer."""
        if layer is None:
            return self._there(rng)
        ways = ["kind"]
        is_kernel = self.is_kernel(layer["mix"])
        if is_kernel and len(self.kernels) > 1:
            ways.append("kernel")
        if len(self.ffn) > 1:
            ways.append("ffn")
        if self.skip:
            ways.append("skip")
        way = _drawn(ways, rng)
        if way == "skip":
            return None
        if way == "ffn":
            return {**layer, "ffn": _drawn(self.ffn, rng)}
        if way == "kernel" or not is_kernel:
            return {**layer, "mix": _drawn(self.convolutions, rng)}
        # A convolution becomes attention: as in another layer, or by a new formula.
        formulas = [other["mix"] for other in others if other is not None and not self.is_kernel(other["mix"])]
        if formulas and rng.random() < 0.5:
            return {**layer, "mix": _drawn(formulas, rng)}
        return {**layer, "mix": self.formula(rng)}

    def changed(self, text: str, layer: int, rng: np.random.Generator, choose: Choose) -> str | None:
        """Return a formula with one node added, removed or changed; ``None`` if no valid change was found.

        Invalid ones are cheap, and counted in :attr:`rejected`.
        """
        expression = parse(text)
        changes = (self._with_other_operation, self._with_node, self._without_node, self._with_connection)
        for _ in range(TRIES):
            change = changes[int(rng.integers(len(changes)))]
            draft = change(expression, layer, rng, choose)
            if draft is None:
                continue
            formula = self.accepted(text_of(draft))
            if formula is not None and formula != text:
                return formula
        return None

    def accepted(self, draft: str) -> str | None:
        """Return the canonical form of a formula; ``None`` if it is invalid, which is then counted."""
        try:
            return self.valid(draft)
        except FormulaError as error:
            self.rejected[error.reason] += 1
        if self.rejected.total() >= self._next_report:
            self._next_report *= 10
            self.report(dict(self.rejected))
        return None

    def _with_other_operation(
        self, expression: Expression, layer: int, rng: np.random.Generator, choose: Choose
    ) -> Expression | None:
        position, node = _drawn(list(enumerate(graph_of(expression))), rng)
        same = UNARY if ARITY[node[0]] == 1 else BINARY
        candidates = [name for name in self.primitives if name in same and name != node[0]]
        if not candidates:
            return None
        operation = choose(f"{layer}.{position}", candidates)
        return _replaced(expression, node, (operation, *node[1:]))

    def _with_node(
        self, expression: Expression, layer: int, rng: np.random.Generator, choose: Choose
    ) -> Expression | None:
        sources = [*INPUTS, *graph_of(expression)]
        read = [source for source in sources if source == expression or source in _arguments(expression)]
        source = _drawn(read, rng)
        position = graph_of(expression).index(source) + 1 if source in graph_of(expression) else 0
        operation = choose(f"{layer}.{position}", list(self.primitives))
        if ARITY[operation] == 1:
            return _replaced(expression, source, (operation, source))
        pair = [source, _drawn(sources, rng)]
        if rng.random() < 0.5:
            pair.reverse()
        return _replaced(expression, source, (operation, *pair))

    def _without_node(
        self, expression: Expression, layer: int, rng: np.random.Generator, choose: Choose
    ) -> Expression | None:
        node = _drawn(graph_of(expression), rng)
        return _replaced(expression, node, _drawn(node[1:], rng))

    def _with_connection(
        self, expression: Expression, layer: int, rng: np.random.Generator, choose: Choose
    ) -> Expression | None:
        node = _drawn(graph_of(expression), rng)
        slot = int(rng.integers(1, len(node)))
        sources = [source for source in (*INPUTS, *graph_of(expression)) if source != node[slot]]
        new = [*node]
        new[slot] = _drawn(sources, rng)
        return _replaced(expression, node, tuple(new))

    # ---- drawing layers and formulas

    def _there(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a layer that is there: attention or convolution, with equal chances."""
        mix = self.formula(rng) if rng.random() < 0.5 else _drawn(self.convolutions, rng)
        return {"mix": mix, "ffn": _drawn(self.ffn, rng)}

    def formula(self, rng: np.random.Generator) -> str:
        """Draw a valid formula; invalid ones are counted in :attr:`rejected`."""
        for _ in range(DRAFTS):
            depth = int(rng.integers(2, 6))
            draft = _with_inputs(self._grown("[S,d]", depth, rng), rng)
            text = None if draft is None else self.accepted(text_of(draft))
            if text is not None:
                return text
        raise UsageError(
            f"none of {DRAFTS:,} formulas drawn from {listing(self.primitives)} was valid with at most {self.most} "
            "operations. Expected more of them."
        )

    def _grown(self, kind: str, depth: int, rng: np.random.Generator) -> Expression:
        """Draw an expression of a shape, from the outside to the inputs, which are all :data:`ANY` as yet.

        Args:
            kind: ``[S,d]``, ``[d,S]`` or ``[S,S]``, with ``*`` for matrices with normalised columns.
            depth: operations inside each other after which the shortest way to the inputs is taken.
            rng: draws.
        """
        if kind == "[S,d]" and (depth <= 0 or rng.random() < 0.25):
            return ANY
        productions = list(self._productions(kind))
        operation, kinds = productions[0] if depth <= 0 else _drawn(productions, rng)
        return (operation, *[self._grown(inner, depth - 1, rng) for inner in kinds])

    def _productions(self, kind: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the ways to make a matrix of a shape, the shortest first: an operation and its arguments' shapes."""
        for operation, kinds in PRODUCTIONS[kind]:
            if operation in self.primitives:
                yield operation, kinds


def _productions() -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Return for each shape the operations that make it, with the shapes of their arguments; the shortest way first."""
    elementwise = [name for name in UNARY if name not in ("transpose", "softmax")]
    table: dict[str, list[tuple[str, tuple[str, ...]]]] = {
        "[S,d]": [("matmul", ("[S,S]*", "[S,d]")), ("transpose", ("[d,S]",)), ("softmax", ("[S,d]",))],
        "[d,S]": [("transpose", ("[S,d]",)), ("softmax", ("[d,S]",)), ("matmul", ("[d,S]*", "[S,S]"))],
        "[S,S]": [
            ("matmul", ("[S,d]", "[d,S]")),
            ("cosine", ("[S,d]", "[S,d]")),
            ("euclidean", ("[S,d]", "[S,d]")),
            ("transpose", ("[S,S]",)),
            ("softmax", ("[S,S]",)),
            ("matmul", ("[S,S]*", "[S,S]")),
        ],
        "[S,S]*": [("softmax", ("[S,S]",)), ("matmul", ("[S,S]*", "[S,S]*"))],
        "[d,S]*": [("softmax", ("[d,S]",)), ("matmul", ("[d,S]*", "[S,S]*"))],
    }
    for kind, ways in table.items():
        keeps = kind.endswith("*")
        ways += [(name, (kind,)) for name in elementwise if not keeps or name in KEEPS_ZEROS]
        ways.append(("add", (kind, kind)))
    return table


PRODUCTIONS = _productions()


# ---- operations


def operations_of(arch: Arch) -> dict[str, str]:
    """Return the operation at each place of an architecture, of this domain or of another one.

    In this domain ``2.0`` is node 0 of layer 2, and convolutions have no places. In others a place is a knob, and its
    operation the value as text.

    >>> operations_of({"layers": [{"mix": "conv3", "ffn": 8}, {"mix": "add(q, neg(k))", "ffn": 8}]})
    {'1.0': 'neg', '1.1': 'add'}
    >>> operations_of({"heads": 4, "layers": [0, 1]})
    {'heads': '4', 'layers': '[0, 1]'}
    """
    layers = arch.get("layers")
    has_mixes = isinstance(layers, list) and all(layer is None or _is_layer(layer) for layer in layers)
    if not has_mixes:
        return {name: str(value) for name, value in arch.items()}
    found = {}
    for number, layer in enumerate(arch["layers"]):
        if layer is None or layer["mix"].startswith("conv"):
            continue
        for position, node in enumerate(graph_of(parse(layer["mix"]))):
            found[f"{number}.{position}"] = node[0]
    return found


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, Mapping) and isinstance(layer.get("mix"), str)


# ---- helpers


def _uniformly(rng: np.random.Generator) -> Choose:
    """Return a function that chooses operations with equal chances."""

    def choose(place: str, candidates: Sequence[str]) -> str:
        return str(_drawn(candidates, rng))

    return choose


def _drawn(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _with_layer(arch: Arch, number: int, layer: Layer) -> Arch:
    """Return an architecture with another layer."""
    layers = [None if other is None else dict(other) for other in arch["layers"]]
    layers[number] = None if layer is None else dict(layer)
    return {"layers": layers}


def _with_inputs(expression: Expression, rng: np.random.Generator) -> Expression | None:
    """Draw the inputs of an expression, q and k among them; ``None`` if it has only one."""
    count = len(list(leaves_of(expression)))
    if count < 2:
        return None
    names: list[str] = []
    while not {"q", "k"} <= set(names):
        names = [_drawn(INPUTS, rng) for _ in range(count)]
    return _filled(expression, iter(names))


def _filled(expression: Expression, names: Iterator[str]) -> Expression:
    """Return an expression with inputs in the places of :data:`ANY`, from left to right."""
    if isinstance(expression, str):
        return next(names)
    return (expression[0], *[_filled(argument, names) for argument in expression[1:]])


def _arguments(expression: Expression) -> set[Expression]:
    """Return everything that a node of a formula reads."""
    return {argument for node in graph_of(expression) for argument in node[1:]}


def _replaced(expression: Expression, old: Expression, new: Expression) -> Expression:
    """Return a formula with another node in the place of one, wherever that one is read."""
    if expression == old:
        return new
    if isinstance(expression, str):
        return expression
    return (expression[0], *[_replaced(argument, old, new) for argument in expression[1:]])


def _draw_formula(
    expression: Expression, layer: str, before: str, labels: dict[str, str], edges: list[tuple[str, str]]
) -> str:
    """Add the graph of a formula to a drawing; return the box of its result.

    Args:
        expression: the formula.
        layer: its number.
        before: the box of the layer's input.
        labels: box → text.
        edges: pairs of boxes.
    """
    boxes: dict[Expression, str] = {}

    def box(source: Expression) -> str:
        if isinstance(source, str) and source not in boxes:
            boxes[source] = f"{layer}.{source}"
            labels[boxes[source]] = source.upper()
            edges.append((before, boxes[source]))
        return boxes[source]

    for position, node in enumerate(graph_of(expression)):
        boxes[node] = f"{layer}.{position}"
        labels[boxes[node]] = node[0]
        for argument in dict.fromkeys(node[1:]):
            edges.append((box(argument), boxes[node]))
    return box(expression)
