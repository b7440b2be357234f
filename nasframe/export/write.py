"""Writes models as Hugging Face directories and proves, in a fresh process, that they load and compute the same.

Nothing gets its final name before it was verified; ``export_report.json`` in the directory says how.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError, VerificationError
from nasframe.export.files import FORMAT_VERSION, Mode, auto_class, stock_obstacle, write_files, write_json
from nasframe.export.verify import Verifier
from nasframe.records import Arch
from nasframe.storage import writing
from nasframe.store import write_text
from nasframe.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

TOLERANCE = 1e-5
STAGING = ".export-"
"""How the names of folders begin in which models are written before they are verified."""
REPLACED = ".replaced"


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
        directory: where; ``config.json`` must not lie there yet, other files stay.
        mode: ``stock`` for what a plain configuration can express, ``padded`` fills heads and neurons up with zeros
            so that stock classes load it, ``hetero`` keeps the true sizes and brings a modelling file.
        expected: ``{"inputs": {name: tensor}, "logits": tensor}`` that the loaded model must reproduce; default: what
            ``model`` computes on invented token ids.
        card: facts for the model card, see :func:`nasframe.export.files.card_text`.
        arch: the architecture that the model was extracted at, for ``arch.json``.
        replace: overwrite a model that lies there.

    Returns:
        The content of ``export_report.json``.

    Raises:
        UsageError: a model lies there already, or the mode cannot express this one.
        VerificationError: the directory does not load, or its logits differ; nothing was left behind.

    >>> from nasframe.testing.toy import tiny_net
    >>> target = Path(tempfile.mkdtemp()) / "small"
    >>> export(tiny_net(layers=1), None, target, mode="stock")["verified"]  # doctest: +SKIP
    True
    """
    report = export_all(
        {"model": model}, tokenizer, {"model": Path(directory)}, mode=mode, expected={"model": expected},
        card=card, archs={"model": arch}, replace=replace,
    )  # fmt: skip
    return report["model"]


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
        directories: name → where it goes.
        mode: as in :func:`export`, one for all or one a name.
        expected: name → expected inputs and logits.
        card: facts for the model cards; ``card["models"][name]`` is added for each.
        archs: name → architecture.
        replace: overwrite models that lie there.
        verifier: the fresh process, where one was started already.

    Returns:
        Name → content of its ``export_report.json``.
    """
    modes: Mapping[str, Mode] = mode if isinstance(mode, Mapping) else dict.fromkeys(models, mode)
    for name, model in models.items():
        _refuse_existing(directories[name], replace)
        if (obstacle := stock_obstacle(model)) and obstacle.endswith("no class of transformers"):
            raise UsageError(f"{name}: {obstacle}: it cannot be exported. Expected a network that transformers loads.")
        if modes[name] == "stock" and (obstacle := stock_obstacle(model)):
            raise UsageError(
                f"{name}: mode stock cannot express it: {obstacle}. Expected a plain configuration's sizes. "
                "Use mode hetero (true sizes) or padded (zero-filled, loads with stock classes)."
            )
    chosen = {name: (expected or {}).get(name) or probe(model) for name, model in models.items()}
    with _staging(directories) as staged:
        for name, model in models.items():
            with writing(directories[name]):
                write_files(staged[name], model, tokenizer, modes[name], _card_of(card, name), (archs or {}).get(name))
        logits = _reload(staged, models, modes, chosen, tokenizer is not None, verifier)
        reports = {}
        for name in models:
            reports[name] = _report(name, modes[name], staged[name], chosen[name]["logits"], logits[name])
            reports[name] |= _compressed(name, models[name], staged[name])
            with writing(directories[name]):
                write_json(staged[name] / "export_report.json", reports[name])
        for name in models:
            _settle(staged[name], directories[name])
    return reports


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
        directory: where.
        mode: as in :func:`export`; ``auto`` is ``stock`` where that can express the model, else ``hetero``.
        card: facts for the model card.
        arch: the architecture that the model was extracted at.
        replace: overwrite a model that lies there.

    >>> from nasframe.testing.toy import tiny_net
    >>> write(tiny_net(layers=1), None, Path(tempfile.mkdtemp()) / "small")
    'stock'
    """
    _refuse_existing(Path(directory), replace)
    chosen: Mode = mode if mode != "auto" else "hetero" if stock_obstacle(model) else "stock"
    with _staging({"model": Path(directory)}) as staged:
        with writing(Path(directory)):
            write_files(staged["model"], model, tokenizer, chosen, card or {}, arch)
        _settle(staged["model"], Path(directory))
    return chosen


CARD = "README.md"
OVER_BUDGET = "**Over budget:**"


def update_card(directory: Path, over_budget: str) -> None:
    """Bring a written model card up to date with the model's final costs.

    Args:
        directory: the model's.
        over_budget: by which costs it is over its budget, or nothing.
    """
    path, report_path = directory / CARD, directory / "export_report.json"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    paragraphs = [part for part in text.split("\n\n") if not part.startswith(OVER_BUDGET)]
    if over_budget:
        heading = next(number for number, part in enumerate(paragraphs) if part.startswith("# "))
        paragraphs.insert(heading + 2, f"{OVER_BUDGET} {over_budget}")  # after the heading and what the model is
    updated = "\n\n".join(paragraphs)
    if updated == text:
        return
    write_text(path, updated)
    if report_path.is_file():
        report = json.loads(report_path.read_text(encoding="utf-8"))
        report["files"][CARD] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        write_text(report_path, json.dumps(report, indent=1) + "\n")  # never in place: it may be linked to the cache


