"""Sub-networks as slice maps over a network's own parameters: run them in place, copy them out, write them back.

A sub-network keeps some layers and, in each, the first heads and the first neurons; of a factorised word embedding it
may keep the first columns of both factors. Its view is the network itself
with other entries in its list of layers: a full-size layer is the very same module, a narrowed one is a twin that
shares every module it does not narrow and holds slices of the parameters it does.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from nasframe.errors import UsageError
from nasframe.nn.blueprint import blueprint, build, kept_maps
from nasframe.nn.elastic import WORD_EMBEDDINGS, base_of, family_of, layers_of
from nasframe.nn.twins import Narrowed, followers, narrowed, narrowed_words, replaced
from nasframe.types import Forward


class SliceError(UsageError):
    """A sub-network that the network does not contain, or a network that cannot be sliced as it stands."""


RANK = "embedding_rank"


class Kept(NamedTuple):
    """One layer of a sub-network: which layer of the network it is, and how many of its heads and neurons it has."""

    position: int
    heads: int
    ffn: int


def kept_layers(net: nn.Module, sizes: Mapping[str, Any]) -> list[Kept]:
    """Read the sizes of a sub-network and check them against a network's own.

    Args:
        net: the network.
        sizes: ``layers`` (kept positions, ascending; default all), ``heads.i`` and ``ffn.i`` (counts in layer ``i``;
            default all). ``heads`` and ``ffn`` may be mappings from ``i`` instead. ``embedding_rank`` is for
            :func:`kept_rank`.

    Returns:
        One entry for each kept layer, in order.

    Raises:
        SliceError: an unknown key, a layer twice or out of order, or a size beyond the network's.

    >>> from nasframe.testing.toy import tiny_net
    >>> kept_layers(tiny_net(), {"layers": [0, 2], "heads.2": 3})
    [Kept(position=0, heads=4, ffn=64), Kept(position=2, heads=3, ffn=64)]
    """
    return kept_of(blueprint(net)["layers"], sizes)


def kept_of(full: Sequence[Mapping[str, int]], sizes: Mapping[str, Any]) -> list[Kept]:
    """Do what :func:`kept_layers` does, for a network of which the layers' sizes are known."""
    flat = dict(_flat(sizes))
    flat.pop(RANK, None)
    known = {"layers", *(f"{unit}.{i}" for i in range(len(full)) for unit in ("heads", "ffn"))}
    for key in flat:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SliceError(f"{key}: not a size of a network with {len(full)} layers.{hint}")
    positions = flat.get("layers", range(len(full)))
    if list(positions) != sorted(set(positions) & set(range(len(full)))):
        raise SliceError(f"layers: {positions} cannot be kept. Expected some of 0 … {len(full) - 1}, ascending.")
    for i in positions:
        for unit, most in full[i].items():
            if not (isinstance(n := flat.get(f"{unit}.{i}", most), int) and 0 <= n <= most):
                raise SliceError(f"{unit}.{i}: {n!r} is not in the network. Expected 0 … {most}.")
    return [Kept(i, *(flat.get(f"{unit}.{i}", full[i][unit]) for unit in ("heads", "ffn"))) for i in positions]


def kept_rank(most: int | None, sizes: Mapping[str, Any]) -> int | None:
    """Read how many columns of the word embedding's factors a sub-network keeps; ``None``: there are no factors.

    Args:
        most: the network's own embedding rank.
        sizes: ``embedding_rank`` is read; default all.

    Raises:
        SliceError: the network does not have so many.

    >>> kept_rank(16, {"embedding_rank": 4}), kept_rank(16, {}), kept_rank(None, {})
    (4, 16, None)
    """
    rank = sizes.get(RANK, most)
    if rank == most:
        return most
    if most is None:
        raise SliceError(
            f"{RANK}: {rank} of an embedding that is one matrix. Expected a factorised one (transform svd)."
        )
    if not (isinstance(rank, int) and 1 <= rank <= most):
        raise SliceError(f"{RANK}: {rank!r} is not in the network. Expected 1 … {most}.")
    return rank


