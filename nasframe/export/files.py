"""The files of one exported model: weights, configuration, modelling file, tokenizer, ``arch.json`` and card."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe import families, registry
from nasframe.errors import UsageError
from nasframe.export import load_transformers
from nasframe.export.card import front_matter, origin_rows, result_rows
from nasframe.interfaces import ImageTask, Loading
from nasframe.records import Arch
from nasframe.report.tables import markdown_table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasframe.nn.custom import Described
    from nasframe.nn.elastic import Part

Mode = Literal["stock", "padded", "hetero"]
FORMAT_VERSION = 1
MODELING = "modeling_nasframe.py"
SIZES = {"layer_heads": "heads", "layer_ffn": "ffn"}
"""Field of the configuration, one number a layer → name of the size in a blueprint's layers."""
RECORD = ("head_size", "embedding_rank", "head_order", "factorized", "kept_layers")
"""Further fields of the configuration of a ``hetero`` model."""


def write_plain(target: Path, model: nn.Module) -> None:
    """Write the tensors of a network that describes itself; ``arch.json`` says how to build it."""
    from safetensors.torch import save_file

    tensors = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:  # safetensors holds no two names of one tensor
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.contiguous()
    save_file(tensors, target / "model.safetensors")


def write_described(target: Path, model: Described) -> Loading:
    """Write a network that describes itself as a Hugging Face directory with its own modelling files.

    Raises:
        UsageError: its source files need more than torch and transformers.
    """
    from safetensors.torch import save_file

    from nasframe.export import described

    sources = described.exported_sources(model)
    save_file(described.written_tensors(model), str(target / "model.safetensors"), metadata={"format": "pt"})
    write_json(target / "config.json", described.config_fields(model))
    for name, text in sources.items():
        (target / name).write_text(text, encoding="utf-8")
    remarks = "The network's own files in this directory build it with torch and transformers alone."
    return transformers_loading("AutoModel", remote=True, remarks=remarks)


