"""The contest that samplers play, and how a command line names it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.recipe.yaml import Position, parse
from nasframe.units import parse_number

OPPONENTS = (
    "random",
    "evolution",
    "frontier",
    "optuna,sampler=TPESampler",
    "optuna,sampler=TPESampler,multivariate=true",
    "optuna,sampler=NSGAIISampler",
)
"""The samplers that every benchmark compares with, as far as they are installed."""


@dataclass(frozen=True)
class Contest:
    """The search that all samplers play.

    Args:
        space: a space that needs no network, ``{"use": "table", "path": …}``.
        objectives: metrics or costs to maximise, with ``-`` before those to minimise; the first is the score.
        bounds: cost → bounds that every evaluated architecture meets, as recipes write them.
        budget: evaluations of one play.
        reference: objective's name → the worst value that counts for the hypervolume; default: the table's worst.
        raw: also play without the search loop, to see what it saves.
        plugins: one-file plugins to load.
    """

    space: Mapping[str, Any]
    objectives: tuple[str, ...]
    bounds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    budget: int = 300
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    raw: bool = False
    plugins: tuple[str, ...] = ()


def made(
    space: Mapping[str, Any],
    objectives: str | None = None,
    caps: Sequence[str] = (),
    budget: int = 300,
    reference: str | None = None,
    raw: bool = False,
    plugins: tuple[str, ...] = (),
) -> Contest:
    """Make a contest from the words of a command line.

    Args:
        space: the table's space.
        objectives: ``accuracy,-flops``; default: the first metric, and without caps also less of the first cost.
        caps: ``flops<=50M``, or ``flops>=40M,<=50M``.
        budget: evaluations.
        reference: ``accuracy=80,flops=1e8``.
        raw: see :class:`Contest`.
        plugins: see :class:`Contest`.

    Raises:
        UsageError: a cap or a reference that cannot be read.
    """
    bounds = {}
    for text in caps:
        match = re.fullmatch(r"\s*([\w.]+)\s*([<>=].*)", text)
        if not match:
            raise UsageError(f"cap {text!r}: expected COST<=NUMBER, as in 'flops<=50M'.")
        bounds[match[1]] = match[2]
    worst = {}
    if reference:
        for text in reference.split(","):
            name, _, number = text.partition("=")
            worst[name.strip().removeprefix("-")] = parse_number(number)
    if objectives is not None:
        chosen = [text.strip() for text in objectives.split(",")]
    else:
        table = registry.make("space", space).table
        chosen = [table.metrics[0]]
        if table.costs and not bounds:
            chosen.append(f"-{table.costs[0]}")
    return Contest(space, tuple(chosen), bounds, budget, worst, raw, plugins)


def sampler_use(text: str) -> dict[str, Any]:
    """Read a sampler and its options as a command line names them.

    Args:
        text: ``evolution``, ``evolution,population=20``, ``{use: evolution, population: 20}``, or the path of a YAML
            or JSON file with such a mapping.

    Raises:
        UsageError: the text is none of these.

    >>> sampler_use("evolution,population=20,survivors=youngest")
    {'use': 'evolution', 'population': 20, 'survivors': 'youngest'}
    """
    written = text
    if Path(text).suffix in (".yaml", ".yml", ".json") and Path(text).is_file():
        written = Path(text).read_text(encoding="utf-8")
    elif not text.lstrip().startswith("{"):
        name, *options = re.split(r",(?![^\[{]*[\]}])", text)  # commas outside of brackets
        pairs = [f"use: {name}"]
        for option in options:
            if "=" not in option:
                raise UsageError(f"{text!r}: {option!r} has no value. Expected NAME,OPTION=VALUE…")
            pairs.append(option.replace("=", ": ", 1))
        written = f"{{{', '.join(pairs)}}}"
    node, problems = parse(written, Position(text, 1, 1))
    use = node.plain() if node and not problems else None
    if not isinstance(use, dict) or not isinstance(use.get("use"), str):
        raise UsageError(f"{text!r} names no sampler. Expected NAME, NAME,OPTION=VALUE… or a mapping with 'use'.")
    return use


def opponents() -> list[str]:
    """Return the opponents that are installed."""
    from importlib.util import find_spec

    samplers = registry.factories("sampler")
    has_optuna = find_spec("optuna") is not None
    names = []
    for name in OPPONENTS:
        sampler = name.partition(",")[0]
        if sampler in samplers and (sampler != "optuna" or has_optuna):
            names.append(name)
    return names
