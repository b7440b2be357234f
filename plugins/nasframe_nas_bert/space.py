"""Space ``operator_chains``: each block of a teacher may be replaced by a chain of operations of some width.

NAS-BERT (Xu et al. 2021, arXiv 2105.14444) chooses among attention, feed-forward and separable convolutions at several
widths. Puzzle (Bercovich et al. 2024, arXiv 2411.19146) chooses, for the attention and the feed-forward maps of each
layer, how much is left of them. Both are this space with other options.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nasframe.errors import UsageError, listing
from nasframe.interfaces import Piece
from nasframe.records import Arch, CostTable, Count, Forward, PairCosts, Percent, Positive, Size
from nasframe.search.domain import Choices
from nasframe.units import share
from nasframe_nas_bert.chains import MOST, Chain, Shape, read, words_of
from nasframe_nas_bert.networks import (
    NOTHING,
    ChainLibrary,
    HeadAlone,
    OperatorChain,
    operation,
)
from nasframe_nas_bert.teachers import (
    copy_embeddings,
    copy_head,
    copy_layers,
    head_of,
    heads_of,
    layers_of,
    layout_of,
    neurons_of,
    require_gelu,
    width_of,
)
from nasframe_nas_bert.teachers import words_of as words_of_config

if TYPE_CHECKING:
    import torch
    from torch import nn

EMBEDDING = "embedding"
"""The knob of the embedding's size."""
OPERATIONS = ("mha", "ffn", "conv3", "conv5", "conv7")


