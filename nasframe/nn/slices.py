"""Sub-networks as slice maps over a network's own parameters: run them in place, copy them out, write them back.

A sub-network keeps some layers and, in each, the first heads and the first neurons; of a factorised word embedding it
may keep the first columns of both factors. Its view is the network itself with other entries in its list of layers: a
full-size layer is the very same module, and a narrowed one is a copy that holds slices of the narrowed parameters and
shares everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from nasframe.nn.additive import RANK, Kept, SliceError, kept_of, kept_rank
from nasframe.nn.blueprint import blueprint, build, config_of_layers, fields_of_layers, kept_maps
from nasframe.nn.elastic import Part, base_of, family_of, layers_of, set_index, slices_of, units_of, words_of
from nasframe.nn.shared_layers import Narrowed, Slice, followers, narrowed, narrowed_words, replaced, shallow
from nasframe.records import Forward


def kept_layers(net: nn.Module, sizes: Mapping[str, Any]) -> list[Kept]:
    """Return the layers that a sub-network keeps, after checking its sizes against the network's own.

    Args:
        net: the network.
        sizes: ``layers`` (kept positions, ascending; default all), ``heads.i`` and ``ffn.i`` (counts in layer ``i``;
            default all). ``heads`` and ``ffn`` may be mappings from ``i`` instead. ``embedding_rank`` is for
            :func:`nasframe.nn.additive.kept_rank`.

    Returns:
        One entry for each kept layer, in order.

    Raises:
        SliceError: an unknown key, a layer twice or out of order, or a size beyond the network's.

    >>> from nasframe.testing.toy import tiny_net
    >>> kept_layers(tiny_net(), {"layers": [0, 2], "heads.2": 3})
    [Kept(position=0, heads=4, ffn=64), Kept(position=2, heads=3, ffn=64)]
    """
    return _kept(net, blueprint(net), sizes)


def _kept(net: nn.Module, full: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[Kept]:
    """Return the layers that a sub-network of a network with the blueprint ``full`` keeps."""
    kept = kept_of(full["layers"], sizes, full.get("group", 1))
    if family_of(net).keeps_first and kept and kept[0].position:
        raise SliceError(
            f"layers: {[layer.position for layer in kept]} leaves out layer 0, which differs from the others in a "
            f"{type(net).__name__}. Expected layer 0 among them."
        )
    return kept


def view(net: nn.Module, sizes: Mapping[str, Any], autograd: bool = False) -> Forward:
    """Return a sub-network as a function that shares the network's weights and changes nothing.

    The function follows the network's mode (train, eval), its hooks, dropout rates and parametrisations. Weights may
    change between calls; after modules were replaced or parametrised, ask for a new view.

    After ``backward`` the ``.grad`` of each parameter is what slicing with ``narrow`` would give: zero outside the
    slice, added up over several views, ``None`` in dropped layers. For speed the slices of plain parameters are
    leaves of their own, which add their gradient into the parameter's. Hence ``torch.autograd.grad`` with respect to
    the network's parameters, second derivatives, and hooks on gradient accumulation (DistributedDataParallel) need
    ``autograd=True``.

    Args:
        net: a model of a family that can be sliced.
        sizes: see :func:`kept_layers`; any sizes up to the network's.
        autograd: slice inside the graph, at the cost of full-size gradients for each slice.

    Returns:
        A function with the arguments and outputs of the network's ``forward``.

    Raises:
        SliceError: the network does not have these sizes, or gradient checkpointing is on.

    >>> from nasframe.testing.toy import tiny_inputs, tiny_net
    >>> net = tiny_net()
    >>> view(net, {"layers": [0, 1], "heads.0": 3, "ffn.1": 17})(**tiny_inputs()).logits.shape
    torch.Size([3, 2])
    """
    if any(getattr(module, "gradient_checkpointing", False) for module in net.modules()):
        raise SliceError(
            "gradient checkpointing: it runs a layer again during backward, when the layer may hold another "
            "sub-network's slices. Switch it off first."
        )
    cache = _layer_cache(net)
    family = family_of(net)
    base = base_of(net)
    chosen = _kept(net, cache.blueprint, sizes)
    narrowed_layers = [cache.layer(kept, index) for index, kept in enumerate(chosen)]

    # The shell is the network with other entries in its list of layers; everything else in it is shared.
    path = _path(net, family.layers)
    shell = replaced(net, path, layers_of(net))
    slices: list[Slice] = []
    words = cache.words(kept_rank(cache.rank, sizes))
    if words is not None:
        shell = replaced(shell, _path(net, cache.words_path), words.layer)
        slices += words.slices
    copies = followers(net, shell)
    own_layers = nn.ModuleList()
    for entry in narrowed_layers:
        slices += entry.slices
        copies += entry.followers
        own_layers.append(entry.layer)
    shell.set_submodule(path, own_layers)

    # The shell has a configuration of its own, since its number of layers differs.
    config = copy.copy(base.config)
    shell.config = config
    base_of(shell).config = config
    positions = [kept.position for kept in chosen]

    def forward(*args: Any, **kwargs: Any) -> Any:
        # The network may have changed since the view was made, so all that is not shared is copied again.
        config.__dict__.update(base.config.__dict__)
        for name, value in fields_of_layers(base.config, family, positions).items():
            setattr(config, name, value)
        for source, copied in copies:
            copied["training"] = source["training"]
        for part in slices:
            part.bind(autograd)
        return shell(*args, **kwargs)

    return forward


def _layer_cache(net: nn.Module) -> _LayerCache:
    """Return the network's cache of narrowed layers; it is made again after modules were replaced."""
    modules = list(net.modules())
    cache = _CACHES.get(net)
    if cache is None or cache.made_from != list(map(id, modules)):
        # Before copies are made, so that each copy has the hooks once.
        maybe_install_capturing_hooks(base_of(net))
        cache = _LayerCache(net, modules)
        _CACHES[net] = cache
    return cache


