"""What samplers are compared on, and how a command line names it."""

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
    "random", "evolution", "frontier", "optuna,sampler=TPESampler", "optuna,sampler=TPESampler,multivariate=true",
    "optuna,sampler=NSGAIISampler",
)  # fmt: skip
"""Whom every benchmark plays against, as far as they are installed."""


@dataclass(frozen=True)
class Contest:
    """What all samplers play.

    Args:
        space: a space that needs no network, ``{"use": "table", "path": …}``.
        objectives: metrics or costs to maximise, ``-`` before what is to be minimised; the first is the score.
        bounds: cost → bounds that whatever is evaluated meets, as recipes write them.
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
    space: Mapping[str, Any], objectives: str | None = None, caps: Sequence[str] = (), budget: int = 300,
    reference: str | None = None, raw: bool = False, plugins: tuple[str, ...] = (),
) -> Contest:  # fmt: skip
    """Make a contest from what a command line says.

    Args:
        space: the table's space.
        objectives: ``accuracy,-flops``; default: the first metric and, where nothing is capped, less of the first cost.
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
    for text in reference.split(",") if reference else ():
        name, _, number = text.partition("=")
        worst[name.strip().removeprefix("-")] = parse_number(number)
    if objectives is None:
        table = registry.make("space", space).table
        chosen = [table.metrics[0], *(f"-{name}" for name in table.costs[:1] if not bounds)]
    else:
        chosen = [text.strip() for text in objectives.split(",")]
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
        name, *options = re.split(r",(?![^\[{]*[\]}])", text)
        if unset := [option for option in options if "=" not in option]:
            raise UsageError(f"{text!r}: {unset[0]!r} has no value. Expected NAME,OPTION=VALUE…")
        written = "{" + ", ".join([f"use: {name}", *(option.replace("=", ": ", 1) for option in options)]) + "}"
    node, problems = parse(written, Position(text, 1, 1))
    found = node.plain() if node and not problems else None
    if not isinstance(found, dict) or not isinstance(found.get("use"), str):
        raise UsageError(f"{text!r} names no sampler. Expected NAME, NAME,OPTION=VALUE… or a mapping with 'use'.")
    return found


def opponents() -> list[str]:
    """Name the opponents that are installed."""
    from importlib.util import find_spec

    known = registry.factories("sampler")
    found = [name for name in OPPONENTS if name.partition(",")[0] in known]
    return [name for name in found if not name.startswith("optuna") or find_spec("optuna")]
