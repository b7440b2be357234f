"""The space of AutoBERT-Zero: encoders whose layers mix words by formulas and convolutions, with shared weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from nasframe.errors import UsageError, listing, suggestion
from nasframe.nn.elastic import FamilyRow, stock_class
from nasframe.nn.rows import row_for
from nasframe.nn.shared_layers import replaced
from nasframe.notices import Notify, say
from nasframe.records import Arch, Count, Forward, Natural, Percent
from nasframe_autobert_zero.domain import KERNELS, MOST, NEEDED, PRIMITIVES, ExpressionGraphs
from nasframe_autobert_zero.expression import ARITY
from nasframe_autobert_zero.network import AutoBertSupernet, AutoBertZero, Branches, centre, kernel_of
from nasframe_autobert_zero.published import READINGS, mixes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MAPS = frozenset({"query", "key", "value", "merge", "widen", "shrink"})
"""The linear maps of a layer that this space knows."""
REASONS = {
    "syntax": "could not be read",
    "shape": "had shapes that do not fit",
    "inputs": "did not read both q and k",
    "unnormalised": "summed words with weights that no softmax normalised",
    "size": "were too long",
    "primitives": "had an operation that the space leaves out",
    "vanishing": "had a gradient that vanishes",
    "not finite": "had values that are not finite",
}


class ExpressionGraphSpace:
    """Choose for each layer a formula of queries, keys and values, or a convolution, and how many neurons follow.

    The super-network keeps two branches in each layer: the maps of the attention, which start as the network's own and
    do not depend on the formula, and a convolution with the largest kernel, of which smaller ones are the middle.

    Args:
        kernels: words under the kernels of convolutions; odd numbers.
        primitives: operations that formulas may have, among ``neg``, ``transpose``, ``scale``, ``softmax``,
            ``logsigmoid``, ``softsign``, ``add``, ``matmul``, and, not in the paper's figure, ``sqrt``,
            ``signed_sqrt``, ``cosine``, ``euclidean``.
        most: operations that a formula's graph may have.
        ffn: numbers of FFN neurons, or shares of the network's; the published space has all of them only.
        skip: whether layers may be left out, which the published space does not allow.
        config: injected; the configuration of the network.
        notify: injected; told how many formulas were rejected, and why.

    Raises:
        UsageError: an option out of range, or a network of another kind than encoders with separate queries, keys and
            values.
    """

    def __init__(
        self,
        kernels: Sequence[Count] = KERNELS,
        primitives: Sequence[str] = PRIMITIVES,
        most: Count = MOST,
        ffn: Sequence[Natural | Percent] | None = None,
        skip: bool = False,
        config: PreTrainedConfig | None = None,
        notify: Notify = say,
    ) -> None:
        _check_kernels(kernels)
        _check_primitives(primitives)
        if config is None:
            raise UsageError("expression_graphs: no network. Expected an encoder of transformers.")
        self.row = encoder_row(config)
        sizes = self.row.sizes(config)
        width = config.hidden_size
        if width % sizes.heads:
            raise UsageError(f"expression_graphs: {width} columns in {sizes.heads} kernels. Expected a multiple.")
        self.sizes_of_layers = {
            "width": width,
            "heads": sizes.heads,
            "head_size": sizes.head_size,
            "depth": self.row.depth,
        }
        self.neurons = sizes.ffn
        self.dropout = _attention_dropout(config)
        self.notify = notify
        self.domain = ExpressionGraphs(
            sizes.layers, kernels, primitives, most, _neurons(ffn, sizes.ffn), skip, self.report
        )

    def report(self, rejected: Mapping[str, int]) -> None:
        """Say how many formulas were drawn and rejected, before anything was computed with them."""
        parts = [
            f"{count:,} {REASONS[reason]}" for reason, count in sorted(rejected.items(), key=lambda pair: -pair[1])
        ]
        self.notify(
            "space", f"Of the formulas that were tried, {sum(rejected.values()):,} were no use: {', '.join(parts)}."
        )

    def arch(self, sizes: Arch) -> Arch:
        """Turn what a recipe writes into an architecture.

        Args:
            sizes: ``{layers: [...]}`` with a mix for each layer, as text or as ``{mix: …, ffn: …}``, or null for none;
                ``{mix: …}`` for all layers alike; or ``{published: scale}``, the network that the paper found, with its
                ``sqrt`` read as ``scale``, ``sqrt`` or ``signed_sqrt``. Sizes that are not given are the network's.

        Raises:
            UsageError: a layer is no part of the space.
        """
        layers = self._written_layers(sizes)
        if len(layers) != self.domain.layers:
            raise UsageError(f"layers: {len(layers)} of them. Expected {self.domain.layers}, as the network has.")
        read = []
        for number, layer in enumerate(layers):
            try:
                read.append(self._written_layer(layer))
            except UsageError as error:
                raise UsageError(f"layers.{number}: {error}") from None
        arch = self.domain.canonical({"layers": read})
        if not self.domain.contains(arch):
            raise UsageError("layers: every layer is left out. Expected one at least.")
        return arch

    def _written_layers(self, sizes: Arch) -> Sequence[Any]:
        """Return what a recipe writes for each layer."""
        keys = ("layers", "mix", "published")
        given = [key for key in keys if key in sizes]
        unknown = [key for key in sizes if key not in keys]
        if unknown:
            raise UsageError(f"{unknown[0]}: not known. Expected one of {listing(keys)}.{suggestion(unknown[0], keys)}")
        if len(given) != 1:
            raise UsageError(f"{listing(given) or 'nothing'}: expected one of {listing(keys)}.")
        value = sizes[given[0]]
        if given == ["mix"]:
            return [value] * self.domain.layers
        if given == ["published"]:
            if value not in READINGS:
                raise UsageError(f"published: {value!r}. Expected one of {listing(READINGS)}.")
            return mixes(value)
        if not isinstance(value, list):
            raise UsageError(f"layers: {value!r}. Expected a list with an entry for each layer.")
        return value

    def _written_layer(self, layer: Any) -> dict[str, Any] | None:
        """Return a layer as architectures have it."""
        if layer is None:
            if not self.domain.skip:
                raise UsageError("left out, but the space keeps all layers. Expected skip: true.")
            return None
        if isinstance(layer, str):
            layer = {"mix": layer}
        if not isinstance(layer, Mapping) or not isinstance(layer.get("mix"), str) or set(layer) - {"mix", "ffn"}:
            raise UsageError(f"{layer!r}. Expected a formula, a convolution such as conv7, or {{mix: …, ffn: …}}.")
        self.domain.explain(layer["mix"])
        ffn = layer.get("ffn", self.domain.ffn[-1])
        if ffn not in self.domain.ffn:
            sizes = ", ".join(map(str, self.domain.ffn))
            raise UsageError(f"ffn: {ffn!r}. Expected one of {sizes}.")
        return {"mix": layer["mix"], "ffn": ffn}

    # ---- networks

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the super-network: the attention's maps are the network's own, convolutions are new.

        Raises:
            UsageError: the network is no encoder of transformers as it comes from there.
        """
        if isinstance(net, AutoBertSupernet):
            return net
        try:
            model = stock_class(net).__name__
        except TypeError as error:
            raise UsageError(f"expression_graphs: {error}") from None
        paths = paths_of(net, self.row)
        first = next(net.parameters())
        with torch.device(first.device):
            made = AutoBertSupernet(
                model=model,
                config=plain_config(net.config),
                paths=paths,
                sizes=self.sizes_of_layers,
                kernel=max(self.domain.kernels),
                dropout=self.dropout,
            )
        state = {}
        for name, tensor in (*net.state_dict().items(), *net.named_buffers()):  # also buffers that are not stored
            state[_branch_name(name, paths)] = tensor
        try:
            missing, unexpected = made.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise UsageError(f"expression_graphs: layers have sizes of their own: {error}") from None
        own = [name for name in missing if ".convolution." not in name]
        if own or unexpected:
            raise UsageError(
                f"expression_graphs: {type(net).__name__} has other weights than {model} in transformers "
                f"({listing([*own, *unexpected][:3])}). Expected none."
            )
        return made.train(net.training)

    def view(self, net: Any, arch: Arch) -> Forward:
        """Return a network of the space as a function that shares the super-network's weights."""
        paths = net.arguments["paths"]
        maybe_install_capturing_hooks(net.net.base_model)  # before copies are made, so that each has them once
        path = f"net.{paths['layers']}"
        layers = net.get_submodule(path)
        shell = replaced(net, path, layers)
        pairs = list(_pairs(net, shell))
        own = nn.ModuleList()
        for layer, choice in _kept(layers, arch):
            chosen = replaced(layer, paths["attention"], Mixing(layer.get_submodule(paths["attention"]), choice["mix"]))
            if choice["ffn"] < self.neurons:
                for name in ("widen", "shrink"):
                    linear = layer.get_submodule(paths[name])
                    chosen = replaced(chosen, paths[name], First(linear, choice["ffn"], inputs=name == "shrink"))
            pairs += _pairs(layer, chosen)
            own.append(chosen)
        shell.set_submodule(path, own)
        config = copy.copy(net.net.config)
        setattr(config, net.arguments["sizes"]["depth"], len(own))
        shell.net.config = config
        shell.net.base_model.config = config

        def forward(**inputs: Any) -> Any:
            for original, copied in pairs:  # the mode may have changed since
                copied.training = original.training
            return shell(**inputs)

        return forward

    def extract(self, net: Any, arch: Arch) -> nn.Module:
        """Return a network of the space as a model of its own, with copies of the super-network's weights."""
        first = next(net.parameters())
        chosen = [dict(layer) for layer in arch["layers"] if layer is not None]
        arguments = {name: net.arguments[name] for name in ("model", "config", "paths", "sizes", "dropout")}
        with torch.random.fork_rng(devices=[]), torch.device(first.device):
            model = AutoBertZero(layers=chosen, **arguments)
        state = {name: tensor.detach().clone() for name, tensor in extracted_state(net, arch)}
        wanted = model.state_dict().keys()
        model.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted})
        return model.train(net.training)