def view(net: nn.Module, sizes: Mapping[str, Any], autograd: bool = False) -> Forward:
    """Return a sub-network as a function that shares the network's weights and changes nothing.

    The function follows the network's mode (train, eval), its hooks, dropout rates and parametrisations. Weights may
    change between calls; where modules are replaced or parametrised, ask for a new view.

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
        SliceError: sizes that the network does not have, or gradient checkpointing is on.

    >>> from nasframe.testing.toy import tiny_inputs, tiny_net
    >>> net = tiny_net()
    >>> view(net, {"layers": [0, 1], "heads.0": 3, "ffn.1": 17})(**tiny_inputs()).logits.shape
    torch.Size([3, 2])
    """
    modules = list(net.modules())
    if any(getattr(module, "gradient_checkpointing", False) for module in modules):
        raise SliceError(
            "gradient checkpointing: it runs a layer again during backward, when the layer may hold another "
            "sub-network's slices. Switch it off first."
        )
    twins = _TWINS.get(net)
    if twins is None or twins.made_from != [id(module) for module in modules]:
        maybe_install_capturing_hooks(base_of(net))  # before copies are made, so that each has the hooks once
        twins = _TWINS[net] = _Twins(net, modules)
    narrow = [twins.layer(kept) for kept in kept_of(twins.sizes, sizes)]
    family, base = family_of(net), base_of(net)
    path = _path(net, family.layers)
    shell = replaced(net, path, layers_of(net))
    slices = [part for entry in narrow for part in entry.slices]
    if (words := twins.words(kept_rank(twins.rank, sizes))) is not None:
        shell = replaced(shell, _path(net, WORD_EMBEDDINGS), words.layer)
        slices += words.slices
    follow = [*followers(net, shell), *(pair for entry in narrow for pair in entry.followers)]
    shell.set_submodule(path, nn.ModuleList([entry.layer for entry in narrow]))
    config = base_of(shell).config = shell.config = copy.copy(base.config)

    def forward(*args: Any, **kwargs: Any) -> Any:
        config.__dict__.update(base.config.__dict__)
        setattr(config, family.depth, len(narrow))
        for source, twin in follow:
            twin["training"] = source["training"]
        for part in slices:
            part.bind(autograd)
        return shell(*args, **kwargs)

    return forward


def extract(net: nn.Module, sizes: Mapping[str, Any]) -> nn.Module:
    """Copy a sub-network out into a stand-alone model of transformers' own class.

    Its configuration says how many layers it has; what a configuration cannot say, ``blueprint`` of it does. It can
    be viewed and extracted from again.

    Args:
        net: the network; parametrised tensors are copied as they act.
        sizes: see :func:`kept_layers`.

    Returns:
        A model in the network's mode whose outputs equal the view's.

    Raises:
        SliceError: sizes that the network does not have, or weights that its stock class has no place for.

    >>> from nasframe.nn.blueprint import blueprint
    >>> from nasframe.testing.toy import tiny_net
    >>> blueprint(extract(tiny_net(), {"layers": [1], "heads.1": 3, "ffn.1": 0}))["layers"]
    [{'heads': 3, 'ffn': 0}]
    """
    full = blueprint(net)
    chosen = kept_of(full["layers"], sizes)
    wanted = full | {"layers": _sizes(chosen), RANK: kept_rank(full[RANK], sizes)}
    for key in ("factorized", "quantised"):
        if key in full:
            wanted[key] = kept_maps(full[key], [kept.position for kept in chosen])
    small = build(base_of(net).config, wanted)
    copies: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for owner, key, source, part in _slices(net, chosen, small):
        if part is not source or id(source) not in copies:
            copies[id(source)] = nn.Parameter(part.detach().clone(), requires_grad=source.requires_grad)
        owner._parameters[key] = copies[id(source)]
    for name, buffer in base_of(net).named_buffers():
        if "parametrizations" not in name:
            owner, _, key = name.rpartition(".")
            base_of(small).get_submodule(owner)._buffers[key] = buffer.clone()
    return small.train(net.training)


def insert(net: nn.Module, sizes: Mapping[str, Any], model: nn.Module) -> None:
    """Write a stand-alone sub-network back over the slices it was extracted from: the map read backwards.

    Args:
        net: the network, changed in place.
        sizes: where the model goes, see :func:`kept_layers`.
        model: a network of these sizes.

    Raises:
        SliceError: the model has other sizes, or a tensor of the network is parametrised.
    """
    full, given = blueprint(net), blueprint(model)
    chosen = kept_of(full["layers"], sizes)
    if given["layers"] != _sizes(chosen) or given[RANK] != kept_rank(full[RANK], sizes):
        raise SliceError("the model's layers, or its embedding's rank, are not of the sizes given.")
    with torch.no_grad():
        for owner, key, target, part in _slices(net, chosen, model):
            if not isinstance(target, nn.Parameter):
                raise SliceError(f"{key} of a {type(owner).__name__}: a parametrised tensor cannot be written to.")
            part.copy_(getattr(owner, key))