class OperatorChains:
    """Replace each block of a network's layers by a chain of operations.

    The super-network is a library: for each block all operations at each width, and linear maps from the network's
    width and back, which the trainer ``blockwise`` teaches to stand in for the block. The network itself must have
    learned before, since it is the teacher.

    An architecture names the size of the embedding and, for each block, a width and operations, as in
    ``{embedding: 128, block.0: "256: mha ffn conv3", …}``.

    Args:
        blocks: number of blocks, each of which stands for as many of the network's layers; default: one for each layer.
            Published: 4 blocks of 12 layers.
        length: the most operations of a block; default: two for each layer that it stands for, which has two
            sub-layers itself.
        widths: widths of blocks, in numbers or as shares of the network's width, rounded to whole heads; published:
            128 to 512 at a width of 768.
        embeddings: sizes of the embedding, likewise.
        operations: what each position may be. ``mha``: attention with as many heads as fit the width; ``ffn``: two maps
            with a multiple of the width between them; ``conv3``: separable convolution over three tokens (or any odd
            number); ``linear``. ``mha/2`` has half of the heads, ``ffn/4`` a quarter of the neurons.
        pattern: in place of ``operations``, a list of operations for each sub-layer of a layer, first that of
            attention, then that of the feed-forward maps; ``-`` leaves it out. A block repeats it for each layer.
        start: ``new`` draws all operations; ``teacher`` begins those of the network's own width with the layers that
            they stand for.
        head_size: numbers of an attention head; default: as in the network.
        expansion: neurons of ``ffn`` for each number of the width; default: as in the network, of which BERT has 4.
        config: injected; the network's sizes.

    Raises:
        UsageError: sizes that do not fit together, or a network of a kind that chains cannot be made of.
    """

    def __init__(
        self,
        blocks: Count | None = None,
        length: Count | None = None,
        widths: list[Size | Percent] | None = None,
        embeddings: list[Size | Percent] | None = None,
        operations: list[str] | None = None,
        pattern: list[list[str]] | None = None,
        start: Literal["new", "teacher"] = "new",
        head_size: Size | None = None,
        expansion: Positive | None = None,
        config: Any = None,
    ) -> None:
        layout_of(config)
        self.config = config
        self.start = start
        self.width = width_of(config)
        self.head_size = head_size or self.width // heads_of(config)
        self.expansion = expansion or neurons_of(config) / self.width
        self.layers = layers_of(config)
        self.blocks = blocks or self.layers
        if self.layers % self.blocks:
            raise UsageError(
                f"operator_chains.blocks: {self.blocks} blocks of {self.layers} layers. Expected a divisor."
            )
        of_block = self.layers // self.blocks
        self.shape = Shape(
            widths=self._sizes("widths", widths or ["100%"], self.head_size),
            slots=_slots(operations, pattern, length, of_block),
            free=pattern is None,
        )
        self.embeddings = self._sizes("embeddings", embeddings or ["100%"], 1)
        self._check()
        if start == "teacher":
            require_gelu(config, ("start", "teacher"))
        chains = self.shape.candidates()
        self.chains = chains
        values = [str(chain) for chain in chains]
        knobs: dict[str, Sequence[Any]] = {EMBEDDING: self.embeddings}
        for name in self.block_names:
            knobs[name] = values
        self.domain = Choices(knobs)

    def _sizes(self, option: str, sizes: Sequence[Any], step: int) -> list[int]:
        """Return sizes in numbers, ascending; shares are of the network's width, rounded to multiples of ``step``."""
        numbers = set()
        for size in sizes:
            if isinstance(size, str):
                wanted = share(option, size, ends=True) * self.width
                numbers.add(max(step, round(wanted / step) * step))
            else:
                numbers.add(int(size))
        return sorted(numbers)

    def _check(self) -> None:
        """Make sure that every operation exists at every width, and that there are not too many candidates."""
        import torch

        for width in self.shape.widths:
            for word in words_of(self.shape.slots):
                try:
                    with torch.device("meta"):
                        operation(word, width, self.head_size, self.expansion)
                except ValueError as error:
                    option = "operations" if self.shape.free else "pattern"
                    raise UsageError(f"operator_chains.{option}: at width {width}: {error}") from error
        if self.start == "teacher" and self.width not in self.shape.widths:
            raise UsageError(
                f"operator_chains.start: only operations of the network's width, {self.width}, can begin with its "
                f"layers. Widths: {listing(map(str, self.shape.widths))}."
            )
        if self.start == "teacher" and len(self.shape.slots) != 2 * self.layers // self.blocks:
            raise UsageError("operator_chains.start: a block of another length has no sub-layer for each of its own.")
        if self.start == "teacher" and self.expansion != neurons_of(self.config) / self.width:
            raise UsageError("operator_chains.expansion: only the network's own lets operations begin with its layers.")
        if self.shape.count() > MOST:
            raise UsageError(
                f"operator_chains: {self.shape.count():,} candidates of a block. Expected at most {MOST:,}: more "
                "blocks, fewer operations or widths, or a smaller length."
            )

    @property
    def block_names(self) -> list[str]:
        """The knobs of the blocks."""
        return [f"block.{number}" for number in range(self.blocks)]

    @property
    def parts(self) -> list[str]:
        """The parts of a network that are taught each by itself: the embedding, then the blocks."""
        return [EMBEDDING, *self.block_names]

    # ---- architectures

    def arch(self, sizes: Arch) -> dict[str, Any]:
        """Return the architecture that a recipe means, identities moved to the ends of free chains."""
        unknown = [name for name in sizes if name not in self.parts]
        if unknown:
            raise UsageError(f"no part {listing(unknown)}. Expected {listing(self.parts)}.")
        arch: dict[str, Any] = {EMBEDDING: sizes.get(EMBEDDING, self.embeddings[-1])}
        for name in self.block_names:
            if name not in sizes:
                raise UsageError(f"{name} is missing. Expected a width and operations, as in '256: mha ffn'.")
            arch[name] = str(self.shape.parsed(sizes[name]))
        return dict(self.domain.canonical(arch))

    def whole(self) -> dict[str, Any]:
        """Return the architecture of the network itself, of a space that begins with its layers.

        Raises:
            UsageError: the space does not have it.
        """
        layers = self.layers // self.blocks
        text = f"{self.width}: {' '.join(['mha', 'ffn'] * layers)}"
        return self.arch({EMBEDDING: self.width, **dict.fromkeys(self.block_names, text)})

    def chains_of(self, arch: Arch) -> list[Chain]:
        """Return an architecture's chains, block by block."""
        return [read(arch[name]) for name in self.block_names]

    # ---- networks

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the library of all candidates, with the network's head.

        Raises:
            UsageError: the network's head is of a kind that is not known.
        """
        import torch

        device = next(net.parameters()).device
        with torch.device(device):
            library = ChainLibrary(
                words=words_of_config(self.config),
                width=self.width,
                embeddings=self.embeddings,
                widths=list(self.shape.widths),
                slots=[list(slot) for slot in self.shape.slots],
                blocks=self.blocks,
                head=head_of(net, self.config),
                head_size=self.head_size,
                expansion=self.expansion,
                dropout=float(getattr(self.config, "hidden_dropout_prob", 0.1)),
                epsilon=float(getattr(self.config, "layer_norm_eps", 1e-12)),
            )
        copy_head(library, net, self.config)
        copy_embeddings(library, net, self.config)
        if self.start == "teacher":
            copy_layers(library, net, self.config)
        return library.to(device)

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return an architecture as a function: each block's chain between maps from and to the teacher's width."""
        chains = [(chain.width, chain.operations) for chain in self.chains_of(arch)]
        size = arch[EMBEDDING]

        def forward(**inputs: Any) -> Any:
            return net(**inputs, embedding=size, chains=chains)

        return forward

    def extract(self, net: Any, arch: Arch) -> nn.Module:
        """Return an architecture as a network of its own, which computes the same.

        Two maps in a row, out of one block and into the next, become one map, their product.
        """
        import torch

        chains = self.chains_of(arch)
        size = arch[EMBEDDING]
        arguments = net.arguments
        device = next(net.parameters()).device
        borders = self._border_maps(net, size, chains)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            model = OperatorChain(
                words=arguments["words"],
                embedding=size,
                blocks=[_description(chain) for chain in chains],
                head=arguments["head"],
                head_size=arguments["head_size"],
                expansion=arguments["expansion"],
                joins=[joined is not None for joined in borders],
                dropout=arguments["dropout"],
                epsilon=arguments["epsilon"],
            )
        model.embedding.load_state_dict(net.embeddings[str(size)].state_dict())
        maps: Any = model.maps
        blocks: Any = model.blocks
        for own, border in zip(maps, borders, strict=True):
            if border is not None:
                with torch.no_grad():
                    own.weight.copy_(border[0])
                    own.bias.copy_(border[1])
        for own_block, block, chain in zip(blocks, net.blocks, chains, strict=True):
            positions = [position for position, word in enumerate(chain.operations) if word != NOTHING]
            for own_layer, position in zip(own_block, positions, strict=True):
                layer = block.layer(chain.width, position, chain.operations[position])
                own_layer.load_state_dict(layer.state_dict())
        model.head.load_state_dict(net.head.state_dict())
        return model.train(net.training)

    def _border_maps(self, net: Any, size: int, chains: Sequence[Chain]) -> list[Any]:
        """Return weight and bias of the map at each border, ``None`` where there is none."""
        borders = []
        before = net.embedding_maps[str(size)]
        for block, chain in zip(net.blocks, chains, strict=True):
            borders.append(_joined(before, block.maps_in[str(chain.width)]))
            before = block.maps_out[str(chain.width)]
        borders.append(_joined(before, None))
        return borders

    # ---- costs

    def pieces(self, net: Any) -> dict[str, Piece]:
        """Return each operation at each width, each embedding, each map between widths, and the head."""
        import torch

        pieces = {}
        for size, embedding in net.embeddings.items():
            pieces[f"embedding@{size}"] = Piece(embedding, _token_inputs, "embedding")
        block = net.blocks[0]
        for width in self.shape.widths:
            for position, slot in enumerate(self.shape.slots):
                for word in slot:
                    if word != NOTHING:
                        layer = block.layer(width, position, word)
                        pieces[f"{word}@{width}"] = Piece(layer, _state_inputs(width))
        head = net.head
        device = next(head.parameters()).device
        for before, after in self._border_widths():
            with torch.random.fork_rng(devices=[]), torch.device(device):
                joined = torch.nn.Linear(before, after)
            pieces[_map_name(before, after)] = Piece(joined, _states_alone(before))
        pieces["head"] = Piece(HeadAlone(head), _states_alone(self.width), "head")
        return pieces

    def _border_widths(self) -> list[tuple[int, int]]:
        """Return the widths of every map that may join two parts, as :meth:`extract` joins them.

        Those from the teacher's width are among them: chains are taught between such maps, see :meth:`alone`.
        """
        befores = sorted({*self.embeddings, *self.shape.widths, self.width})
        pairs = []
        for before in befores:
            for after in sorted({*self.shape.widths, self.width}):
                if self._has_map(before, after):
                    pairs.append((before, after))
        return pairs

    def _has_map(self, before: int, after: int) -> bool:
        """Tell whether two parts are joined by a map: unless both have the teacher's width."""
        return not (before == self.width and after == self.width)

    def priced(self, prices: Mapping[str, float]) -> CostTable:
        """Return the cost of every choice, and of the maps between neighbours."""
        of_embeddings = [prices[f"embedding@{size}"] for size in self.embeddings]
        # (N5): a chain costs the sum of its operations
        of_chains = self._counts @ np.array([prices[name] for name in self._piece_names])
        choices: dict[str, list[float]] = {EMBEDDING: of_embeddings}
        for name in self.block_names:
            choices[name] = of_chains.tolist()
        widths = list(self.shape.widths)
        to_head = np.array([self._map_price(prices, width, self.width) for width in widths])
        kinds = self._kinds
        choices[self.block_names[-1]] = (of_chains + to_head[kinds]).tolist()

        into_blocks = [[self._map_price(prices, size, width) for width in widths] for size in self.embeddings]
        sizes = list(range(len(self.embeddings)))
        pairs = [PairCosts(EMBEDDING, self.block_names[0], (sizes, kinds.tolist()), into_blocks)]
        between = [[self._map_price(prices, before, after) for after in widths] for before in widths]
        for first, second in itertools.pairwise(self.block_names):
            pairs.append(PairCosts(first, second, (kinds.tolist(), kinds.tolist()), between))
        return CostTable(prices["head"], choices, tuple(pairs))

    def alone(self, prices: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return what each candidate of each part costs as it is taught: between maps from and to the teacher's width.

        Args:
            prices: name of a piece → its cost.
        """
        maps = []
        for width in self.shape.widths:
            maps.append(self._map_price(prices, self.width, width) + self._map_price(prices, width, self.width))
        of_chains = self._counts @ np.array([prices[name] for name in self._piece_names])
        costs = {EMBEDDING: np.array([prices[f"embedding@{size}"] for size in self.embeddings])}
        for name in self.block_names:
            costs[name] = of_chains + np.array(maps)[self._kinds]
        return costs

    def _map_price(self, prices: Mapping[str, float], before: int, after: int) -> float:
        return prices[_map_name(before, after)] if self._has_map(before, after) else 0.0

    @cached_property
    def _piece_names(self) -> list[str]:
        """The names of all operations at all widths."""
        return [f"{word}@{width}" for width in self.shape.widths for word in words_of(self.shape.slots)]

    @cached_property
    def _counts(self) -> np.ndarray:
        """How often each candidate has each operation, ``(candidates, operations at widths)``."""
        columns = {name: column for column, name in enumerate(self._piece_names)}
        counts = np.zeros((len(self.chains), len(columns)), dtype=np.int8)
        of_width = len(columns) // len(self.shape.widths)
        places = {word: columns[f"{word}@{self.shape.widths[0]}"] for word in words_of(self.shape.slots)}
        rows: list[int] = []
        of_rows: list[int] = []
        kinds = self._kinds.tolist()
        for row, chain in enumerate(self.chains):
            first = kinds[row] * of_width  # the operations at one width stand together
            for word in chain.operations:
                if word != NOTHING:
                    rows.append(row)
                    of_rows.append(first + places[word])
        np.add.at(counts, (rows, of_rows), 1)
        return counts

    @cached_property
    def _kinds(self) -> np.ndarray:
        """The number of each candidate's width, ``(candidates,)``."""
        numbers = {width: number for number, width in enumerate(self.shape.widths)}
        return np.array([numbers[chain.width] for chain in self.chains])


def _slots(
    operations: list[str] | None, pattern: list[list[str]] | None, length: int | None, layers: int
) -> list[list[str]]:
    """Return the operations of each position of a block.

    Raises:
        UsageError: options that exclude each other.
    """
    if pattern is None:
        return [list(operations or OPERATIONS)] * (length or 2 * layers)
    if operations is not None or length is not None:
        option = "operations" if operations is not None else "length"
        raise UsageError(f"operator_chains.{option}: has no effect on a pattern. Expected one of the two.")
    if len(pattern) != 2 or not all(pattern):
        raise UsageError("operator_chains.pattern: expected two lists: for attention, and for the feed-forward maps.")
    return [list(slot) for slot in pattern] * layers


def _description(chain: Chain) -> dict[str, Any]:
    """Return a chain as :class:`OperatorChain` reads it."""
    return {"width": chain.width, "operations": [word for word in chain.operations if word != NOTHING]}


def _joined(first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return weight and bias of one map that does what two do in a row; ``None`` if neither does anything."""
    maps = [map for map in (first, second) if map is not None and hasattr(map, "weight")]
    if not maps:
        return None
    if len(maps) == 1:
        return maps[0].weight, maps[0].bias
    # W₂(W₁x + b₁) + b₂
    weight = maps[1].weight @ maps[0].weight
    bias = maps[1].weight @ maps[0].bias + maps[1].bias
    return weight, bias


def _map_name(before: int, after: int) -> str:
    return f"map@{before}>{after}"


def _token_inputs(inputs: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    """Return what an embedding reads of a batch."""
    return inputs["input_ids"], inputs.get("token_type_ids")


def _state_inputs(width: int) -> Callable[[Mapping[str, torch.Tensor]], tuple[Any, ...]]:
    """Return a function that makes states and a mask of a batch's shape."""

    def make(inputs: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        (states,) = _states_alone(width)(inputs)
        return states, inputs["input_ids"] == inputs["input_ids"]

    return make


def _states_alone(width: int) -> Callable[[Mapping[str, torch.Tensor]], tuple[Any, ...]]:
    """Return a function that makes states of a batch's shape."""

    def make(inputs: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        import torch

        ids = inputs["input_ids"]
        return (torch.ones(*ids.shape, width, device=ids.device),)

    return make
