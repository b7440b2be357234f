"""Writes models by an exporter and proves, in a fresh process, that they load and compute the same.

A directory gets its final name only after it was verified; ``export_report.json`` in it records how. The files
themselves are made by :mod:`nasframe.export.files`, the fresh process is :mod:`nasframe.export.verify`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe import registry
from nasframe.errors import PluginError, UsageError, VerificationError, listing
from nasframe.export.files import (
    FORMAT_VERSION,
    Mode,
    keeps_plain,
    stock_obstacle,
    write_arch,
    write_companions,
    write_json,
    write_model,
    write_plain,
)
from nasframe.export.verify import Job, Verifier
from nasframe.interfaces import ExportContent, Exporter, ExporterTraits, Loading, member, traits_of
from nasframe.plugin_errors import naming_plugins
from nasframe.records import Arch
from nasframe.storage import writing
from nasframe.store import write_text
from nasframe.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

LOGITS = "logits"
STAGING = ".export-"
"""The prefix of folders in which models are written before they are verified."""
REPLACED = ".replaced"
"""The name, in such a folder, of the old model while a new one takes its place."""
CARD = "README.md"
OVER_BUDGET = "**Over budget:**"
PROBE_LENGTHS = (12, 9, 5, 12)
"""Tokens of the sequences on which an exported model is compared with the original, by default."""


def export(
    model: nn.Module,
    tokenizer: Any,
    directory: Path | str,
    *,
    mode: Any = "hetero",
    expected: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    arch: Arch | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Write one model and prove in a fresh process that it loads and agrees.

    Args:
        model: the network.
        tokenizer: its tokenizer, or ``None``.
        directory: the target; it must not hold an exported model yet, other files in it stay.
        mode: the exporter: ``stock`` for sizes that a plain configuration can express; ``padded`` fills heads and
            neurons up with zeros, so that stock classes load it; ``hetero`` keeps the true sizes and adds a modelling
            file; or a plugin's, as ``{"use": name, option: value}`` or an object.
        expected: ``{"inputs": {name: tensor}, "outputs": {name: tensor}}``, which the loaded model must reproduce;
            ``logits`` may stand for ``outputs``. Default: the outputs of ``model`` for invented token ids.
        card: facts for the model card, see :func:`nasframe.export.files.card_text`.
        arch: the architecture that the model was extracted at, for ``arch.json``.
        replace: overwrite an existing model.

    Returns:
        The content of ``export_report.json``.

    Raises:
        UsageError: there is a model in the directory already, or the exporter cannot express this one.
        VerificationError: the directory does not load, or its outputs differ; nothing was left behind.

    >>> from nasframe.testing.toy import tiny_net
    >>> target = Path(tempfile.mkdtemp()) / "small"
    >>> export(tiny_net(layers=1), None, target, mode="stock")["verified"]  # doctest: +SKIP
    True
    """
    reports = export_all(
        {"model": model},
        tokenizer,
        {"model": Path(directory)},
        mode=mode,
        expected={"model": expected},
        card=card,
        archs={"model": arch},
        replace=replace,
    )
    return reports["model"]


