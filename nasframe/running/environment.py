"""The machine and the packages that a run's numbers may depend on, for keys of the cache and for ``env.json``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.processes import device, processor
from nasframe.stages.inputs import brief_facts
from nasframe.store import write_text

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe.store import RunStore

NUMERIC = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "optuna",
)
"""Packages whose version may change a number; optuna, an optional one, may be missing."""
LISTED = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "safetensors",
)
"""Packages whose version ``env.json`` lists."""
ABOUT_THE_RUN = ("seed", "command", "data", "plugins")
"""What ``env.json`` says besides the environment."""


def environment() -> dict[str, Any]:
    """Return the versions and the traits of this machine that may change a run's numbers, for keys of the cache."""
    import torch

    from nasframe.training.optim import native_bf16

    where = device()
    return {
        "versions": versions(NUMERIC),
        "python": platform.python_version(),
        # Other processors may sum in another order, and so may other numbers of threads.
        "device": f"{where} {_accelerator() or processor()}",
        "bf16": native_bf16(where),
        "threads": torch.get_num_threads(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    installed = {}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def write_environment(plan: Plan, store: RunStore) -> None:
    """Write ``env.json``: versions, commit, device, threads, seed and command of a run.

    A run may go on elsewhere. The file then describes where it ended, and the database keeps all environments.
    """
    facts = _facts(plan, store)
    write_text(store.directory / "env.json", json.dumps(facts, indent=2) + "\n")
    machine = {name: value for name, value in facts.items() if name not in ABOUT_THE_RUN}
    # Usually equal to the last one: only a run that was resumed elsewhere, or after an update, has several.
    known = store.get("environments", [])
    if machine not in known:
        store.put("environments", [*known, machine])


def _facts(plan: Plan, store: RunStore) -> dict[str, Any]:
    import torch

    from nasframe.training.optim import native_bf16

    where = device()
    plugins = {}
    for name, source in registry.plugins().sources.items():
        if registry.is_visible(name):
            plugins[name] = str(source)
    return {
        "nasframe": metadata.version("nasframe"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LISTED},
        "plugins": plugins,
        "git": git_commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "device": str(where),
        "accelerator": _accelerator(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "bf16": native_bf16(where),
        "seed": plan.seed,
        "command": store.get("command"),
        "data": brief_facts(store.get("data") or {}),
    }


def _accelerator() -> str | None:
    """Return the name of the accelerator that is used, or ``None`` on a CPU."""
    import torch

    where = device()
    return torch.cuda.get_device_name(where) if where.type == "cuda" else None


def git_commit() -> str | None:
    """Return the commit of the checkout that nasframe runs from, marked ``-dirty`` if files differ from it."""
    # Of nasframe's own folder: an installed package may lie inside the user's repository, which says nothing about it.
    package = Path(__file__).parents[1]
    if shutil.which("git") is None or not (package.parent / ".git").exists():
        return None
    # Tags are excluded, so that the answer is the full hash of the commit.
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=package,
        capture_output=True,
        text=True,
    )
    return answer.stdout.strip() or None