# ---- options


def _check_kernels(kernels: Sequence[int]) -> None:
    if not kernels:
        raise UsageError("expression_graphs.kernels: none. Expected one at least.")
    even = [kernel for kernel in kernels if kernel % 2 == 0]
    if even:
        raise UsageError(
            f"expression_graphs.kernels: {even[0]} is even, so that it has no middle. Expected odd numbers."
        )


def _check_primitives(primitives: Sequence[str]) -> None:
    for name in primitives:
        if name not in ARITY:
            raise UsageError(
                f"expression_graphs.primitives: {name!r} is unknown. Expected some of {listing(ARITY)}."
                f"{suggestion(name, ARITY)}"
            )
    missing = [name for name in NEEDED if name not in primitives]
    if missing:
        raise UsageError(
            f"expression_graphs.primitives: without {listing(missing)} no formula mixes words. Expected them as well."
        )


def _neurons(values: Sequence[int | str] | None, full: int) -> list[int]:
    """Return the numbers of neurons that layers may have.

    Raises:
        UsageError: one is no size of the network.
    """
    counts = []
    for value in [full] if values is None else values:
        number = round(float(value.removesuffix("%")) / 100 * full) if isinstance(value, str) else value
        if not 0 < number <= full:
            raise UsageError(f"expression_graphs.ffn: {value!r}. Expected shares, or numbers from 1 to {full:,}.")
        counts.append(number)
    if not counts:
        raise UsageError("expression_graphs.ffn: none. Expected one at least.")
    return counts