def write_model(target: Path, model: nn.Module, mode: Mode, arch: Arch | None) -> Loading:
    """Write weights, configuration and, in mode ``hetero``, the modelling file of a model of transformers.

    Args:
        target: the directory, which exists.
        model: the network.
        mode: how it is written.
        arch: the architecture that it was extracted at, whose kept layers the configuration records.
    """
    from safetensors.torch import save_file

    from nasframe.nn.blueprint import whole_class
    from nasframe.nn.elastic import stock_class
    from nasframe.nn.rows import is_sliceable

    if not is_sliceable(model):  # nothing but the plain model can be meant, whatever the mode
        cls = whole_class(model)
        auto = auto_class(cls)
        config, state = _whole_content(model, cls)
        save_file(state, str(target / "model.safetensors"), metadata={"format": "pt"})
        config.save_pretrained(target)
        return transformers_loading(auto)
    config, state = _content(model, mode, arch)
    save_file(state, str(target / "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(target)
    auto = auto_class(stock_class(model))
    if mode == "hetero":
        source = modeling_source(stock_class(model))
        (target / MODELING).write_text(source, encoding="utf-8")
        return transformers_loading(auto, remote=True, base=True, remarks=OF_HETERO)
    if mode == "stock":
        return transformers_loading(auto)
    # A padded model stores more numbers than the network has.
    stored = sum(tensor.numel() for tensor in state.values())
    own = sum(parameter.numel() for parameter in model.parameters())
    return transformers_loading(auto, remarks=OF_PADDED.format(stored=stored, own=own))


OF_HETERO = """Layers have sizes of their own, which the modelling file in this directory builds with torch and
transformers alone. After `import nasframe.hf` the directory loads without `trust_remote_code`."""
OF_PADDED = """**Not smaller on disk or in memory than its configuration says:** heads and neurons that were removed are
filled up with zeros ({stored:,} parameters stored, {own:,} of the network itself), so that stock classes load it and
give the same outputs."""


def transformers_loading(auto: str, remote: bool = False, base: bool = False, remarks: str = "") -> Loading:
    """Return how transformers loads a directory.

    Args:
        auto: the auto class.
        remote: whether the directory's own code is needed.
        base: whether ``AutoModel`` has to load it too.
        remarks: for the model card.
    """
    flag = ", trust_remote_code=True" if remote else ""
    snippet = f"""from transformers import {auto}

model = {auto}.from_pretrained("path/to/this/directory"{flag})"""
    arguments = {"auto": auto, "remote": remote, "base": base}
    return Loading(Path(load_transformers.__file__), arguments, snippet, remarks)


def write_companions(
    target: Path,
    model: nn.Module,
    tokenizer: Any,
    arch: Arch | None,
    loading: Loading,
    card: Mapping[str, Any],
    name: str = "",
) -> None:
    """Write what every exported model has besides its network: tokenizer, ``arch.json`` and card.

    Args:
        target: the directory of the model.
        model: the network.
        tokenizer: its tokenizer, or ``None``.
        arch: the architecture that it was extracted at, or ``None``.
        loading: how it is loaded.
        card: facts for the model card, see :func:`card_text`.
        name: the title of the card; default: the directory's name.
    """
    write_arch(target, model, arch)
    write_preprocessor(target, card.get(IMAGE_PROCESSOR))
    if tokenizer is not None:
        _write_tokenizer(target, tokenizer)
    loader = tokenizer_class(tokenizer, loading)
    text = card_text(name or target.name, model, loading, card, registry.model_facts(model), loader)
    (target / "README.md").write_text(text, encoding="utf-8")


LOADING_OPTIONS = ("is_local", "local_files_only", "name_or_path")
"""What transformers keeps in a tokenizer's file of how it was loaded on this machine."""


def tokenizer_class(tokenizer: Any, loading: Loading) -> str:
    """Return the class of transformers that loads a model's tokenizer without a question; empty without a tokenizer.

    ``AutoTokenizer`` reads ``config.json`` first, and asks whether the modelling file that it names may be run. The
    tokenizer needs none of it, and its own class does not look there.
    """
    if tokenizer is None:
        return ""
    if not loading.arguments.get("remote"):
        return "AutoTokenizer"
    import transformers

    name = type(tokenizer).__name__
    return name if getattr(transformers, name, None) is type(tokenizer) else "AutoTokenizer"


def _write_tokenizer(target: Path, tokenizer: Any) -> None:
    """Write a tokenizer's files, without what is true on this machine alone."""
    tokenizer.save_pretrained(str(target))
    path = target / "tokenizer_config.json"
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in LOADING_OPTIONS}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


IMAGE_PROCESSOR = "image_processor"
"""The fact of a card that holds how images are prepared; it becomes a file of its own."""


def image_processor_of(task: Any) -> dict[str, Any] | None:
    """Return how a task's images are prepared, in transformers' words; ``None`` if it has none or does not say."""
    return dict(task.image_processor()) if isinstance(task, ImageTask) else None


def write_preprocessor(target: Path, settings: Mapping[str, Any] | None) -> None:
    """Write ``preprocessor_config.json``, with which ``AutoImageProcessor`` prepares images for the model."""
    if settings is not None:
        text = json.dumps(settings, indent=2) + "\n"
        (target / "preprocessor_config.json").write_text(text, encoding="utf-8")


def write_arch(target: Path, model: nn.Module, arch: Arch | None) -> None:
    """Write ``arch.json``: the architecture in the terms of its space, and the network's sizes."""
    plain_arch = None if arch is None else dict(arch)
    # A configuration is in a file of its own, if there is one.
    description = families.summary(model) if (target / "config.json").exists() else families.describe(model)
    record = {"format_version": FORMAT_VERSION, "arch": plain_arch, "blueprint": description}
    write_json(target / "arch.json", record)


def read_net(directory: Path) -> nn.Module:
    """Load the network that ``nasframe.export.write.write`` wrote, as the stock class that it was, with its own sizes.

    Args:
        directory: a model directory with ``arch.json``, in mode ``stock`` or ``hetero``.

    Returns:
        The network, in eval mode on the CPU.
    """
    from safetensors.torch import load_file

    description = json.loads((directory / "arch.json").read_text(encoding="utf-8"))["blueprint"]
    tensors = load_file(directory / "model.safetensors")
    config_file = directory / "config.json"
    if not config_file.exists():  # not a class of transformers, or one that no auto class loads
        return families.build(description, tensors)
    if "sizes" in description:  # the export of a network of one's own: its tensors belong to the class around it
        return families.build(description, _own_tensors(description, tensors))
    config = json.loads(config_file.read_text(encoding="utf-8"))
    # What the export added is not part of the stock class's configuration.
    for key in (*SIZES, *RECORD, "auto_map", "architectures", "transformers_version"):
        config.pop(key, None)
    config["model_type"] = description["family"]
    return families.build({**description, "config": config}, tensors)


def _own_tensors(description: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a network that describes itself, from its export.

    There they belong to the class around the network, and each is stored once, whatever the constructor ties.
    """
    own = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
    first_names: dict[int, str] = {}
    for name, parameter in families.build(description).named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if name not in own and first in own:
            own[name] = own[first]
    return own


def stock_obstacle(model: nn.Module) -> str | None:
    """Return the reason why a plain configuration cannot express a model's sizes; ``None`` if it can.

    >>> from nasframe.testing.toy import tiny_net
    >>> stock_obstacle(tiny_net()) is None
    True
    """
    from nasframe.nn.blueprint import blueprint, whole_class
    from nasframe.nn.elastic import base_of, family_of
    from nasframe.nn.rows import is_sliceable

    if not is_sliceable(model):
        return None if whole_class(model) is not None else f"{type(model).__name__} is no class of transformers"
    sizes = blueprint(model)
    heads = family_of(model).sizes(base_of(model).config).heads
    layers = sizes["layers"]
    for index, layer in enumerate(layers):
        if layer["heads"] != heads:
            return f"layer {index} has {layer['heads']} heads, but hidden size / head size is {heads}"
        if layer["ffn"] != layers[0]["ffn"] or not layer["ffn"]:
            return f"layer {index} has {layer['ffn']} neurons, layer 0 has {layers[0]['ffn']}"
    for name in sizes.get("head_order", {}):
        return f"layer {name.partition('.')[0]} has its heads in another order than the table of heads"
    for name, rank in sizes.get("factorized", {}).items():
        return f"{name} is a product of rank {rank}"
    if sizes["embedding_rank"]:
        return f"its embedding is a product of rank {sizes['embedding_rank']}"
    return None


def auto_class(stock: type) -> str:
    """Return the name of the auto class that loads a stock class.

    Raises:
        UsageError: transformers has none.

    >>> from transformers import BertForSequenceClassification, BertModel
    >>> auto_class(BertForSequenceClassification), auto_class(BertModel)
    ('AutoModelForSequenceClassification', 'AutoModel')
    """
    from nasframe.hf import auto_classes

    names = auto_classes(stock)
    if not names:
        raise UsageError(f"{stock.__name__}: no auto class of transformers loads it. Expected a class that one loads.")
    return names[0]


def modeling_source(stock: type) -> str:
    """Return the modelling file for a stock class: our elastic layers, then the two classes derived from it."""
    from nasframe import hf
    from nasframe.nn import elastic

    config_class, model_class = hf.classes(stock)
    config = config_class.__name__
    imported = [stock.__name__]
    definitions = [f"{config}, {model_class.__name__} = classes({stock.__name__})"]
    base = base_class(stock)
    if base is not stock:  # the encoder alone, for users who want embeddings or another kind of head
        imported = ["AutoModel", base.__name__, *imported]
        definitions.append(f"_, Nasframe{base.__name__} = classes({base.__name__}, {config})")
        # Some heads of transformers ask the auto class for their base.
        definitions.append(f"AutoModel.register({config}, Nasframe{base.__name__}, exist_ok=True)")
    imports = f"from transformers import {', '.join(imported)}  # noqa: E402"
    own = "\n".join([imports, *definitions]) + "\n"
    return "\n\n".join([inspect.getsource(elastic), _row_source(stock), inspect.getsource(hf.classes), own])


def _row_source(stock: Any) -> str:
    """Return the source of a class's row of the table of families, if a plugin has added it; else an empty text."""
    from nasframe.nn.elastic import FAMILIES, row_of

    model_type = stock.config_class.model_type
    if model_type in FAMILIES:
        return ""
    # A row is plain data, so that its repr is its source.
    return f"FAMILIES[{model_type!r}] = {row_of(model_type)!r}\n"


def base_class(stock: type) -> Any:
    """Return the transformers class of the same encoder without a head.

    >>> from transformers import BertForSequenceClassification
    >>> base_class(BertForSequenceClassification).__name__
    'BertModel'
    """
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[stock.config_class]  # type: ignore[attr-defined]


def card_text(
    name: str,
    model: nn.Module,
    loading: Loading,
    card: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    tokenizer: str = "",
) -> str:
    """Return the text of a model card.

    Args:
        name: the model's name.
        model: the network.
        loading: how it is loaded.
        card: all optional: ``model`` (where the weights come from) and ``task``, as a recipe has them; ``data``, the
            facts of the run's data; ``metrics`` (name → value) and the ``split`` that they were measured on; the
            ``teacher``'s metrics, and the ``loss`` against it as a sentence; ``costs`` (rows of name, value and
            share); ``base``, the ``name``, ``license`` … of the model that it was made from; ``over_budget``;
            ``limits``, sentences on what the numbers do not show.
        facts: what plugins say about the network; text and numbers are written.
        tokenizer: the class of transformers that loads the tokenizer; empty if there is none.
    """
    from jinja2 import Environment, PackageLoader

    sizes = families.summary(model)
    heading, *results = result_rows(card) or [[]]
    environment = Environment(loader=PackageLoader("nasframe"), trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.get_template("card.md").render(
        head=front_matter(name, sizes, card),
        name=name,
        loading=loading,
        tokenizer=tokenizer,
        remote=loading.arguments.get("remote", False),
        sizes=sizes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        card=card,
        results=markdown_table(heading, results) if results else "",
        costs=markdown_table(["cost", "this model", "of the teacher's"], card.get("costs") or []),
        origin=origin_rows(card),
        facts=facts or {},
    )


def keeps_plain(model: nn.Module) -> bool:
    """Tell whether a run keeps a network as tensors and description, because no auto class would load it."""
    from nasframe.hf import auto_classes
    from nasframe.nn.blueprint import whole_class

    cls = whole_class(model)
    return cls is None or not auto_classes(cls)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's tensors, each with memory of its own."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def _whole_content(model: Any, cls: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of a model of transformers that cannot be sliced."""
    config = copy.deepcopy(model.config)
    config.architectures = [cls.__name__]
    return config, _state(model)


def _content(model: Any, mode: Mode, arch: Arch | None) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the configuration and the tensors to write in a mode."""
    from nasframe.nn.blueprint import blueprint, small_config
    from nasframe.nn.elastic import stock_class

    sizes = blueprint(model)
    stock = stock_class(model)
    state = _state(model)
    fields = small_config(model.config, sizes).to_dict()
    # Of the checkpoint that the network came from; the new ones are set below, or when the configuration is saved.
    for key in ("model_type", "_name_or_path", "transformers_version", "auto_map", "architectures"):
        fields.pop(key, None)
    layer_sizes = {}
    for field, size in SIZES.items():
        layer_sizes[field] = [layer[size] for layer in sizes["layers"]]
    if mode == "hetero":
        return _hetero_config(stock, {**fields, **layer_sizes}, sizes, arch), state
    # A network that was loaded from a `hetero` export has these, which no stock class reads.
    for field in SIZES:
        fields.pop(field, None)
    config = stock.config_class.from_dict(fields)
    config.architectures = [stock.__name__]
    if mode == "padded":
        _pad(model, state, config)
        _keep_recorded(model, state, config)
        note = "zero-filled: not smaller than the sizes above say"
        config.nasframe = {"mode": "padded", **layer_sizes, "note": note}
    return config, state


def _hetero_config(stock: Any, fields: Mapping[str, Any], sizes: Mapping[str, Any], arch: Arch | None) -> Any:
    """Return the configuration of a model with its true sizes, which names the classes in the modelling file.

    Args:
        stock: the stock class.
        fields: fields of the stock configuration, and the sizes of the layers.
        sizes: the blueprint.
        arch: the architecture, if the model was extracted.
    """
    from nasframe import hf

    config_class, model_class = hf.classes(stock)
    record = {key: sizes[key] for key in RECORD if key in sizes}
    kept_layers = range(len(sizes["layers"]))
    if arch is not None:
        kept_layers = arch.get("layers", kept_layers)
    record["kept_layers"] = list(kept_layers)
    config = config_class.from_dict({**fields, **record})  # type: ignore[attr-defined]
    names = {
        "AutoConfig": config_class.__name__,
        "AutoModel": f"Nasframe{base_class(stock).__name__}",
        auto_class(stock): model_class.__name__,  # the base's own name if the model has no head
    }
    module = Path(MODELING).stem
    config.auto_map = {auto: f"{module}.{name}" for auto, name in names.items()}
    config.architectures = [model_class.__name__]
    return config


def _keep_recorded(model: Any, state: Mapping[str, torch.Tensor], config: Any) -> None:
    """Drop from a configuration's record of formats the matrices that have no tensor of their own any more."""
    from nasframe.nn.formats import saved_name

    record = vars(config).pop("quantised", None)
    if record:
        config.quantised = {name: entry for name, entry in record.items() if saved_name(model, name) in state}


def _pad(model: Any, state: dict[str, torch.Tensor], config: Any) -> None:
    """Multiply products out, and fill every layer up with zeros to the configuration's sizes."""
    from nasframe.nn.elastic import base_of, family_of, head_order, layers_of, slices_of

    family = family_of(model)
    prefix = "" if base_of(model) is model else f"{model.base_model_prefix}."
    layers = f"{prefix}{family.layers}"
    _multiply_out(model, state, prefix, layers)
    full = family.sizes(config)
    full_units = {"heads": full.heads // full.group, "ffn": full.ffn}
    for number, layer in enumerate(layers_of(model)):
        order = head_order(family, layer)
        for part in slices_of(family, layer):
            path = family.maps[part.map].path  # of a product, which is multiplied out by now
            key = f"{layers}.{number}.{path}.{part.name}"
            if key in state:
                places = order if part.unit == "heads" else None
                state[key] = _padded(state[key], part, full_units[part.unit], places)


def _padded(tensor: torch.Tensor, part: Part, total: int, places: Sequence[int] | None) -> torch.Tensor:
    """Return a tensor with zeros for the units that a layer lacks.

    Args:
        tensor: the layer's tensor.
        part: where its units are.
        total: units of the full layer.
        places: the place of each unit among all; default: they are the first ones.
    """
    import torch

    shape = list(tensor.shape)
    shape[part.dim] = part.length(total)
    own_units = tensor.shape[part.dim] // part.length(1)
    units = torch.arange(own_units) if places is None else torch.tensor(places)
    return tensor.new_zeros(shape).index_copy(part.dim, part.entries(units, total), tensor)


def _multiply_out(model: Any, state: dict[str, torch.Tensor], prefix: str, layers: str) -> None:
    """Replace the factors of every product in a state by their product, as stock classes have it."""
    from nasframe.nn.blueprint import blueprint
    from nasframe.nn.elastic import family_of

    for name in blueprint(model).get("factorized", {}):
        path = f"{layers}.{name}"
        expand = state.pop(f"{path}.expand.weight")
        reduce = state.pop(f"{path}.reduce.weight")
        state[f"{path}.weight"] = expand @ reduce
        if f"{path}.expand.bias" in state:
            state[f"{path}.bias"] = state.pop(f"{path}.expand.bias")
    words = f"{prefix}{family_of(model).words}"
    if f"{words}.table.weight" in state:
        table = state.pop(f"{words}.table.weight")
        project = state.pop(f"{words}.project.weight")
        state[f"{words}.weight"] = table @ project.T


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
