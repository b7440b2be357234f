"""Finds the files of transformers' checkpoints, and checks that they fit a network before they are used.

transformers draws tensors at random if a checkpoint lacks them or has them in another size; here only a head may be
new. The headers of a checkpoint (names, shapes, types) go through transformers' own loading as tensors without values,
because it knows how old names were renamed. So ``nasframe check`` finds misfits without reading weights. :func:`load`
finds the same ones, and values that are not finite. No pickled object is ever made: ``.bin`` files may hold only
tensors.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import Problem, RecipeError, UsageError, suggestion

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
OTHER_WEIGHTS = {
    "adapter_model.safetensors": "an adapter",
    "adapter_model.bin": "an adapter",
    "tf_model.h5": "TensorFlow",
    "model.ckpt.index": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "model.onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
}
# First parts of tensor names that are a head's, for networks that do not name their encoder.
HEAD_WORDS = ("classifier", "score", "pre_classifier", "sequence_summary", "logits_proj", "pooler", "cls", "lm_head")
SHOWN = 3  # names in a message before "and … more"
LONGEST = 300  # characters of a library's own error in ours


@dataclass(frozen=True)
class Source:
    """The directory or the hub's repository that holds a model's files.

    Args:
        path: a directory or a hub id.
        revision: the hub's branch, tag or commit.
        local: use only files on this machine; those of a hub id are then the ones in the hub's cache.
    """

    path: str
    revision: str | None = None
    local: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory and no hub id."""
        return Path(self.path).is_dir()

    def file(self, name: str) -> Path | None:
        """Return the path of one of its files, ``None`` if the file does not exist or is not on this machine."""
        if self.is_directory:
            path = Path(self.path) / name
            return path if path.is_file() else None
        from transformers.utils import cached_file  # with torch, which a directory does not need

        try:
            cached = cached_file(
                self.path, name, revision=self.revision, local_files_only=self.local,
                _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
            )  # fmt: skip
        except (OSError, ValueError):
            return None
        return Path(cached) if cached else None


def register_exports(source: Source) -> None:
    """Register the classes of nasframe's own exports with transformers, unless the model is known not to be one.

    Registering imports the code of every family, which takes longer than everything else in a check of a model.
    """
    config = source.file("config.json")
    if config is not None:
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            kind = None  # transformers says what is wrong with it
        if isinstance(kind, str) and not kind.startswith("nasframe-"):
            return
    import nasframe.hf  # noqa: F401


@dataclass(frozen=True)
class Checkpoint:
    """The headers of a checkpoint's files.

    Args:
        tensors: name → tensor without values, on the meta device.
        files: name → the file that holds it.
    """

    tensors: Mapping[str, torch.Tensor]
    files: Mapping[str, Path]

    @property
    def place(self) -> str:
        """The file, or the directory of several."""
        files = sorted(set(self.files.values()))
        return str(files[0] if len(files) == 1 else files[0].parent)

    def file_of(self, name: str, prefix: str) -> str:
        """Return the file of a network's tensor, whose name in the file may lack ``prefix``, or have it in addition."""
        bare = name.removeprefix(f"{prefix}.")
        for candidate in (name, bare, f"{prefix}.{name}"):
            if candidate in self.files:
                return str(self.files[candidate])
        return self.place


@dataclass(frozen=True)
class Fit:
    """The result of comparing a checkpoint with a network.

    Args:
        problems: reasons not to use it; empty if it fits.
        new_head: tensors of the head that the checkpoint lacks, or has in another size.
        new_pooler: tensors of the pooler that it lacks.
        unused: tensors of the checkpoint that the network does not have.
    """

    problems: Sequence[str] = ()
    new_head: Sequence[str] = ()
    new_pooler: Sequence[str] = ()
    unused: Sequence[str] = ()

    def notices(self, place: str) -> Iterator[str]:
        """Yield remarks for the user on a checkpoint that fits."""
        if self.new_pooler:
            yield f"the pooler is new, as {place} has none: {listed(self.new_pooler)}."
        if self.unused:
            yield f"{place} has tensors that the network does not use: {listed(self.unused)}."


def find_files(source: Source) -> list[Path]:
    """Return the files of the weights that transformers would choose: safetensors first, whole before sharded.

    Args:
        source: the model.

    Returns:
        The files; none if those of a hub id are not on this machine.

    Raises:
        UsageError: there are no weights that torch can load, or a file that an index names is missing.
    """
    adapter = adapter_refusal(source)
    if adapter:
        raise UsageError(adapter)
    for name in WEIGHTS:
        whole = source.file(name)
        if whole is not None:
            return [whole]
        index = source.file(name + INDEX)
        if index is not None:
            return _shards(source, index)
    if source.local and not source.is_directory:  # not downloaded yet, which is no mistake
        return []
    raise UsageError(f"{source.path}: no weights. Expected {' or '.join(WEIGHTS)}.{_other_weights(source)}")