def encoder_row(config: Any) -> FamilyRow:
    """Return the row of an encoder's family.

    Raises:
        UsageError: its networks are no encoders whose queries, keys and values are separate and can be replaced.
    """
    row = row_for(config, "expression_graphs")
    obstacle = ""
    if row.causal:
        obstacle = "words attend only to those before them"
    elif set(row.maps) != MAPS or any(item.grouped or item.blocks > 1 for item in row.maps.values()):
        obstacle = f"a layer has the maps {listing(row.maps)}"
    elif row.head_table:
        obstacle = "its scores have a table of relative positions, which formulas do not read"
    if obstacle:
        raise UsageError(
            f"expression_graphs: {config.model_type}: {obstacle}. Expected an encoder with separate maps of queries, "
            "keys and values and absolute positions, such as bert, roberta, electra or distilbert."
        )
    return row


def _attention_dropout(config: Any) -> float:
    """Return the rate of dropout behind attention scores, which families call by several names."""
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        rate = getattr(config, name, None)
        if rate is not None:
            return float(rate)
    return 0.0


def plain_config(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON-plain values, without the folder that it was read from."""
    fields = config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures"):
        fields.pop(name, None)
    labels = fields.get("id2label")
    if labels is not None:
        fields["id2label"] = {str(number): label for number, label in labels.items()}
    return dict(fields)


def paths_of(net: Any, row: FamilyRow) -> dict[str, str]:
    """Return where the parts of a network are: ``layers`` from the network, the others from a layer."""
    base = "" if net.base_model is net else f"{net.base_model_prefix}."
    return {
        "layers": f"{base}{row.layers}",
        "attention": row.attention,
        **{name: item.path for name, item in row.maps.items()},
    }


# ---- weights


def _branch_name(name: str, paths: Mapping[str, str]) -> str:
    """Return the name that a tensor of the network has in the super-network."""
    prefix = f"{paths['layers']}."
    if name.startswith(prefix):
        number, _, rest = name.removeprefix(prefix).partition(".")
        for role in ("query", "key", "value", "merge"):
            tensor = rest.removeprefix(f"{paths[role]}.")
            if tensor != rest:
                return f"net.{prefix}{number}.{paths['attention']}.attention.{role}.{tensor}"
    return f"net.{name}"


def extracted_state(net: AutoBertSupernet, arch: Arch) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of an architecture by the names in its model, and some that it may not have.

    Args:
        net: the super-network.
        arch: the architecture.
    """
    paths: Any = net.arguments["paths"]
    prefix = f"net.{paths['layers']}."
    positions = [number for number, layer in enumerate(arch["layers"]) if layer is not None]
    for name, tensor in net.state_dict().items():
        if not name.startswith(prefix):
            yield name, tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) not in positions:
            continue
        found = _of_layer(rest, tensor, arch["layers"][int(number)], paths)
        if found is not None:
            yield f"{prefix}{positions.index(int(number))}.{found.name}", found.tensor


