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
from nasframe.nn.blueprint import blueprint, build, kept_maps
from nasframe.nn.elastic import WORD_EMBEDDINGS, base_of, family_of, layers_of
from nasframe.nn.shared_layers import Narrowed, Slice, followers, narrowed, narrowed_words, replaced
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
    return kept_of(blueprint(net)["layers"], sizes)


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
        net: a BERT, RoBERTa, ELECTRA or DistilBERT model.
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
    narrowed_layers = [cache.layer(kept) for kept in kept_of(cache.sizes, sizes)]

    # The shell is the network with other entries in its list of layers; everything else in it is shared.
    path = _path(net, family.layers)
    shell = replaced(net, path, layers_of(net))
    slices: list[Slice] = []
    words = cache.words(kept_rank(cache.rank, sizes))
    if words is not None:
        shell = replaced(shell, _path(net, WORD_EMBEDDINGS), words.layer)
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

    def forward(*args: Any, **kwargs: Any) -> Any:
        # The network may have changed since the view was made, so all that is not shared is copied again.
        config.__dict__.update(base.config.__dict__)
        setattr(config, family.depth, len(narrowed_layers))
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
    chosen = kept_of(full["layers"], sizes)
    wanted = full | {"layers": _layer_sizes(chosen), RANK: kept_rank(full[RANK], sizes)}
    positions = [kept.position for kept in chosen]
    for key in ("factorized", "quantised"):  # both name maps by layer, and layers get new positions
        if key in full:
            wanted[key] = kept_maps(full[key], positions)
    small = build(base_of(net).config, wanted)

    copies: dict[int, nn.Parameter] = {}  # by the source's id, so that tied weights stay tied
    for entry in _slice_map(net, chosen, small):
        is_slice = entry.part is not entry.whole
        if is_slice or id(entry.whole) not in copies:
            values = entry.part.detach().clone()
            copies[id(entry.whole)] = nn.Parameter(values, requires_grad=entry.whole.requires_grad)
        entry.owner._parameters[entry.key] = copies[id(entry.whole)]
    # Buffers are whole in every sub-network. Parametrisations have theirs, too, but tensors were copied as they act.
    for name, buffer in base_of(net).named_buffers():
        if "parametrizations" not in name:
            owner, _, key = name.rpartition(".")
            base_of(small).get_submodule(owner)._buffers[key] = buffer.clone()
    return small.train(net.training)


class _LayerCache:
    """The narrowed layers of one network, by (position, heads, neurons).

    The position is part of the key because one module must never sit at two positions.
    """

    most = 4096  # entries; a search over any sizes would fill the memory otherwise

    def __init__(self, net: nn.Module, modules: list[nn.Module]) -> None:
        self.made_from = list(map(id, modules))
        # Keeps the ids in use. The network itself is left out: this cache must end with it.
        self.alive = modules[1:]
        self.family = family_of(net)
        self.own_layers = list(layers_of(net))
        full = blueprint(net)
        self.sizes = full["layers"]
        self.rank = full[RANK]
        self.full = [Kept(position, **sizes) for position, sizes in enumerate(self.sizes)]
        self.table = base_of(net).get_submodule(WORD_EMBEDDINGS)
        self.narrowed: dict[Kept, Narrowed] = {}
        self.ranks: dict[int, Narrowed] = {}

    def layer(self, kept: Kept) -> Narrowed:
        """Return a layer at its size: the network's own layer at full size."""
        own = self.own_layers[kept.position]
        if kept == self.full[kept.position]:
            return Narrowed(own, [], [])
        if kept not in self.narrowed:
            if len(self.narrowed) >= self.most:
                self.narrowed.clear()  # views that are in use keep their own layers
            self.narrowed[kept] = narrowed(self.family, own, kept.heads, kept.ffn)
        return self.narrowed[kept]

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
    layers_prefix = _path(net, family_of(net).layers) + "."
    words_prefix = _path(net, WORD_EMBEDDINGS) + "."
    owners = {(name, key): owner for name, owner, key in weights(small)}
    new_positions = {}
    for number, kept in enumerate(chosen):
        new_positions[str(kept.position)] = str(number)  # as text, because they are parts of names
    for name, module, key in weights(net):
        small_name = name
        if name.startswith(layers_prefix):
            position, _, rest = name.removeprefix(layers_prefix).partition(".")
            if position not in new_positions:
                continue
            small_name = f"{layers_prefix}{new_positions[position]}.{rest}"
        owner = owners.pop((small_name, key), None)
        whole = getattr(module, key)
        shape = getattr(owner, key, whole).shape
        # Outside of layers and words a difference in shape is no slice, but a network that was altered.
        may_narrow = name.startswith((layers_prefix, words_prefix))
        if owner is None or (shape != whole.shape and not may_narrow):
            raise SliceError(f"{name}.{key}: {tuple(whole.shape)} has no place in a stock {type(small).__name__}.")
        part = whole
        for dim, length in enumerate(shape):
            if length != whole.shape[dim]:
                part = part.narrow(dim, 0, length)
        yield _Slice(owner, key, whole, part)
    if owners:
        missing = ".".join(next(iter(owners)))
        raise SliceError(f"{missing}: the network has no such weight.")
