"""What a stage's result depends on: the parts of its key in the cache.

A key leaves out what cannot change a number (comments, the order of options, where files lie) and takes in whatever
might: it would rather miss once too often than return the result of other code, data or settings.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.goals import aimed_costs
from nasframe.recipe.plan import keeps_net
from nasframe.store import stamp
from nasframe.types import Work, canonical_json

if TYPE_CHECKING:
    from torch import nn

    from nasframe.recipe.plan import Plan

FORMAT = 1
NUMERIC = (
    "torch", "transformers", "tokenizers", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "optuna",
)  # fmt: skip
"""Packages whose version may change a number."""


def stage_keys(plan: Plan, start: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the parts of every stage's key, in order; each holds the digest of the one before as ``upstream``.

    Args:
        plan: the resolved recipe.
        start: what is there before the first stage, as :func:`material` digests it.
    """
    facts, upstream, found = {"material": dict(start), "environment": environment()}, "", []
    for position in range(len(plan.stages)):
        parts = definition(plan, position)
        parts |= facts | {"source": sources(names_in(parts)), "upstream": upstream, "format": FORMAT}
        found.append(parts)
        upstream = digest(parts)
    return found


def chains(plan: Plan) -> dict[str, str]:
    """Digest every stage with all before it, as far as the recipe says: stages of equal digests are shared by runs.

    Unlike :func:`stage_keys` this loads nothing.
    """
    found: dict[str, str] = {}
    files = plan.recipe.get("plugins")  # the same name may stand for other code in another recipe's files
    upstream = digest({"plugins": contents(files)})[:16] if files else ""
    for position, stage in enumerate(plan.stages):
        upstream = found[stage.name] = digest({"upstream": upstream, **definition(plan, position)})[:16]
    return found


def digest(parts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a key's parts; the order of their keys does not matter.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def definition(plan: Plan, position: int) -> dict[str, Any]:
    """Return what the recipe says that a stage's result depends on, apart from the stages before it."""
    ((verb, options),) = plan.recipe["stages"][position].items()
    trains_views = verb == "train" and bool(options.get("sampler") or options.get("arch"))
    parts: dict[str, Any] = {"stage": plan.stages[position].name, "verb": verb, "options": options, "seed": plan.seed}
    if verb in ("search", "extract", "transform") or trains_views:
        parts["space"] = plan.space
    if options.get("sampler") == "shared":
        parts["sampler"] = plan.sampler
    if options.get("sampler"):
        parts["costs"] = aimed_costs(plan)  # which ones the sampler learns of, whatever their bounds
    if verb in ("search", "evaluate") or trains_views or options.get("modifiers"):
        parts["estimators"] = plan.estimators
    if verb == "search":
        parts |= {"constraints": plan.constraints, "budgets": plan.budgets, "objectives": plan.objectives}
        parts["keeps_net"] = keeps_net(plan, plan.stages[position])
    return dict(contents(parts)) | {"model": _placeless(plan.model), "task": _placeless(plan.task)}


def contents(value: Any) -> Any:
    """Put the digest of its content in the place of every file or folder that options name."""
    if isinstance(value, Mapping):
        return {key: contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [contents(item) for item in value]
    return {"content": tree_digest(Path(value), "*")} if _is_place(value) else value


def _placeless(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where a task's data or a model's files lie: their content is part of the key by itself."""
    return {key: value for key, value in options.items() if not _is_place(value)}


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and Path(value).exists()


def material(work: Work) -> dict[str, str]:
    """Digest what a run starts from: data, weights, tokenizer."""
    return {
        "data": work.task.fingerprint,
        "weights": net_digest(work.net),
        "tokenizer": tokenizer_digest(work.tokenizer),
    }


def net_digest(net: nn.Module | None) -> str:
    """Digest a network: its class, configuration, and every tensor with its name."""
    import torch

    if net is None:  # a space that stands without one
        return ""
    config: Any = net.config
    said = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    found = hashlib.sha256(json.dumps([type(net).__name__, said], sort_keys=True, default=str).encode())
    for name, tensor in sorted(net.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest a tokenizer; how it was last called does not matter."""
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    said = {key: value for key, value in said.items() if key not in ("truncation", "padding")}
    said |= {"class": type(tokenizer).__name__, "length": tokenizer.model_max_length, "pad": tokenizer.pad_token_id}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Return the versions and the machine's traits that may change a number."""
    import torch

    from nasframe.nn.optim import native_bf16
    from nasframe.running.processes import device, processor

    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else processor()
    return {
        "versions": versions(NUMERIC), "python": platform.python_version(), "device": f"{where} {name}",
        "bf16": native_bf16(where), "threads": torch.get_num_threads(),
    }  # fmt: skip


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def names_in(value: Any) -> set[str]:
    """Name every plugin that resolved options use.

    >>> sorted(names_in({"sampler": {"use": "sandwich", "inner": {"use": "random"}}}))
    ['random', 'sandwich']
    """
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    own = {value["use"]} if isinstance(value, Mapping) and isinstance(value.get("use"), str) else set()
    return own.union(*(names_in(item) for item in items))


def sources(names: Iterable[str]) -> dict[str, Any]:
    """Digest the source of nasframe and of the packages whose plugins are named, and what those packages require.

    A name counts whatever its kind. A package of another distribution than nasframe brings its version and those of
    its requirements.
    """
    wanted = {*names, "loop"}  # a search may train candidates with it unasked
    found: dict[str, Any] = {"nasframe": source_digest(Path(__file__).parents[1])}
    entries = [e for kind in registry.KINDS for e in registry.factories(kind).values() if e.name in wanted]
    for source in {entry.source for entry in entries if entry.source.version and entry.package != "nasframe"}:
        required = (re.match(r"[\w.-]+", text) for text in metadata.requires(source.package) or ())
        found[str(source)] = versions(match.group() for match in required if match)
    digests: dict[str, list[str]] = {}
    for home in {home for entry in entries for home in _homes(entry)}:
        digests.setdefault(home.name, []).append(source_digest(home))
    return found | {name: those[0] if len(those) == 1 else sorted(those) for name, those in digests.items()}


def _homes(entry: registry.Registered) -> Iterator[Path]:
    """Yield the package or file that a plugin's code lies in."""
    if entry.source.file:
        yield Path(entry.source.file)
        return
    module = entry.target.partition(":")[0] if isinstance(entry.target, str) else entry.target.__module__
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec and spec.origin:
        origin = Path(spec.origin)
        yield origin.parent if origin.name == "__init__.py" else origin


def source_digest(home: Path) -> str:
    """Digest the code of a package, as it was when this process first asked: that is about what it has imported."""
    return file_digest(home) if home.is_file() else _package_digest(home)


@functools.cache
def _package_digest(home: Path) -> str:
    return tree_digest(home)


def tree_digest(path: Path, pattern: str = "*.py") -> str:
    """Digest a file, or those files below a folder that match, with their names."""
    if path.is_file():
        return file_digest(path)
    files = sorted(file for file in path.rglob(pattern) if file.is_file() and "__pycache__" not in file.parts)
    listed = [(file.relative_to(path).as_posix(), file_digest(file)) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; a file that is as it was is not read again."""
    return _file_digest(path, *stamp(path))


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
