"""Writes models as Hugging Face directories and proves, in a fresh process, that they load and compute the same.

A directory gets its final name only after it was verified; ``export_report.json`` in it records how. The files
themselves are made by :mod:`nasframe.export.files`, the fresh process is :mod:`nasframe.export.verify`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError, VerificationError
from nasframe.export.files import FORMAT_VERSION, Mode, auto_class, stock_obstacle, write_files, write_json
from nasframe.export.verify import Job, Verifier
from nasframe.records import Arch
from nasframe.storage import writing
from nasframe.store import write_text
from nasframe.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

TOLERANCE = 1e-5
"""How far logits may differ, relative to the largest of them (to 1 if all are smaller)."""
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
    mode: Mode = "hetero",
    expected: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    arch: Arch | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Write one model as a Hugging Face directory and prove in a fresh process that it loads and agrees.

    Args:
        model: a network that ``nasframe.nn.blueprint`` can describe.
        tokenizer: its tokenizer, or ``None``.
        directory: the target; it must not have a ``config.json`` yet, other files in it stay.
        mode: ``stock`` for sizes that a plain configuration can express; ``padded`` fills heads and neurons up with
            zeros, so that stock classes load it; ``hetero`` keeps the true sizes and adds a modelling file.
        expected: ``{"inputs": {name: tensor}, "logits": tensor}`` that the loaded model must reproduce; default: the
            outputs of ``model`` for invented token ids.
        card: facts for the model card, see :func:`nasframe.export.files.card_text`.
        arch: the architecture that the model was extracted at, for ``arch.json``.
        replace: overwrite an existing model.

    Returns:
        The content of ``export_report.json``.

    Raises:
        UsageError: there is a model in the directory already, or the mode cannot express this one.
        VerificationError: the directory does not load, or its logits differ; nothing was left behind.

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
    mode: Mode | Mapping[str, Mode] = "hetero",
    expected: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    archs: Mapping[str, Arch | None] | None = None,
    replace: bool = False,
    verifier: Verifier | None = None,
) -> dict[str, dict[str, Any]]:
    """Export several models and verify them all in one fresh process; see :func:`export`.

    Args:
        models: name → network.
        tokenizer: the tokenizer they share, or ``None``.
        directories: name → target.
        mode: as in :func:`export`, one for all models or one for each name.
        expected: name → expected inputs and logits.
        card: facts for the model cards; ``card["models"][name]`` is added for each.
        archs: name → architecture.
        replace: overwrite existing models.
        verifier: the fresh process, if one was started already.

    Returns:
        Name → content of its ``export_report.json``.
    """
    modes: Mapping[str, Mode] = mode if isinstance(mode, Mapping) else dict.fromkeys(models, mode)
    expected = expected or {}
    archs = archs or {}
    for name, net in models.items():
        _refuse_existing(directories[name], replace)
        _refuse_inexpressible(name, net, modes[name])
    exports = []
    for name, net in models.items():
        reference = expected.get(name) or probe(net)
        exports.append(_Export(name, net, modes[name], directories[name], archs.get(name), reference))
    with _staging(directories) as staged:
        for item in exports:
            with writing(item.target):
                write_files(staged[item.name], item.net, tokenizer, item.mode, _card_of(card, item.name), item.arch)
        logits = _reload(exports, staged, tokenizer is not None, verifier)
        reports = {item.name: _report(item, staged[item.name], logits[item.name]) for item in exports}
        # All models get their names at the end, so that a run never has only some of them.
        for item in exports:
            _settle(staged[item.name], item.target)
    return reports


@dataclass(frozen=True)
class _Export:
    """A model to export.

    Args:
        name: its name.
        net: the network.
        mode: how it is written.
        target: the directory.
        arch: the architecture that it was extracted at.
        reference: ``inputs``, and the ``logits`` of them that the written model must reproduce.
    """

    name: str
    net: nn.Module
    mode: Mode
    target: Path
    arch: Arch | None
    reference: Mapping[str, Any]


def _refuse_inexpressible(name: str, model: nn.Module, mode: Mode) -> None:
    """Refuse a model that transformers has no class for, or that a plain configuration cannot express."""
    obstacle = stock_obstacle(model)
    if obstacle is None:
        return
    if obstacle.endswith("no class of transformers"):
        raise UsageError(f"{name}: {obstacle}: it cannot be exported. Expected a network that transformers loads.")
    if mode == "stock":
        raise UsageError(
            f"{name}: mode stock cannot express it: {obstacle}. Expected a plain configuration's sizes. "
            "Use mode hetero (true sizes) or padded (zero-filled, loads with stock classes)."
        )


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
            write_files(staged["model"], model, tokenizer, mode, card or {}, arch)
        _settle(staged["model"], target)
    return mode


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
    """Compute a model's logits on fixed, invented token ids: ``{"inputs": {name: tensor}, "logits": tensor}``."""
    import torch

    from nasframe.nn.positions import usable_positions

    generator = torch.Generator().manual_seed(0)
    words = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    first_word = min(5, words - 1)  # the ids below are usually special tokens
    longest = max(PROBE_LENGTHS)
    length = min(longest, usable_positions(model) or longest)
    ids = torch.randint(first_word, words, (len(PROBE_LENGTHS), length), generator=generator)
    lengths = torch.tensor(PROBE_LENGTHS)
    mask = torch.arange(length) < lengths[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    device = next(model.parameters()).device
    on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**on_device).logits.float().cpu()
    model.train(was_training)
    return {"inputs": inputs, "logits": logits}


