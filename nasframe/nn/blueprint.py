"""A network's sizes as plain data, and the one builder that turns them into a network again.

A configuration has one number of heads and neurons for all layers; a blueprint has them layer by layer. Files, copies
and exports of compressed networks are all made from it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.initialization import no_init_weights

from nasframe.errors import RunError, listing
from nasframe.nn.custom import Described, described, rebuilt
from nasframe.nn.elastic import (
    FactorizedEmbedding,
    FactorizedLinear,
    FamilyRow,
    base_of,
    family_name,
    family_of,
    head_order,
    layer_sizes,
    layers_of,
    resize,
    row_of,
    stock_class,
    words_of,
)
from nasframe.nn.rows import rows


def blueprint(net: nn.Module) -> dict[str, Any]:
    """Return a network's sizes, read from its modules.

    Args:
        net: a model of one of the families in ``FAMILIES``, with or without a head, of any sizes per layer; a network
            of another kind describes its sizes itself (``nasframe.nn.custom``).

    Returns:
        A JSON-plain mapping: ``family``, ``model`` (class name in transformers), ``layers`` (``{"heads", "ffn"}``
        each), ``head_size``, ``embedding_rank`` (``None``: a plain embedding); if there are any, ``group`` (how many
        query heads share one head of keys and values), ``head_order`` (``"layer.heads"`` → the columns of a table of
        heads that all layers share, in the order of the layer's heads), ``factorized``
        (``"layer.map"`` → rank of each linear map that is a product of two) and ``quantised`` (matrix →
        ``{"bits", "n", "m"}``, see ``nasframe.nn.formats``).

    >>> from nasframe.testing.toy import tiny_net
    >>> blueprint(tiny_net(layers=1))["layers"]
    [{'heads': 4, 'ffn': 64}]
    """
    if isinstance(net, Described):
        return described(net)
    name = family_name(net)
    family = family_of(net)
    # From the modules and not from the configuration, which does not know of layers that differ.
    layers = [layer_sizes(family, layer) for layer in layers_of(net)]
    base = base_of(net)
    uniform = family.sizes(base.config)
    words = words_of(net)
    sizes = {
        "family": name,
        "model": stock_class(net).__name__,
        "layers": layers,
        "head_size": uniform.head_size,
        "embedding_rank": words.rank if isinstance(words, FactorizedEmbedding) else None,
    }
    if uniform.group > 1:
        sizes["group"] = uniform.group
    orders = {}
    for i, layer in enumerate(layers_of(net)):
        order = head_order(family, layer)
        if order is not None:
            orders[f"{i}.heads"] = order
    if orders:
        sizes["head_order"] = orders
    products = {}
    for path, module in layers_of(net).named_modules():
        if isinstance(module, FactorizedLinear):
            products[path] = module.rank
    if products:
        sizes["factorized"] = products
    record = getattr(base.config, "quantised", None)
    if record:
        sizes["quantised"] = copy.deepcopy(record)
    return sizes


def kept_maps(named: Mapping[str, Any], positions: Sequence[int]) -> dict[str, Any]:
    """Return the entries of some layers of a network, with names ``"layer.map"`` by the layers' new positions.

    Entries outside the layers keep their names.

    >>> kept_maps({"0.output.dense": 8, "2.output.dense": 4, "embeddings.word_embeddings": 2}, [2])
    {'0.output.dense': 4, 'embeddings.word_embeddings': 2}
    """
    new_positions = {str(position): str(number) for number, position in enumerate(positions)}
    kept = {}
    for name, value in named.items():
        layer, _, path = name.partition(".")
        if layer in new_positions:
            kept[f"{new_positions[layer]}.{path}"] = value
        elif not layer.isdigit():
            kept[name] = value
    return kept


def small_config(config: PreTrainedConfig, sizes: dict[str, Any]) -> PreTrainedConfig:
    """Return a copy of a configuration with a blueprint's depth, largest FFN width and record of formats.

    The number of heads stays the full network's, because transformers computes the size of a head from it. Of the
    fields that list an entry for each layer, the first entries stay; see :func:`config_of_layers` for other layers.
    """
    family = _row(sizes["family"])
    config = config_of_layers(config, sizes["family"], range(len(sizes["layers"])))
    widest = max((layer["ffn"] for layer in sizes["layers"]), default=0)
    if widest:  # if no layer has neurons, the field keeps its value
        setattr(config, family.ffn, widest)
    config.__dict__.pop("quantised", None)
    record = sizes.get("quantised")
    if record:
        config.quantised = copy.deepcopy(record)
    return config


def config_of_layers(config: PreTrainedConfig, family: str, positions: Sequence[int]) -> PreTrainedConfig:
    """Return a copy of a configuration for some of a network's layers.

    Args:
        config: the network's configuration.
        family: its row in ``FAMILIES``.
        positions: the layers that stay, ascending.

    >>> from transformers import Qwen2Config
    >>> config = Qwen2Config(num_hidden_layers=3, use_sliding_window=True, max_window_layers=1)
    >>> config_of_layers(config, "qwen2", [0, 2]).layer_types
    ['full_attention', 'sliding_attention']
    """
    kept = copy.deepcopy(config)
    for name, value in fields_of_layers(config, _row(family), positions).items():
        setattr(kept, name, value)
    return kept


def fields_of_layers(config: PreTrainedConfig, family: FamilyRow, positions: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a configuration that depend on which of its layers stay, as they are for these layers.

    >>> from nasframe.nn.elastic import FAMILIES
    >>> from transformers import BertConfig
    >>> fields_of_layers(BertConfig(), FAMILIES["bert"], [0, 2])
    {'num_hidden_layers': 2}
    """
    fields: dict[str, Any] = {}
    for name in family.per_layer:
        entries = getattr(config, name, None)
        if entries is not None:
            fields[name] = [entries[position] for position in positions]
    fields[family.depth] = len(positions)
    return fields


def build(config: PreTrainedConfig, blueprint: dict[str, Any], device: str | torch.device = "meta") -> nn.Module:
    """Return a network of a blueprint's sizes, with fresh weights or, on ``meta``, with none.

    Args:
        config: the full network's configuration, or the small one's own; it is copied.
        blueprint: the sizes, from :func:`blueprint`.
        device: the network's device; ``meta`` allocates nothing and draws no random numbers.

    Returns:
        The network in eval mode; ``blueprint`` of it equals the one given.

    Raises:
        ValueError: head sizes disagree.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net(layers=2)
    >>> sizes = blueprint(net) | {"layers": [{"heads": 3, "ffn": 17}]}
    >>> build(net.config, sizes).bert.encoder.layer[0].intermediate.dense
    Linear(in_features=32, out_features=17, bias=True)
    """
    head_size = _row(blueprint["family"]).sizes(config).head_size
    if blueprint["head_size"] != head_size:
        raise ValueError(f"head_size: {blueprint['head_size']} is not the configuration's. Expected {head_size}.")
    cls = getattr(transformers, blueprint["model"])
    # All layers are made at the configuration's one size, then each is resized to its own.
    with torch.device(device):
        net = cls(small_config(config, blueprint))
        return resize(net, blueprint).eval()


def _row(model_type: str) -> FamilyRow:
    """Return the row of a blueprint's family."""
    row = row_of(model_type)
    if row is None:
        raise RunError(f"{model_type}: no family that can be sliced has this name. Expected {listing(rows())}.")
    return row


def without_weights(config: PreTrainedConfig) -> nn.Module:
    """Return the network of a configuration without head and values, to count and to compare shapes.

    >>> from transformers import BertConfig
    >>> without_weights(BertConfig()).encoder.layer[0].output.dense.weight.device
    device(type='meta')
    """
    with torch.device("meta"):
        return AutoModel.from_config(copy.deepcopy(config)).eval()


def load(config: dict[str, Any], blueprint: dict[str, Any], state: dict[str, torch.Tensor]) -> nn.Module:
    """Return a network built from plain data, with its weights.

    Args:
        config: the configuration as ``config.to_dict()`` gave it.
        blueprint: the sizes, from :func:`blueprint`.
        state: the ``state_dict``.

    Returns:
        The network, in eval mode on the CPU.

    >>> from nasframe.testing.toy import tiny_inputs, tiny_net
    >>> net = tiny_net()
    >>> again = load(net.config.to_dict(), blueprint(net), net.state_dict())
    >>> torch.equal(net(**tiny_inputs()).logits, again(**tiny_inputs()).logits)
    True
    """
    if "sizes" in blueprint:  # a class of the user's own, which builds itself
        return rebuilt(blueprint, state)
    net = fresh(config, blueprint)
    net.load_state_dict(state)
    return net


def fresh(config: dict[str, Any], blueprint: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Return a network built from plain data, whose weights have any values; tied ones are tied.

    Args:
        config: the configuration as ``config.to_dict()`` gave it.
        blueprint: the sizes, from :func:`blueprint`.
        device: the network's device.
    """
    # To draw fresh ones would take longer than to read others; a few are drawn by constructors all the same.
    with no_init_weights(), torch.random.fork_rng(devices=[]):
        net: Any = build(config_from(config), blueprint, device)
    net.tie_weights()  # no_init_weights skips it, too
    return net


def config_from(fields: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration that ``to_dict`` returned the fields of."""
    settings = {key: value for key, value in fields.items() if key != "model_type"}
    return AutoConfig.for_model(fields["model_type"], **settings)


def whole_class(net: nn.Module) -> Any:
    """Return the class of transformers that a network is an instance of, ``None`` if it is of none.

    >>> from nasframe.testing.toy import tiny_net
    >>> whole_class(tiny_net()).__name__, whole_class(nn.Linear(2, 2))
    ('BertForSequenceClassification', None)
    """
    for cls in type(net).__mro__:
        is_public = getattr(transformers, cls.__name__, None) is cls
        if is_public and cls.__module__.startswith("transformers.models."):
            return cls
    return None


def fresh_whole(class_name: str, config: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Return a network of transformers as its configuration has it, whose weights have any values.

    Args:
        class_name: a class of transformers.
        config: the configuration as ``config.to_dict()`` gave it.
        device: the network's device.

    Raises:
        RunError: this version of transformers has no such class.
    """
    cls = getattr(transformers, class_name, None)
    if cls is None:
        raise RunError(f"transformers {transformers.__version__} has no {class_name}. Expected a version that has it.")
    with no_init_weights(), torch.random.fork_rng(devices=[]), torch.device(device):
        net = cls(config_from(config))
    net.tie_weights()
    return net.eval()