def export_all(
    models: Mapping[str, nn.Module],
    tokenizer: Any,
    directories: Mapping[str, Path],
    *,
    mode: Any = "hetero",
    use: Any = None,
    expected: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    archs: Mapping[str, Arch | None] | None = None,
    replace: bool = False,
    verifier: Verifier | None = None,
    tokenizers: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Export several models and verify them all in one fresh process; see :func:`export`.

    Args:
        models: name → network.
        tokenizer: the tokenizer they share, or ``None``.
        directories: name → target.
        mode: the exporter, as in :func:`export`, for all models; or a mapping that has one for each name.
        use: what export reports call it, if ``mode`` is an object.
        expected: name → expected inputs and outputs.
        card: facts for the model cards; ``card["models"][name]`` is added for each.
        archs: name → architecture.
        replace: overwrite existing models.
        verifier: the fresh process, if one was started already.
        tokenizers: name → tokenizer, if the models do not share one.

    Returns:
        Name → content of its ``export_report.json``.
    """
    if len(set(directories.values())) < len(directories):
        raise UsageError(f"two models would be written to one directory: {listing(map(str, directories.values()))}.")
    exporters = _exporters(models, mode, use)
    expected = expected or {}
    archs = archs or {}
    for name, net in models.items():
        _refuse_existing(directories[name], replace)
        _refuse_inexpressible(name, net, exporters[name].plugin)
    exports = []
    for name, net in models.items():
        reference = with_outputs(expected.get(name) or probe(net))
        own_tokenizer = tokenizer if tokenizers is None else tokenizers[name]
        arch = archs.get(name)
        exports.append(_Export(name, net, exporters[name], directories[name], arch, reference, own_tokenizer))
    with _staging(directories) as staged:
        loadings = {}
        for item in exports:
            with writing(item.target):
                target = staged[item.name]
                loadings[item.name] = _written(item, target, card_of(card, item.name))
        outputs = _reload(exports, loadings, staged, verifier)
        reports = {item.name: _report(item, staged[item.name], outputs[item.name]) for item in exports}
        # All models get their names at the end, so that a run never has only some of them.
        for item in exports:
            _settle(staged[item.name], item.target)
    return reports


@dataclass(frozen=True)
class _Format:
    """An exporter, and what export reports call it."""

    plugin: Exporter
    use: Any


def _exporters(models: Iterable[str], mode: Any, use: Any) -> dict[str, _Format]:
    """Return the exporter of each model."""
    modes = dict.fromkeys(models, mode)
    if isinstance(mode, Mapping) and "use" not in mode:
        modes = dict(mode)
    exporters = {}
    for name in models:
        plugin = registry.make("exporter", modes[name])
        written = modes[name] if use is None else use
        if isinstance(written, Mapping) and written.keys() == {"use"}:
            written = written["use"]
        elif not isinstance(written, str | Mapping):
            written = type(plugin).__name__
        exporters[name] = _Format(plugin, written)
    return exporters


@dataclass(frozen=True)
class _Export:
    """A model to export.

    Args:
        name: its name.
        net: the network.
        format: how it is written.
        target: the directory.
        arch: the architecture that it was extracted at.
        reference: ``inputs``, and the ``outputs`` of them that the written model must reproduce.
        tokenizer: its tokenizer, or ``None``.
    """

    name: str
    net: nn.Module
    format: _Format
    target: Path
    arch: Arch | None
    reference: Mapping[str, Any]
    tokenizer: Any


def with_outputs(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs and outputs by name; ``logits`` by themselves are the output of that name.

    >>> with_outputs({"inputs": {}, "logits": 1})
    {'inputs': {}, 'outputs': {'logits': 1}}
    """
    outputs = reference.get("outputs")
    if outputs is None:
        outputs = {"logits": reference["logits"]}
    return {"inputs": reference["inputs"], "outputs": outputs}


def _refuse_inexpressible(name: str, model: nn.Module, exporter: Exporter) -> None:
    """Refuse a model that the exporter says it cannot express, before any file is written."""
    validate = member(exporter, "validate")
    if validate is None:
        return
    try:
        with naming_plugins():
            validate(model)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _written(item: _Export, target: Path, card: Mapping[str, Any]) -> Loading:
    """Write a model's files, except its export report, into the new directory ``target``."""
    target.mkdir(parents=True)
    inputs = {name: tensor.detach().cpu() for name, tensor in item.reference["inputs"].items()}
    content = ExportContent(item.name, item.tokenizer, item.arch, inputs)
    with naming_plugins():
        loading = item.format.plugin.write(item.net, target, content)
    if not isinstance(loading, Loading):
        text = f"exporter {item.format.use!r}: write returned a {type(loading).__name__}."
        raise PluginError(f"{text} Expected a nasframe.interfaces.Loading.")
    write_companions(target, item.net, item.tokenizer, item.arch, loading, card, card.get("title", ""))
    return loading


def write(
    model: nn.Module,
    tokenizer: Any,
    directory: Path | str,
    *,
    mode: Mode | Literal["auto"] = "auto",
    card: Mapping[str, Any] | None = None,
    arch: Arch | None = None,
    replace: bool = False,
) -> str:
    """Write a model as a Hugging Face directory without verifying it, and return the mode.

    Args:
        model: the network.
        tokenizer: its tokenizer, or ``None``.
        directory: the target.
        mode: as in :func:`export`; ``auto`` is ``stock`` if that can express the model, else ``hetero``.
        card: facts for the model card.
        arch: the architecture that the model was extracted at.
        replace: overwrite an existing model.

    >>> from nasframe.testing.toy import tiny_net
    >>> write(tiny_net(layers=1), None, Path(tempfile.mkdtemp()) / "small")
    'stock'
    """
    target = Path(directory)
    _refuse_existing(target, replace)
    if mode == "auto":
        mode = "hetero" if stock_obstacle(model) else "stock"
    with _staging({"model": target}) as staged:
        with writing(target):
            _write_unverified(staged["model"], model, tokenizer, mode, card or {}, arch)
        _settle(staged["model"], target)
    return mode


def _write_unverified(
    target: Path, model: nn.Module, tokenizer: Any, mode: Mode, card: Mapping[str, Any], arch: Arch | None
) -> None:
    """Write a network as a run keeps it; one that describes itself without the files to load it elsewhere."""
    target.mkdir(parents=True)
    if keeps_plain(model):
        write_plain(target, model)
        write_arch(target, model, arch)
        return
    loading = write_model(target, model, mode, arch)
    write_companions(target, model, tokenizer, arch, loading, card, card.get("title", ""))


def update_card(directory: Path, over_budget: str) -> None:
    """Bring a written model card up to date with the model's final costs.

    Args:
        directory: the model's.
        over_budget: the costs that are over budget, and by how much; empty if none is.
    """
    path = directory / CARD
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    paragraphs = [part for part in text.split("\n\n") if not part.startswith(OVER_BUDGET)]
    if over_budget:
        headings = [number for number, part in enumerate(paragraphs) if part.startswith("# ")]
        after_first_paragraph = headings[0] + 2
        paragraphs.insert(after_first_paragraph, f"{OVER_BUDGET} {over_budget}")
    updated = "\n\n".join(paragraphs)
    if updated == text:
        return
    write_text(path, updated)
    report_path = directory / "export_report.json"
    if report_path.is_file():
        report = json.loads(report_path.read_text(encoding="utf-8"))
        report["files"][CARD] = _described(path)
        # Replaced as a whole, never written in place: the file may be a link to the one in the cache.
        write_text(report_path, json.dumps(report, indent=1) + "\n")


def probe(model: nn.Module) -> dict[str, Any]:
    """Compute a model's outputs on fixed, invented token ids.

    Returns:
        ``inputs`` and ``outputs`` (name → tensor), and the ``logits`` by themselves if there are any.

    Raises:
        UsageError: the model reads something other than token ids, so that inputs have to be given.
    """
    import torch

    from nasframe.nn.outputs import compared

    inputs = invented_inputs(model)
    if inputs is None:
        raise UsageError(
            f"{type(model).__name__}: it reads no token ids that could be invented. Expected inputs: "
            "expected={'inputs': …, 'outputs': …}, as on a batch of the task."
        )
    device = next(model.parameters()).device
    on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        outputs = {name: tensor.float().cpu() for name, tensor in compared(model(**on_device)).items()}
    model.train(was_training)
    reference: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if LOGITS in outputs:
        reference[LOGITS] = outputs[LOGITS]
    return reference


def invented_inputs(model: Any) -> dict[str, torch.Tensor] | None:
    """Return token ids and their mask, fewer than the model has positions; ``None`` if it reads something else."""
    import torch

    from nasframe.nn.positions import usable_positions

    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    words = getattr(embedding, "num_embeddings", None)
    if words is None:
        return None
    generator = torch.Generator().manual_seed(0)
    first_word = min(5, words - 1)  # the ids below are usually special tokens
    longest = max(PROBE_LENGTHS)
    length = min(longest, usable_positions(model) or longest)
    ids = torch.randint(first_word, words, (len(PROBE_LENGTHS), length), generator=generator)
    lengths = torch.tensor(PROBE_LENGTHS)
    mask = torch.arange(length) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def card_of(card: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return the facts for one model's card: those of all models, and its own."""
    facts = dict(card or {})
    models = facts.pop("models", {})
    facts.update(models.get(name, {}))
    return facts


def _reload(
    exports: Sequence[_Export],
    loadings: Mapping[str, Loading],
    staged: Mapping[str, Path],
    verifier: Verifier | None,
) -> dict[str, dict[str, torch.Tensor]]:
    """Load the directories in one fresh process that cannot see nasframe, and return their outputs."""
    jobs = {}
    for item in exports:
        jobs[item.name] = Job(
            directory=staged[item.name],
            loading=loadings[item.name],
            inputs=item.reference["inputs"],
            outputs=list(item.reference["outputs"]),
            tokenizer=item.tokenizer is not None,
        )
    with nullcontext(verifier) if verifier else Verifier() as process:
        return process.outputs(jobs)


def _report(item: _Export, directory: Path, loaded: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Compare the outputs and the compressed matrices; write the export report and return it.

    Args:
        item: the model.
        directory: its files.
        loaded: the outputs of the model that was loaded from the directory, by name.

    Raises:
        VerificationError: they differ from those of the original.
    """
    import torch
    import transformers

    tolerance = traits_of(ExporterTraits, item.format.plugin).tolerance
    largest_difference = 0.0
    most_allowed = 0.0
    for name, original in item.reference["outputs"].items():
        difference, allowed = _difference(original, loaded[name], tolerance)
        if not difference <= allowed:  # also true for nan
            raise VerificationError(
                f"{item.name}: the exported model's {name} differ by {difference:.3g} from the sub-network's. "
                f"Expected at most {allowed:.3g}. Nothing was written."
            )
        largest_difference = max(largest_difference, difference)
        most_allowed = max(most_allowed, allowed)
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = _described(path)
    shapes = {name: list(tensor.shape) for name, tensor in loaded.items()}
    report = {
        "format_version": FORMAT_VERSION,
        "mode": item.format.use,
        "verified": True,
        "loaded": "in a fresh process, offline, without nasframe",
        "max_abs_difference": largest_difference,
        "tolerance": most_allowed,
        "outputs": shapes,
        **({LOGITS: shapes[LOGITS]} if LOGITS in shapes else {}),
        "files": files,
        "versions": {
            "nasframe": __version__,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        **_stored_summary(item.name, item.net, directory),
    }
    with writing(item.target):
        write_json(directory / "export_report.json", report)
    return report


def _difference(original: torch.Tensor, loaded: torch.Tensor, tolerance: float) -> tuple[float, float]:
    """Return how far two outputs differ, and how far they may."""
    expected = original.detach().double().cpu()
    actual = loaded.double()
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    allowed = tolerance * max(1.0, largest)
    if expected.shape != actual.shape:
        return math.inf, allowed
    if not expected.numel():
        return 0.0, allowed
    return float((expected - actual).abs().max()), allowed


def _stored_summary(name: str, model: nn.Module, directory: Path) -> dict[str, Any]:
    """Check every group and row of the compressed matrices in the written file.

    Returns:
        One more entry of the export report, ``stored``; none if nothing is compressed.

    Raises:
        VerificationError: a matrix disagrees with the model's record.
    """
    from safetensors.torch import load_file

    from nasframe.nn import storage
    from nasframe.nn.formats import record_of, saved_name

    record = record_of(model)
    if not record or not (directory / "model.safetensors").is_file():
        return {}
    written = load_file(directory / "model.safetensors")
    tensors = {}
    formats = {}
    for matrix, matrix_format in record.items():
        key = saved_name(model, matrix)
        if key in written:  # padding multiplies products out, so that their factors are not in the file
            tensors[matrix] = written[key]
            formats[matrix] = matrix_format
    summary = storage.summary(tensors, formats, storage.account(model))
    if summary["violations"] or summary["rows_off_grid"]:
        raise VerificationError(
            f"{name}: {summary['violations']} groups and {summary['rows_off_grid']} rows of the written matrices are "
            "not as the model's record of formats says. Expected none. Nothing was written."
        )
    return {"stored": summary}


def _refuse_existing(directory: Path, replace: bool) -> None:
    if replace:
        return
    for name in ("config.json", "arch.json"):
        if (directory / name).exists():
            raise UsageError(f"{directory}: a model lies there already. Expected a directory without {name}.")


@contextmanager
def _staging(directories: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Make a folder next to each final directory, yield a path in it with the directory's name, and clean up after."""
    places: dict[str, Path] = {}
    try:
        for name, directory in directories.items():
            with writing(directory):
                directory.parent.mkdir(parents=True, exist_ok=True)
                places[name] = Path(tempfile.mkdtemp(prefix=STAGING, dir=directory.parent)) / directory.name
        yield places
    finally:
        for place in places.values():
            shutil.rmtree(place.parent, ignore_errors=True)


def _settle(staged: Path, target: Path) -> None:
    """Give a finished directory its final name in one step, so that nobody ever sees half a model under it.

    An existing model moves into the staging folder; other files in its directory are copied to the new one.
    """
    replaced = staged.parent / REPLACED
    with writing(target):
        try:
            if target.exists():
                _bring_along(target, staged)
                os.replace(target, replaced)
            os.replace(staged, target)
        except BaseException:  # an interrupt, too, must leave a model behind
            if replaced.exists() and not target.exists():
                os.replace(replaced, target)
            raise


def _bring_along(old: Path, new: Path) -> None:
    """Copy from an old directory to a new one the files that the new one lacks."""
    for path in old.iterdir():
        target = new / path.name
        if target.exists():
            continue
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy2(path, target, follow_symlinks=False)


def clear_rests(folder: Path) -> None:
    """Remove what killed exports left in a folder; an old model that was about to be replaced comes back."""
    for rest in folder.glob(f"{STAGING}*"):
        replaced = rest / REPLACED
        if replaced.exists():
            for target in _vacant_targets(rest, folder):
                os.replace(replaced, target)
        shutil.rmtree(rest, ignore_errors=True)


def _vacant_targets(rest: Path, folder: Path) -> Iterator[Path]:
    """Yield the path that the replaced model had, unless there is something at it."""
    for staged in rest.iterdir():
        target = folder / staged.name
        if staged.name != REPLACED and not target.exists():
            yield target


def _described(path: Path) -> dict[str, Any]:
    """Return a file's entry in the export report."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
