"""The files of one exported model: weights, configuration, modelling file, tokenizer, ``arch.json`` and card."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe import registry
from nasframe.records import Arch
from nasframe.report.format import of_run, titled, told

if TYPE_CHECKING:
    import torch
    from torch import nn

Mode = Literal["stock", "padded", "hetero"]
FORMAT_VERSION = 1
MODELING = "modeling_nasframe.py"
SIZES = {"layer_heads": "heads", "layer_ffn": "ffn"}
RECORD = ("head_size", "embedding_rank", "factorized", "kept_layers")


def write_files(
    target: Path, model: nn.Module, tokenizer: Any, mode: Mode, card: Mapping[str, Any], arch: Arch | None
) -> None:
    """Write all files of a model but its export report into a new directory ``target``; see ``export.write``."""
    from safetensors.torch import save_file

    from nasframe.nn.blueprint import blueprint
    from nasframe.nn.custom import Described
    from nasframe.nn.elastic import stock_class

    target.mkdir(parents=True)
    sizes = blueprint(model)
    content = {"format_version": FORMAT_VERSION, "arch": dict(arch) if arch is not None else None, "blueprint": sizes}
    write_json(target / "arch.json", content)
    if isinstance(model, Described):
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, target / "model.safetensors")
        return
    stock = stock_class(model)
    config, state = _content(model, mode, arch)
    save_file(state, str(target / "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(target)
    if mode == "hetero":
        (target / MODELING).write_text(modeling_source(stock), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(target))
    counts = {"stored": sum(t.numel() for t in state.values()), "own": sum(p.numel() for p in model.parameters())}
    text = card_text(target.name, mode, sizes, counts, card, registry.model_facts(model))
    (target / "README.md").write_text(text, encoding="utf-8")


def read_net(directory: Path) -> nn.Module:
    """Load the network that ``nasframe.export.write.write`` wrote, as what it was: a stock class, of its own sizes.

    Args:
        directory: a model directory with ``arch.json``, in mode ``stock`` or ``hetero``.

    Returns:
        The network, in eval mode on the CPU.
    """
    from safetensors.torch import load_file

    from nasframe.nn.blueprint import load

    sizes = json.loads((directory / "arch.json").read_text(encoding="utf-8"))["blueprint"]
    if "sizes" in sizes:  # of a kind of its own
        return load({}, sizes, load_file(directory / "model.safetensors"))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    own = {*SIZES, *RECORD, "auto_map", "architectures", "transformers_version"}
    config = {key: value for key, value in config.items() if key not in own} | {"model_type": sizes["family"]}
    return load(config, sizes, load_file(directory / "model.safetensors"))


def stock_obstacle(model: nn.Module) -> str | None:
    """Say why a plain configuration cannot express a model's sizes, or return ``None``.

    >>> from nasframe.testing.toy import tiny_net
    >>> stock_obstacle(tiny_net()) is None
    True
    """
    from nasframe.nn.blueprint import blueprint
    from nasframe.nn.elastic import FAMILIES, base_of

    sizes = blueprint(model)
    if sizes["family"] not in FAMILIES:
        return f"{sizes['family']} is no class of transformers"
    heads = getattr(base_of(model).config, FAMILIES[sizes["family"]].heads)
    for index, layer in enumerate(sizes["layers"]):
        if layer["heads"] != heads:
            return f"layer {index} has {layer['heads']} heads where hidden size / head size is {heads}"
        if layer["ffn"] != sizes["layers"][0]["ffn"] or not layer["ffn"]:
            return f"layer {index} has {layer['ffn']} neurons, layer 0 has {sizes['layers'][0]['ffn']}"
    for name, rank in sizes.get("factorized", {}).items():
        return f"{name} is a product of rank {rank}"
    return f"its embedding is a product of rank {sizes['embedding_rank']}" if sizes["embedding_rank"] else None


def auto_class(stock: type) -> str:
    """Name the auto class that loads a stock class.

    >>> from transformers import BertForSequenceClassification, BertModel
    >>> auto_class(BertForSequenceClassification), auto_class(BertModel)
    ('AutoModelForSequenceClassification', 'AutoModel')
    """
    head = stock.__name__.partition("For")[2]
    return f"AutoModelFor{head}" if head else "AutoModel"


def modeling_source(stock: type) -> str:
    """Return the modelling file for a stock class: our elastic layers, then the two classes derived from it."""
    from nasframe import hf
    from nasframe.nn import elastic

    config, model = (cls.__name__ for cls in hf.classes(stock))
    lines = [
        f"from transformers import {stock.__name__}  # noqa: E402",
        f"{config}, {model} = classes({stock.__name__})",
    ]
    base = base_class(stock)
    if base is not stock:
        lines[0] = f"from transformers import {base.__name__}, {stock.__name__}  # noqa: E402"
        lines.append(f"_, Nasframe{base.__name__} = classes({base.__name__}, {config})")
    return "\n\n".join([inspect.getsource(elastic), inspect.getsource(hf.classes), "\n".join(lines) + "\n"])


def base_class(stock: type) -> Any:
    """Return the class of transformers that is a stock class without its head.

    >>> from transformers import BertForSequenceClassification
    >>> base_class(BertForSequenceClassification).__name__
    'BertModel'
    """
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[stock.config_class]  # type: ignore[attr-defined]


def card_text(
    name: str,
    mode: Mode,
    sizes: Mapping[str, Any],
    counts: Mapping[str, int],
    card: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Write a model card.

    Args:
        name: the model's.
        mode: how it was exported.
        sizes: its blueprint.
        counts: ``stored`` and ``own`` parameters.
        card: ``model`` (where the weights come from), ``task``, ``metrics`` (name → value), ``data``; all optional.
        facts: what plugins say about the network; text and numbers are written.
    """
    import yaml
    from jinja2 import Environment, PackageLoader

    head: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["nasframe", "neural-architecture-search", "compression", sizes["family"]],
    }
    if "ForSequenceClassification" in sizes["model"]:
        head["pipeline_tag"] = "text-classification"
    formats = {"formats": told(card.get("data") or {})}
    if card.get("metrics"):
        head["metrics"] = sorted(name for name in card["metrics"] if of_run(formats, name).higher_is_better)
    measured = {titled(name, of_run(formats, name)): value for name, value in (card.get("metrics") or {}).items()}
    environment = Environment(loader=PackageLoader("nasframe"), trim_blocks=True, lstrip_blocks=True, autoescape=False)
    auto = "AutoModel" + "".join(sizes["model"].partition("For")[1:])
    return environment.get_template("card.md").render(
        head=yaml.safe_dump(head, sort_keys=False), name=name, mode=mode, sizes=sizes, counts=counts, card=card,
        measured=measured, facts=facts or {},
        auto=auto, flag=", trust_remote_code=True" if mode == "hetero" else "",
    )  # fmt: skip