def extract(net: nn.Module, sizes: Mapping[str, Any]) -> nn.Module:
    """Copy a sub-network out into a stand-alone model of transformers' own class.

    The model's configuration has its number of layers; its other sizes, for which a configuration has no field, can be
    read with ``blueprint``. The model can be viewed and extracted from again.

    Args:
        net: the network; parametrised tensors are copied as they act.
        sizes: see :func:`kept_layers`.

    Returns:
        A model in the network's mode whose outputs equal the view's.

    Raises:
        SliceError: the network does not have these sizes, or it has weights that its stock class has no place for.

    >>> from nasframe.nn.blueprint import blueprint
    >>> from nasframe.testing.toy import tiny_net
    >>> blueprint(extract(tiny_net(), {"layers": [1], "heads.1": 3, "ffn.1": 0}))["layers"]
    [{'heads': 3, 'ffn': 0}]
    """
    full = blueprint(net)
    chosen = _kept(net, full, sizes)
    wanted = full | {"layers": _layer_sizes(chosen), RANK: kept_rank(full[RANK], sizes)}
    positions = [kept.position for kept in chosen]
    for key in ("factorized", "quantised", "head_order"):  # all name maps by layer, and layers get new positions
        if key in full:
            wanted[key] = kept_maps(full[key], positions)
    for number, kept in enumerate(chosen):
        order = wanted.get("head_order", {}).get(f"{number}.heads")
        if order is not None:
            wanted["head_order"][f"{number}.heads"] = order[: kept.heads]
    config = config_of_layers(base_of(net).config, full["family"], positions)
    small = build(config, wanted)

    copies: dict[int, nn.Parameter] = {}  # by the source's id, so that tied weights stay tied
    for entry in _slice_map(net, chosen, small):
        is_slice = entry.part is not entry.whole
        if is_slice or id(entry.whole) not in copies:
            values = entry.part.detach().clone()
            copies[id(entry.whole)] = nn.Parameter(values, requires_grad=entry.whole.requires_grad)
        entry.owner._parameters[entry.key] = copies[id(entry.whole)]
    # Buffers are whole in every sub-network. Parametrisations have theirs, too, but tensors were copied as they act.
    renaming = _Renaming.of(net, chosen)
    for name, buffer in net.named_buffers():
        small_name = renaming.name_in_small(name)
        if small_name is not None and "parametrizations" not in name:
            path, _, key = small_name.rpartition(".")
            owner = small.get_submodule(path)
            if key in owner._buffers:  # ModernBERT has tables of positions for the kinds of layers that there are
                owner._buffers[key] = buffer.clone()
    return small.train(net.training)