def _card_of(card: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return the facts for one model's card: those of all models, and its own."""
    facts = dict(card or {})
    models = facts.pop("models", {})
    facts.update(models.get(name, {}))
    return facts


def _reload(
    exports: Sequence[_Export], staged: Mapping[str, Path], tokenizer: bool, verifier: Verifier | None
) -> dict[str, torch.Tensor]:
    """Load the directories in one fresh process that cannot see nasframe, and return their logits."""
    from nasframe.nn.elastic import stock_class

    jobs = {}
    for item in exports:
        jobs[item.name] = Job(
            directory=staged[item.name],
            inputs=item.reference["inputs"],
            auto=auto_class(stock_class(item.net)),
            remote=item.mode == "hetero",
            tokenizer=tokenizer,
        )
    with nullcontext(verifier) if verifier else Verifier() as process:
        return process.logits(jobs)


def _report(item: _Export, directory: Path, loaded: torch.Tensor) -> dict[str, Any]:
    """Compare the logits and the compressed matrices; write the export report and return it.

    Args:
        item: the model.
        directory: its files.
        loaded: the logits of the model that was loaded from the directory.

    Raises:
        VerificationError: they differ from those of the original.
    """
    import torch
    import transformers

    expected = item.reference["logits"].detach().float().cpu()
    largest = float(expected.abs().max())
    tolerance = TOLERANCE * max(1.0, largest)
    difference = float("inf")
    if expected.shape == loaded.shape:
        difference = float((expected - loaded).abs().max())
    if not difference <= tolerance:  # also true for nan
        raise VerificationError(
            f"{item.name}: the exported model's logits differ by {difference:.3g} from the sub-network's. "
            f"Expected at most {tolerance:.3g}. Nothing was written."
        )
    files = {path.name: _described(path) for path in sorted(directory.iterdir())}
    report = {
        "format_version": FORMAT_VERSION,
        "mode": item.mode,
        "verified": True,
        "loaded": "in a fresh process, offline, without nasframe",
        "max_abs_difference": difference,
        "tolerance": tolerance,
        "logits": list(loaded.shape),
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
    if not record:
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
    if not replace and (directory / "config.json").exists():
        raise UsageError(f"{directory}: a model lies there already. Expected a directory without config.json.")


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