class _Twins:
    """The narrowed layers of one network, by (position, heads, neurons): one module never sits at two positions."""

    most = 4096  # bounds the memory of a search over any sizes

    def __init__(self, net: nn.Module, modules: list[nn.Module]) -> None:
        self.made_from = [id(module) for module in modules]
        self.alive = modules[1:]  # keeps the ids in use; not the network, whose end must be the end of this cache
        self.family, self.own = family_of(net), list(layers_of(net))
        full = blueprint(net)
        self.sizes, self.rank = full["layers"], full[RANK]
        self.full = [Kept(i, **sizes) for i, sizes in enumerate(self.sizes)]
        self.table = base_of(net).get_submodule(WORD_EMBEDDINGS)
        self.made: dict[Kept, Narrowed] = {}
        self.ranks: dict[int, Narrowed] = {}

    def layer(self, kept: Kept) -> Narrowed:
        own = self.own[kept.position]
        if kept == self.full[kept.position]:
            return Narrowed(own, [], [])
        if kept not in self.made:
            if len(self.made) >= self.most:
                self.made.clear()
            self.made[kept] = narrowed(self.family, own, kept.heads, kept.ffn)
        return self.made[kept]

    def words(self, rank: int | None) -> Narrowed | None:
        """Return the word embedding of a lower rank, or ``None`` where the network's own will do."""
        if rank is None or rank == self.rank:
            return None
        if rank not in self.ranks:
            self.ranks[rank] = narrowed_words(self.table, rank)
        return self.ranks[rank]


_TWINS: WeakKeyDictionary[nn.Module, _Twins] = WeakKeyDictionary()


def _flat(sizes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in sizes.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{i}", count) for i, count in value.items())
        else:
            yield key, value


def _path(net: nn.Module, path: str) -> str:
    """Return where a module of the base model is, from the whole network."""
    return path if base_of(net) is net else f"{net.base_model_prefix}.{path}"


def _sizes(chosen: Sequence[Kept]) -> list[dict[str, int]]:
    return [{"heads": kept.heads, "ffn": kept.ffn} for kept in chosen]


def weights(net: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (module name, module, tensor name) of each weight, parametrised ones under the name they act by."""
    for name, module in net.named_modules():
        if "parametrizations" not in name:
            hidden = module.parametrizations if is_parametrized(module) else ()  # type: ignore[union-attr]
            for key in [*module._parameters, *hidden]:  # type: ignore[union-attr]
                if getattr(module, key) is not None:
                    yield name, module, key


def _slices(
    net: nn.Module, chosen: list[Kept], small: nn.Module
) -> Iterator[tuple[nn.Module, str, torch.Tensor, torch.Tensor]]:
    """Walk the slice map: (owner in ``small``, tensor name, the network's tensor, the part of it that is kept)."""
    prefix, words = (_path(net, path) + "." for path in (family_of(net).layers, WORD_EMBEDDINGS))
    owners = {(name, key): owner for name, owner, key in weights(small)}
    at = {str(kept.position): str(j) for j, kept in enumerate(chosen)}
    for name, module, key in weights(net):
        there = name
        if name.startswith(prefix):
            position, _, rest = name.removeprefix(prefix).partition(".")
            if position not in at:
                continue
            there = f"{prefix}{at[position]}.{rest}"
        owner = owners.pop((there, key), None)
        whole = part = getattr(module, key)
        shape = getattr(owner, key, whole).shape
        if owner is None or (shape != whole.shape and not name.startswith((prefix, words))):
            raise SliceError(f"{name}.{key}: {tuple(whole.shape)} has no place in a stock {type(small).__name__}.")
        for dim, length in enumerate(shape):
            if length != whole.shape[dim]:
                part = part.narrow(dim, 0, length)
        yield owner, key, whole, part
    if owners:
        raise SliceError(f"{'.'.join(next(iter(owners)))}: the network has no such weight.")