def _content(model: Any, mode: Mode, arch: Arch | None) -> tuple[Any, dict[str, torch.Tensor]]:
    """Make the configuration and the tensors that a mode writes."""
    from nasframe import hf
    from nasframe.nn.blueprint import blueprint, small_config
    from nasframe.nn.elastic import stock_class

    sizes, stock = blueprint(model), stock_class(model)
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    found = small_config(model.config, sizes).to_dict()
    for key in ("model_type", "_name_or_path", "transformers_version", "auto_map", "architectures"):
        found.pop(key, None)
    layer_sizes = {key: [layer[unit] for layer in sizes["layers"]] for key, unit in SIZES.items()}
    if mode == "hetero":
        config_class, model_class = hf.classes(stock)
        kept = (arch or {}).get("layers", list(range(len(sizes["layers"]))))
        record = {key: sizes[key] for key in RECORD if key in sizes} | {"kept_layers": list(kept)}
        config = config_class.from_dict(found | layer_sizes | record)  # type: ignore[attr-defined]
        base_name = f"Nasframe{base_class(stock).__name__}"
        auto = {
            "AutoConfig": config_class.__name__,
            "AutoModel": base_name,
            auto_class(stock): model_class.__name__,
        }
        config.auto_map = {key: f"{Path(MODELING).stem}.{name}" for key, name in auto.items()}
        config.architectures = [model_class.__name__]
        return config, state
    config = stock.config_class.from_dict({key: value for key, value in found.items() if key not in SIZES})
    config.architectures = [stock.__name__]
    if mode == "padded":
        state = _padded(model, state, config)
        _keep_recorded(model, state, config)
        config.nasframe = {"mode": "padded", **layer_sizes, "note": "zero-filled: not smaller than the sizes above say"}
    return config, state


def _keep_recorded(model: Any, state: Mapping[str, torch.Tensor], config: Any) -> None:
    """Drop from a configuration's record of bits the matrices that are no longer there by themselves."""
    from nasframe.nn.formats import saved_name

    if record := vars(config).pop("quantised", None):
        config.quantised = {name: entry for name, entry in record.items() if saved_name(model, name) in state}


def _padded(model: Any, state: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Multiply products out, and fill every layer up with zeros to the configuration's sizes."""
    from torch.nn.functional import pad

    from nasframe.nn.blueprint import blueprint
    from nasframe.nn.elastic import WORD_EMBEDDINGS, base_of, family_of

    family, base = family_of(model), base_of(model)
    start = "" if base is model else f"{model.base_model_prefix}."
    for name in blueprint(model).get("factorized", {}):
        path = f"{start}{family.layers}.{name}"
        state[f"{path}.weight"] = state.pop(f"{path}.expand.weight") @ state.pop(f"{path}.reduce.weight")
        if f"{path}.expand.bias" in state:
            state[f"{path}.bias"] = state.pop(f"{path}.expand.bias")
    length = {"heads": config.hidden_size, "ffn": getattr(config, family.ffn)}
    for index in range(getattr(config, family.depth)):
        for path, name, dim, unit in family.slices:
            key = f"{start}{family.layers}.{index}.{path}.{name}"
            if key in state:
                missing = length[unit] - state[key].shape[dim]
                state[key] = pad(state[key], (0, missing) if dim == state[key].ndim - 1 else (0, 0, 0, missing))
    words = f"{start}{WORD_EMBEDDINGS}"
    if f"{words}.table.weight" in state:
        table, project = state.pop(f"{words}.table.weight"), state.pop(f"{words}.project.weight")
        state[f"{words}.weight"] = table @ project.T
    return state


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
