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
from dataclasses import dataclass
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.digests import file_digest, files_below, tree_digest
from nasframe.plan import aimed_costs, keeps_net
from nasframe.reads import NAMES, UNKNOWN, is_below
from nasframe.recipe.yaml import dotted
from nasframe.records import canonical_json

if TYPE_CHECKING:
    from torch import nn

    from nasframe.plan import Plan
    from nasframe.stages.inputs import Material

FORMAT = 2
NUMERIC = (
    "torch", "transformers", "tokenizers", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "optuna",
)  # fmt: skip
"""Packages whose version may change a number."""


def stage_keys(plan: Plan, start: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def differences(mine: Any, other: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Compare two keys' parts; yields dotted path, mine, other.

    >>> list(differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}))
    [('b.c', 2, 3)]
    """
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        for key in {**mine, **other}:
            yield from differences(mine.get(key), other.get(key), (*at, key))
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for number, pair in enumerate(zip(mine, other, strict=True)):
            yield from differences(*pair, (*at, number))
    elif mine != other:
        yield dotted(at), mine, other


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
    return dict(contents(parts, plan.base)) | {"model": _placeless(plan.model), "task": _placeless(plan.task)}


def contents(value: Any, base: Path = Path()) -> Any:
    """Put the digest of its content beside, or in the place of, every file or folder that options name.

    Where an absolute path leads does not matter, only what lies there. A relative one may be a word that happens to
    be a file's name, so it stays.

    Args:
        value: options, as deep as they go.
        base: the recipe's folder, against which relative paths are read.
    """
    if isinstance(value, Mapping):
        return {key: item if key == "use" else contents(item, base) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [contents(item, base) for item in value]
    place = named_place(value, base)
    if place is None:
        return value
    content = {"content": tree_digest(place)}
    return content if os.path.isabs(value) else {"path": value, **content}


def named_place(value: Any, base: Path) -> Path | None:
    """Return the file or folder that an option's value names, if it names one.

    A word without a separator names a file, but no folder: folders are often called like a stage, a split or a plugin.
    Nor does a folder count that holds the recipe's own: runs may lie in it.
    """
    if not isinstance(value, str) or not value:
        return None
    place = base / os.path.expanduser(value)
    if os.path.isfile(place):
        return place
    is_path = os.sep in value or value.startswith((".", "~"))
    if not is_path or not os.path.isdir(place) or is_below(base, [os.path.realpath(place)]):
        return None
    return place


def named_places(value: Any, base: Path, at: str = "") -> Iterator[tuple[str, Path]]:
    """Yield every file or folder that options name, with the dotted path of the option.

    >>> list(named_places({"task": {"parts": [__file__]}}, Path()))[0][0]
    'task.parts.0'
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "use":
                yield from named_places(item, base, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from named_places(item, base, f"{at}.{number}")
    elif place := named_place(value, base):
        yield at, place


def _placeless(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where a task's data or a model's files lie: their content is part of the key by itself."""
    return {key: value for key, value in options.items() if not (_is_absolute(value) and os.path.exists(value))}


def _is_absolute(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Args:
        material: digests of data, weights and tokenizer, and of the files that model and task declare, for keys.
        opened: the files that were opened when these were loaded, by name, with their states. They are no part of
            keys: a process that has read a file for another run need not open it again.
    """

    material: dict[str, Any]
    opened: dict[str, str]

    def differences(self, other: Start) -> list[str]:
        """Return the names of files that differ, or else what of the material does."""
        mine, theirs = self.material, other.material
        names = []
        for name, _, _ in differences(mine["files"], theirs["files"]):
            declared, slash, inside = name.partition("/")
            names.append(f"<{declared}>{slash}{inside}")
        for name in self.opened.keys() & other.opened.keys():
            states = (self.opened[name], other.opened[name])
            if states[0] != states[1] and not all(state.startswith(NAMES) for state in states):
                names.append(name)
        if not names and not mine["files"]:  # nothing is known of the files themselves
            names += [f"the {part}" for part in ("weights", "tokenizer") if mine[part] != theirs[part]]
        return sorted(names)


def start_of(parts: Material, hidden: Iterable[str] = ()) -> Start:
    """Digest what a run starts from, and load it if that has not been done.

    Args:
        parts: what a plan names.
        hidden: real paths of the run itself, which do not count as read.
    """
    digests, names = material(parts), Names(parts)
    states, changed = parts.reads.states(hidden)
    states |= dict.fromkeys(changed, UNKNOWN)
    return Start(digests, {names.name(path): state for path, state in states.items()})


def material(parts: Material) -> dict[str, Any]:
    """Digest what a run starts from: data, weights, tokenizer, and the files that model and task declare."""
    work = parts.work
    return {
        "data": work.task.fingerprint,
        "weights": net_digest(work.net),
        "tokenizer": tokenizer_digest(work.tokenizer),
        "files": declared_files(parts),
    }


def declared_files(parts: Material) -> dict[str, str]:
    """Digest every file that model and task declare, those below declared folders too, by name.

    A name begins with what declares it, ``model/config.json``, wherever the files lie.
    """
    digests = {}
    for name, place in parts.declared():
        for inside, file in files_below(place):
            digests[f"{name}/{inside}" if inside else name] = file_digest(file)
    return digests


class Names:
    """Names for files that are the same wherever a project lies, and what they mean in a run.

    A file that an option of model or task leads to is named by the option, ``<task.path>/train.tsv``; one that they
    declare by its kind, ``<model>/config.json``; one below the recipe's folder from there; any other in full.

    Args:
        parts: what the run's plan names.
    """

    def __init__(self, parts: Material) -> None:
        plan = parts.plan
        self.base = plan.base
        self.places = dict(named_places({"model": plan.model, "task": plan.task}, plan.base)) | dict(parts.declared())

    def name(self, path: Path) -> str:
        """Return the name of a file."""
        for option, place in self.places.items():
            if is_below(path, [os.path.realpath(place)]):
                return self._inside(f"<{option}>", path, place)
        if is_below(path, [os.path.realpath(self.base)]):
            return self._inside("", path, self.base)
        return str(path)

    def place(self, name: str) -> Path:
        """Return the file of a name, in this run."""
        if not name.startswith("<"):
            return self.base / name
        option, _, inside = name[1:].partition(">")
        place = self.places.get(option, self.base / name)
        return place / inside.removeprefix("/") if inside else place

    def _inside(self, start: str, path: Path, place: Path) -> str:
        inside = Path(os.path.relpath(os.path.realpath(path), os.path.realpath(place))).as_posix()
        if inside == ".":
            return start or inside
        return f"{start}/{inside}" if start else inside


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

    from nasframe.processes import device, processor
    from nasframe.training.optim import native_bf16

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
    its requirements, a one-file plugin what it imports from beside it.
    """
    digests: dict[str, Any] = {"nasframe": source_digest(Path(__file__).parents[1])}
    entries = entries_of(names)
    for source in {entry.source for entry in entries if entry.source.version and entry.package != "nasframe"}:
        required = (re.match(r"[\w.-]+", text) for text in metadata.requires(source.package) or ())
        digests[str(source)] = versions(match.group() for match in required if match)
    by_name: dict[str, list[str]] = {}  # several one-file plugins may have one name
    for home in {home for entry in entries for home in homes(entry)}:
        by_name.setdefault(home.name, []).append(source_digest(home))
        if home.is_file():
            for name, file in imported_beside(home):
                by_name.setdefault(f"{home.name}: {name}", []).append(source_digest(file))
    for name, sources_of_name in by_name.items():
        digests[name] = sources_of_name[0] if len(sources_of_name) == 1 else sorted(sources_of_name)
    return digests


def entries_of(names: Iterable[str]) -> list[registry.Registered]:
    """Return what is registered under some names, whatever its kind."""
    wanted = {*names, "loop"}  # a search may train candidates with it unasked
    return [e for kind in registry.KINDS for e in registry.factories(kind).values() if e.name in wanted]


def homes(entry: registry.Registered) -> Iterator[Path]:
    """Yield the package or file that a plugin's code lies in."""
    if entry.source.file:
        yield Path(entry.source.file)
        return
    module = entry.target.partition(":")[0] if isinstance(entry.target, str) else entry.target.__module__
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec and spec.origin:
        origin = Path(spec.origin)
        yield origin.parent if origin.name == "__init__.py" else origin


def imported_beside(plugin: Path) -> list[tuple[str, Path]]:
    """Return the files that a one-file plugin imports from its own folder, however far, by their names in it."""
    finder = ModuleFinder(path=[str(plugin.parent)], excludes=["nasframe"])
    finder.run_script(str(plugin))
    modules: Iterable[Any] = finder.modules.values()
    files = [Path(module.__file__) for module in modules if module.__file__]
    return sorted((file.relative_to(plugin.parent).as_posix(), file) for file in files if file != plugin)


def source_digest(home: Path) -> str:
    """Digest the code of a package or file, as it was when this process first asked: about what it has imported.

    A one-file plugin is loaded again when it has changed, so its file counts as it is now.
    """
    if home.is_file() and str(home) in {source.file for source in registry.plugins().sources.values()}:
        return file_digest(home)
    return _package_digest(home)


@functools.cache
def _package_digest(home: Path) -> str:
    return tree_digest(home, "*.py")