class _LayerCache:
    """The narrowed layers of one network, by position and sizes, and the place that they have in the sub-network.

    The position is part of the key because one module must never sit at two positions.
    """

    most = 4096  # entries; a search over any sizes would fill the memory otherwise

    def __init__(self, net: nn.Module, modules: list[nn.Module]) -> None:
        self.made_from = list(map(id, modules))
        # Keeps the ids in use. The network itself is left out: this cache must end with it.
        self.alive = modules[1:]
        self.family = family_of(net)
        self.own_layers = list(layers_of(net))
        self.blueprint = blueprint(net)
        self.rank = self.blueprint[RANK]
        self.full = kept_of(self.blueprint["layers"], {})
        self.words_path = self.family.words or ""
        self.table = words_of(net)
        self.narrowed: dict[tuple[Kept, int | None], Narrowed] = {}
        self.ranks: dict[int, Narrowed] = {}

    def layer(self, kept: Kept, index: int) -> Narrowed:
        """Return a layer at its size, for a place in the sub-network: the network's own layer if that will do."""
        own = self.own_layers[kept.position]
        attention: Any = own.get_submodule(self.family.attention)
        own_index = getattr(attention, "layer_idx", None)
        new_index = None if own_index in (None, index) else index
        if kept == self.full[kept.position] and new_index is None:
            return Narrowed(own, [], [])
        key = (kept, new_index)
        if key not in self.narrowed:
            if len(self.narrowed) >= self.most:
                self.narrowed.clear()  # views that are in use keep their own layers
            self.narrowed[key] = self._narrowed(own, kept, new_index)
        return self.narrowed[key]

    def _narrowed(self, own: nn.Module, kept: Kept, index: int | None) -> Narrowed:
        """Return a copy of a layer, narrowed and with the index of its place in the sub-network."""
        if kept == self.full[kept.position]:
            attention = shallow(own.get_submodule(self.family.attention))
            copied = replaced(own, self.family.attention, attention)
            layer = Narrowed(copied, [], followers(own, copied))
        else:
            layer = narrowed(self.family, own, kept.heads, kept.ffn)
        if index is not None:
            # A cache of keys and values has one entry for each layer of the sub-network.
            set_index(self.family, layer.layer, index)
        return layer

    def words(self, rank: int | None) -> Narrowed | None:
        """Return the word embedding at a lower rank, or ``None`` if the network's own will do."""
        if rank is None or rank == self.rank:
            return None
        if rank not in self.ranks:
            self.ranks[rank] = narrowed_words(self.table, rank)
        return self.ranks[rank]


# Keyed weakly: a cache must not keep its network alive.
_CACHES: WeakKeyDictionary[nn.Module, _LayerCache] = WeakKeyDictionary()


def _path(net: nn.Module, path: str) -> str:
    """Return the path of a module of the base model from the whole network."""
    if base_of(net) is net:
        return path
    return f"{net.base_model_prefix}.{path}"


def _layer_sizes(chosen: Sequence[Kept]) -> list[dict[str, int]]:
    return [{"heads": kept.heads, "ffn": kept.ffn} for kept in chosen]