class Named(NamedTuple):
    """A tensor of a model.

    Attributes:
        name: its name in its layer.
        tensor: its values, which may be a part of the super-network's.
    """

    name: str
    tensor: torch.Tensor


def _of_layer(name: str, tensor: torch.Tensor, choice: Mapping[str, Any], paths: Mapping[str, str]) -> Named | None:
    """Return what becomes of a tensor in a chosen layer; ``None`` if it is the other branch's."""
    kernel = kernel_of(choice["mix"])
    taken, other = ("attention", "convolution") if kernel is None else ("convolution", "attention")
    if name.startswith(f"{paths['attention']}.{other}."):
        return None
    own = name.removeprefix(f"{paths['attention']}.{taken}.")
    if own != name:
        values = centre(tensor, kernel) if own == "kernels" and kernel is not None else tensor
        return Named(f"{paths['attention']}.{own}", values)
    if name.startswith(f"{paths['widen']}."):
        return Named(name, tensor[: choice["ffn"]])
    if name == f"{paths['shrink']}.weight":
        return Named(name, tensor[:, : choice["ffn"]])
    return Named(name, tensor)


def _kept(layers: Any, arch: Arch) -> Iterator[tuple[nn.Module, Mapping[str, Any]]]:
    """Yield the layers that an architecture keeps, and what it chooses for each."""
    for layer, choice in zip(layers, arch["layers"], strict=True):
        if choice is not None:
            yield layer, choice


# ---- parts of views


class Mixing(nn.Module):
    """One way to mix words, with the weights of a layer's branches.

    Args:
        branches: the branches.
        mix: a formula or a convolution.
    """

    def __init__(self, branches: nn.Module, mix: str) -> None:
        super().__init__()
        self.branches = branches
        self.mix = mix

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the mixed words, and ``None`` in place of attention scores."""
        branches: Any = self.branches
        assert isinstance(branches, Branches)
        mixed: tuple[torch.Tensor, None] = branches(hidden, attention_mask, mix=self.mix)
        return mixed


class First(nn.Module):
    """The first inputs or outputs of a linear map, with its weights.

    Args:
        linear: the map.
        count: how many.
        inputs: whether inputs are counted; otherwise outputs.
    """

    def __init__(self, linear: nn.Module, count: int, inputs: bool) -> None:
        super().__init__()
        self.linear = linear
        self.count = count
        self.inputs = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the narrower map's outputs."""
        linear: Any = self.linear
        if self.inputs:
            return functional.linear(x, linear.weight[:, : self.count], linear.bias)
        bias = None if linear.bias is None else linear.bias[: self.count]
        return functional.linear(x, linear.weight[: self.count], bias)


def _pairs(original: nn.Module, copied: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield modules with their copies, down to those that both networks share or that were replaced."""
    if original is copied or type(original) is not type(copied):
        return
    yield original, copied
    for name, child in copied._modules.items():
        other = original._modules.get(name)
        if child is not None and other is not None:
            yield from _pairs(other, child)