def probe(model: nn.Module) -> dict[str, Any]:
    """Compute a model's logits on fixed, invented token ids: ``{"inputs": {name: tensor}, "logits": tensor}``."""
    import torch

    from nasframe.nn.positions import usable_positions

    draw = torch.Generator().manual_seed(0)
    words = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    length = min(12, usable_positions(model) or 12)
    ids = torch.randint(min(5, words - 1), words, (4, length), generator=draw)
    mask = (torch.arange(length) < torch.tensor([12, 9, 5, 12])[:, None]).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    was_training, where = model.training, next(model.parameters()).device
    with torch.no_grad():
        logits = model.eval()(**{key: value.to(where) for key, value in inputs.items()}).logits.float().cpu()
    model.train(was_training)
    return {"inputs": inputs, "logits": logits}


def _card_of(card: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    found = dict(card or {})
    return found | dict(found.pop("models", {}).get(name, {}))


def _reload(
    staged: Mapping[str, Path],
    models: Mapping[str, nn.Module],
    modes: Mapping[str, Mode],
    expected: Mapping[str, Mapping[str, Any]],
    tokenizer: bool,
    verifier: Verifier | None,
) -> dict[str, torch.Tensor]:
    """Load the directories in one fresh process that cannot see nasframe, and return their logits."""
    from nasframe.nn.elastic import stock_class

    jobs = [
        {"auto": auto_class(stock_class(models[name])), "remote": modes[name] == "hetero", "tokenizer": tokenizer}
        for name in staged
    ]
    with nullcontext(verifier) if verifier else Verifier() as process:
        return process.logits(staged, {name: expected[name]["inputs"] for name in staged}, jobs)


def _report(name: str, mode: Mode, directory: Path, expected: torch.Tensor, found: torch.Tensor) -> dict[str, Any]:
    """Compare the logits and describe the directory.

    Raises:
        VerificationError: they differ.
    """
    import torch
    import transformers

    expected = expected.detach().float().cpu()
    scale = max(1.0, float(expected.abs().max()))
    difference = float((expected - found).abs().max()) if expected.shape == found.shape else float("inf")
    if not difference <= TOLERANCE * scale:
        raise VerificationError(
            f"{name}: the exported model's logits differ by {difference:.3g} from the sub-network's. "
            f"Expected at most {TOLERANCE * scale:.3g}. Nothing was written."
        )
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(directory.iterdir())}
    return {
        "format_version": FORMAT_VERSION,
        "mode": mode,
        "verified": True,
        "loaded": "in a fresh process, offline, without nasframe",
        "max_abs_difference": difference,
        "tolerance": TOLERANCE * scale,
        "logits": list(found.shape),
        "files": files,
        "versions": {
            "nasframe": __version__, "python": sys.version.split()[0],
            "torch": torch.__version__, "transformers": transformers.__version__,
        },
    }  # fmt: skip


def _compressed(name: str, model: nn.Module, directory: Path) -> dict[str, Any]:
    """Look at every group and row of the compressed matrices in the file that was written.

    Raises:
        VerificationError: a matrix is not what the model's record says.
    """
    from safetensors.torch import load_file

    from nasframe.nn import storage as bits
    from nasframe.nn.formats import record_of, saved_name

    if not (record := record_of(model)):
        return {}
    written = load_file(directory / "model.safetensors")
    tensors = {matrix: written[key] for matrix in record if (key := saved_name(model, matrix)) in written}
    found = bits.summary(tensors, {matrix: record[matrix] for matrix in tensors}, bits.account(model))
    if found["violations"] or found["rows_off_grid"]:
        raise VerificationError(
            f"{name}: {found['violations']} groups and {found['rows_off_grid']} rows of the written matrices are not "
            "as the model's record of formats says. Expected none. Nothing was written."
        )
    return {"stored": found}


def _refuse_existing(directory: Path, replace: bool) -> None:
    if not replace and (directory / "config.json").exists():
        raise UsageError(f"{directory}: a model lies there already. Expected a directory without config.json.")


@contextmanager
def _staging(directories: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Make places beside the final ones, under the same last name, that vanish if anything goes wrong."""
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
    """Give a finished directory its name, in one step, so that no half of a model ever has it.

    Where a model lies there already, it steps aside; what else lies beside it moves along.
    """
    replaced = staged.parent / REPLACED
    with writing(target):
        try:
            if target.exists():
                _bring_along(target, staged)
                os.replace(target, replaced)
            os.replace(staged, target)
        except BaseException:
            if replaced.exists() and not target.exists():
                os.replace(replaced, target)
            raise


def _bring_along(old: Path, new: Path) -> None:
    """Put those files of an old directory into a new one that the new one lacks."""
    for path in old.iterdir():
        target = new / path.name
        if target.exists():
            continue
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy2(path, target, follow_symlinks=False)


def clear_rests(folder: Path) -> None:
    """Remove what exports left in a folder whose process was killed; a model that stepped aside comes back."""
    for rest in folder.glob(f"{STAGING}*"):
        replaced = rest / REPLACED
        if replaced.exists():
            for target in _targets(rest, folder):
                os.replace(replaced, target)
        shutil.rmtree(rest, ignore_errors=True)


def _targets(rest: Path, folder: Path) -> Iterator[Path]:
    """Yield the place that a replaced model left, if nothing has taken it."""
    for staged in rest.iterdir():
        target = folder / staged.name
        if staged.name != REPLACED and not target.exists():
            yield target


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