def weights(net: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (module name, module, tensor name) for each weight, parametrised ones under the name that modules use."""
    for name, module in net.named_modules():
        if "parametrizations" in name:
            continue
        keys = list(module._parameters)
        if is_parametrized(module):
            keys += list(module.parametrizations)  # type: ignore[arg-type]
        for key in keys:
            if getattr(module, key) is not None:
                yield name, module, key


class _Slice(NamedTuple):
    """One entry of the slice map.

    Args:
        owner: the module of the sub-network that holds the tensor.
        key: the tensor's name in it.
        whole: the network's tensor.
        part: the part of it that is kept; ``whole`` itself if all is.
    """

    owner: nn.Module
    key: str
    whole: torch.Tensor
    part: torch.Tensor


def _slice_map(net: nn.Module, chosen: list[Kept], small: nn.Module) -> Iterator[_Slice]:
    """Yield each weight of ``small``, a network of the chosen sizes, with the part of ``net`` it comes from.

    Both networks are walked in full, and each weight must find its partner: a weight that is forgotten would be left
    random in the extracted model.
    """
    family = family_of(net)
    words_prefix = _path(net, family.words) + "." if family.words else None
    owners = {(name, key): owner for name, owner, key in weights(small)}
    parts = _parts_by_name(net, chosen)
    renaming = _Renaming.of(net, chosen)
    for name, module, key in weights(net):
        small_name = renaming.name_in_small(name)
        if small_name is None:  # of a layer that is dropped
            continue
        owner = owners.pop((small_name, key), None)
        whole = getattr(module, key)
        shape = getattr(owner, key, whole).shape
        part = whole
        if owner is not None and shape != whole.shape:
            part = _kept_entries(whole, shape, parts.get((name, key)), words_prefix, name)
        # Elsewhere a difference in shape is no slice, but a network that was altered.
        if owner is None or shape != part.shape:
            raise SliceError(f"{name}.{key}: {tuple(whole.shape)} has no place in a stock {type(small).__name__}.")
        yield _Slice(owner, key, whole, part)
    if owners:
        missing = ".".join(next(iter(owners)))
        raise SliceError(f"{missing}: the network has no such weight.")


def _kept_entries(
    whole: torch.Tensor, shape: torch.Size, narrowing: _Narrowing | None, words_prefix: str | None, name: str
) -> torch.Tensor:
    """Return the part of a tensor that a sub-network keeps: of a layer's parts, or of a factorised embedding."""
    if narrowing is not None:
        return narrowing.part.first(whole, narrowing.units)
    part = whole
    if words_prefix is not None and name.startswith(words_prefix):
        for dim, length in enumerate(shape):
            if length != whole.shape[dim]:
                part = part.narrow(dim, 0, length)
    return part


class _Narrowing(NamedTuple):
    """A tensor that gets narrower, and the number of units that it keeps."""

    part: Part
    units: int


def _parts_by_name(net: nn.Module, chosen: Sequence[Kept]) -> dict[tuple[str, str], _Narrowing]:
    """Return the tensors that get narrower, by module name and tensor name in the network."""
    family = family_of(net)
    layers = layers_of(net)
    prefix = _path(net, family.layers)
    narrowings = {}
    for kept in chosen:
        layer = layers[kept.position]
        units = units_of(family, layer, kept.heads, kept.ffn)
        for part in slices_of(family, layer):
            narrowings[f"{prefix}.{kept.position}.{part.path}", part.name] = _Narrowing(part, units[part.unit])
    return narrowings


class _Renaming(NamedTuple):
    """The names that the modules and tensors of a network have in a sub-network.

    Attributes:
        prefix: what the names of all layers start with.
        numbers: position of a layer in the network → its position in the sub-network, as text.
    """

    prefix: str
    numbers: Mapping[str, str]

    @classmethod
    def of(cls, net: nn.Module, chosen: Sequence[Kept]) -> _Renaming:
        """Return the renaming for a sub-network with the chosen layers."""
        numbers = {str(kept.position): str(number) for number, kept in enumerate(chosen)}
        return cls(_path(net, family_of(net).layers) + ".", numbers)

    def name_in_small(self, name: str) -> str | None:
        """Return the name in the sub-network, ``None`` if the layer is dropped."""
        if not name.startswith(self.prefix):
            return name
        position, _, rest = name.removeprefix(self.prefix).partition(".")
        if position not in self.numbers:
            return None
        return f"{self.prefix}{self.numbers[position]}.{rest}"