def adapter_refusal(source: Source) -> str:
    """Return the reason why a directory with an adapter is not a model, an empty text if it has no adapter."""
    if source.is_directory and (Path(source.path) / "adapter_config.json").is_file():
        return (
            f"{source.path}/adapter_config.json: the directory holds an adapter. Expected a whole model: merge the "
            "adapter into its model (peft: merge_and_unload), and save that."
        )
    return ""


def _shards(source: Source, index: Path) -> list[Path]:
    """Return the files that an index names; none if one of a hub id's is not on this machine."""
    expected = "Expected {'weight_map': {tensor: file}}, as save_pretrained writes it."
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{index}: not JSON: {error}. {expected}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index}: no 'weight_map'. {expected}")
    may_be_elsewhere = source.local and not source.is_directory  # on the hub, and not downloaded yet
    shards = []
    for name in sorted({str(file) for file in weight_map.values()}):
        shard = source.file(name)
        if shard is not None:
            shards.append(shard)
        elif may_be_elsewhere:
            return []
        else:
            lost = [tensor for tensor, file in weight_map.items() if file == name]
            raise UsageError(f"{index}: {name} is missing, which holds {listed(lost)}. Expected it beside the index.")
    return shards


def _other_weights(source: Source) -> str:
    """Return a sentence on the weights that a directory has instead of torch's, an empty text if it has none."""
    if not source.is_directory:
        return ""
    names = sorted(path.name for path in Path(source.path).iterdir())
    for name, kind in OTHER_WEIGHTS.items():
        if name in names:
            return f" {name} is of {kind}: load it with the library that wrote it, and save it with save_pretrained."
    weights = [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf"))]
    if weights:
        return f" There is {listed(weights)}.{suggestion(weights[0], WEIGHTS)}"
    return ""


def read_headers(files: Sequence[Path]) -> Checkpoint:
    """Return names, shapes and types of a checkpoint's tensors, without reading values.

    Args:
        files: as :func:`find_files` returned them.

    Raises:
        UsageError: a file is empty, cut off or no checkpoint, or holds something other than tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    places: dict[str, Path] = {}
    for file in files:
        content = _header(file)
        tensors |= content
        places |= dict.fromkeys(content, file)
    if not tensors:
        raise UsageError(f"{files[0]}: there are no tensors. Expected the network's.")
    return Checkpoint(tensors, places)


def _header(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of one file, without values."""
    import torch
    from transformers.modeling_utils import load_state_dict

    if file.stat().st_size == 0:
        raise UsageError(f"{file}: the file is empty. Expected tensors by name.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles, which are refused
            content: Any = load_state_dict(file, map_location="meta", weights_only=True)
    except Exception as error:  # every format has exceptions of its own
        raise UsageError(f"{file}: cannot be read as weights. {_unreadable(file, error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: holds {type(content).__name__}. Expected tensors by name.")
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise UsageError(f"{file}: {name!r} is {kind}. Expected tensors by name, as save_pretrained writes.")
    return content


def _unreadable(file: Path, error: Exception) -> str:
    """Return the reason why a file cannot be read, and what was expected."""
    if file.suffix == ".safetensors":
        return f"{reason(error)}. Is it cut off, or an LFS pointer? Expected a whole safetensors file."
    expected = "Expected tensors only, as torch.save(net.state_dict()) writes them."
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    if match:  # torch's own text advises to run the code in the file
        return f"The pickle has {match[1]} in it, and code in pickles is never run. {expected}"
    if type(error).__name__ == "UnpicklingError":
        return f"It is no checkpoint, or has more than tensors in it, which are never made. {expected}"
    return f"{reason(error)}. {expected}"


def fit(net_class: Any, config: Any, checkpoint: Checkpoint, head: bool = True) -> Fit:
    """Compare a checkpoint with the network of a configuration, from its headers alone.

    Args:
        net_class: the network's class.
        config: its configuration.
        checkpoint: the headers.
        head: whether the head may be new.
    """
    import torch

    state = dict(checkpoint.tensors)
    with quiet():  # as in ``load``, but the state holds tensors on the meta device: only names and shapes are compared
        net, info = net_class.from_pretrained(
            None, config=copy.deepcopy(config), state_dict=state, device_map="meta", dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    return judge(net, info, checkpoint, head)


def judge(net: nn.Module, info: Mapping[str, Any], checkpoint: Checkpoint, head: bool = True) -> Fit:
    """Sort the loading info of transformers into problems, new parts and unused tensors.

    Args:
        net: the network, with or without values.
        info: transformers' loading info.
        checkpoint: the headers.
        head: whether the head may be new.
    """
    unused = sorted(info["unexpected_keys"])
    # A part may be new only if training makes it: a random encoder tensor would silently ruin the network.
    new_head: list[str] = []
    new_pooler: list[str] = []
    lost: list[str] = []
    for name in sorted(info["missing_keys"]):
        part = _part(net, name)
        if head and part == "head":
            new_head.append(name)
        elif head and part == "pooler":
            new_pooler.append(name)
        else:
            lost.append(name)
    misfits: list[_Misfit] = []
    for name, saved, own in sorted(info["mismatched_keys"], key=lambda entry: entry[0]):
        if head and _part(net, name) == "head":
            new_head.append(name)
        else:
            file = checkpoint.file_of(name, _prefix(net))
            misfits.append(_Misfit(name, tuple(saved), tuple(own), file))
    problems = []
    if misfits:
        problems.append(_shapes_differ(misfits))
    if lost:
        problems.append(_tensors_missing(net, lost, unused, checkpoint, head))
    problems += _layers_left(net, unused, checkpoint)
    problems += _types_differ(net, unused, checkpoint)
    return Fit(problems, sorted(new_head), new_pooler, unused)


@dataclass(frozen=True)
class _Misfit:
    """A tensor whose shape in the file differs from the network's."""

    name: str
    saved: tuple[int, ...]
    own: tuple[int, ...]
    file: str


def _prefix(net: nn.Module) -> str:
    return str(getattr(net, "base_model_prefix", ""))


def _part(net: nn.Module, name: str) -> str:
    """Tell whether a tensor belongs to the ``head``, the ``pooler`` or the ``encoder``."""
    prefix = _prefix(net)
    if not prefix or not hasattr(net, prefix):  # a network with code of its own, which does not name its encoder
        first_part = name.partition(".")[0]
        return "head" if first_part in HEAD_WORDS else "encoder"
    if not name.startswith(f"{prefix}."):
        return "head"
    return "pooler" if name.startswith(f"{prefix}.pooler.") else "encoder"


def _shapes_differ(misfits: Sequence[_Misfit]) -> str:
    """Return a text on the tensors whose shapes differ from the configuration's."""
    texts = []
    for misfit in misfits[:SHOWN]:
        texts.append(f"{misfit.name} is {misfit.saved} in the file, {misfit.own} by config.json")
    rest = f", and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
    return f"{misfits[0].file}: {'; '.join(texts)}{rest}. Expected the same shapes.{_size_hint(misfits)}"


def _size_hint(misfits: Sequence[_Misfit]) -> str:
    """Return a question on the option of the configuration that may be wrong."""
    names = " ".join(misfit.name for misfit in misfits)
    if "word_embeddings" in names:
        return " Is it the vocabulary (vocab_size) of another model?"
    if "position_embeddings" in names:
        return " Is max_position_embeddings another model's?"
    if re.search(r"query|q_lin", names):
        return " Were heads pruned? transformers no longer reads pruned heads; nasframe reads its own exports."
    return ""


def _tensors_missing(
    net: nn.Module, lost: Sequence[str], unused: Sequence[str], checkpoint: Checkpoint, head: bool
) -> str:
    """Return a text on the tensors that the file lacks, and on those that it may have instead."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    first = lost[0]
    shape = f" {shapes[first]}" if first in shapes else ""
    rest = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    hint = _other_prefix(net, lost, unused) or _fewer_layers(net, lost)
    if not hint and unused:
        hint = f" The file has {listed(unused)}, which the network does not have."
    expected = "every tensor but the head's" if head else "every tensor"
    return f"{checkpoint.place}: lacks {first}{shape}{rest}. Expected {expected}.{hint}"


def _other_prefix(net: nn.Module, lost: Sequence[str], unused: Sequence[str]) -> str:
    """Return a hint if the names in the file have something before them, as DataParallel and wrappers write it."""
    for name in lost:
        bare = name.removeprefix(f"{_prefix(net)}.")
        for saved in unused:
            for ending in (name, bare):
                if saved.endswith(f".{ending}"):
                    return f" The file has {saved}: save it without {saved.removesuffix(ending)!r} before the names."
    return ""


def _fewer_layers(net: nn.Module, lost: Sequence[str]) -> str:
    """Return a hint if whole layers at the end are missing."""
    for path, depth in _layer_lists(net):
        pattern = re.compile(rf"{re.escape(path)}\.(\d+)\.")
        numbers = sorted({int(match[1]) for match in map(pattern.match, lost) if match})
        if numbers and numbers == list(range(numbers[0], depth)):
            return f" config.json says {depth} layers, the file has {numbers[0]}."
    return ""


def _layer_lists(net: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the paths of a network's lists of layers, with their lengths."""
    from torch import nn

    for path, module in net.named_modules():
        if isinstance(module, nn.ModuleList):
            yield path, len(module)


def _layers_left(net: nn.Module, unused: Sequence[str], checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a text on encoder layers that the configuration does not have: they would silently be left out."""
    prefix = _prefix(net)
    for path, depth in _layer_lists(net):
        inner = path.removeprefix(f"{prefix}.")
        pattern = re.compile(rf"(?:{re.escape(prefix)}\.)?{re.escape(inner)}\.(\d+)\.")
        beyond: dict[str, int] = {}  # tensor → number of its layer
        for name in unused:
            match = pattern.match(name)
            if match and int(match[1]) >= depth:
                beyond[name] = int(match[1])
        if beyond:
            first = next(iter(beyond))
            file = checkpoint.file_of(first, prefix)
            layers = max(beyond.values()) + 1
            yield f"{file}: has {layers} layers ({first}), config.json says {depth}. Expected as many."


def _types_differ(net: nn.Module, unused: Sequence[str], checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a text on weights that are codes: integers and 8-bit floats mean nothing without their scales."""
    import torch

    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    # The network's own integers, such as position ids. By their last names: the file may lack the encoder's prefix.
    integers = {_last_part(name) for name, buffer in net.named_buffers() if not buffer.is_floating_point()}
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in plain or name in unused or _last_part(name) in integers:
            continue
        kind = str(tensor.dtype).removeprefix("torch.")
        expected = "Expected float16, bfloat16, float32 or float64."
        yield f"{checkpoint.files[name]}: {name} is of {kind}, which is no plain weight. {expected}"
        return  # a quantised checkpoint has many; one is enough to see it


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def infinite(net: nn.Module, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield each tensor of a loaded network that has values which are not finite, with its file.

    Args:
        net: the network, loaded.
        checkpoint: the headers, for the names of files.
    """
    import torch

    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        count = int((~torch.isfinite(tensor)).sum())
        if count:
            values = "value that is" if count == 1 else "values that are"
            place = checkpoint.file_of(name, _prefix(net))
            yield f"{place}: {name} {tuple(tensor.shape)} has {count} {values} not finite. Expected numbers."


def refuse_quantised(config: Any, source: Source) -> None:
    """Make sure that the configuration is of a model with plain weights.

    Raises:
        UsageError: the weights are quantised.
    """
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = type(quantised).__name__
        if isinstance(quantised, dict):
            method = quantised.get("quant_method", "")
        raise UsageError(
            f"{source.path}: config.json has quantization_config ({method}). Expected a model of plain weights."
        )


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a checkpoint.

    Args:
        net: the network.
        fit: its new parts, and the tensors of the checkpoint that it does not use.
        place: the file, or the directory of several.
    """

    net: nn.Module
    fit: Fit
    place: str


def load(
    auto: Any,
    source: Source,
    config: Any = None,
    *,
    head: bool = True,
    trust_remote_code: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a network in float32 from a checkpoint that has all of it.

    Args:
        auto: an auto class of transformers, such as ``AutoModelForSequenceClassification``.
        source: the model's files.
        config: its configuration; default: the source's own.
        head: whether the head may be new, drawn from torch's generator.
        trust_remote_code: let the model's own code run.
        options: further arguments of ``from_pretrained``.

    Raises:
        UsageError: a tensor other than the head's is missing, of another shape, of a type that is no plain weight, or
            not finite; the text names file, tensor and both shapes.
    """
    import torch

    refuse_quantised(config, source)
    checkpoint = read_headers(find_files(source))
    arguments = dict(options or {})
    if config is not None:
        arguments["config"] = config
    with quiet():
        net, info = auto.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=trust_remote_code, dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True, **arguments,
        )  # fmt: skip
    comparison = judge(net, info, checkpoint, head)
    problems = list(comparison.problems)
    if not problems:
        problems += infinite(net, checkpoint)
    if problems:
        raise UsageError("\n".join(problems))
    return Loaded(net, comparison, checkpoint.place)


def refusal(option: str, texts: Sequence[str]) -> RecipeError:
    """Return an error with the problems of one option.

    >>> print(refusal("path", ["no such folder."]))
    path  no such folder.
    """
    return RecipeError([Problem("", option, text) for text in texts])


def reason(error: BaseException) -> str:
    """Return the text of a library's error on one line, without its full stop.

    >>> reason(ValueError("Not\\n here."))
    'Not here'
    """
    text = " ".join(str(error).split()).rstrip(".")
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".strip()
    if len(text) > LONGEST:
        return f"{text[:LONGEST]} …"
    return text


def listed(names: Sequence[str]) -> str:
    """Return the first names as one text, with the number of further ones.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    shown = ", ".join(names[:SHOWN])
    if len(names) <= SHOWN:
        return shown
    return f"{shown} and {len(names) - SHOWN} more"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of transformers inside the block: nasframe reports misfits itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
