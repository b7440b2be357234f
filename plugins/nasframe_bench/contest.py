"""The contest that samplers play, and how a command line names it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
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
CAP = re.compile(r"\s*(?P<cost>[\w.]+)\s*(?P<bound>[<>=].*)")
OPTION_COMMA = re.compile(r",(?![^\[{]*[\]}])")
"""A comma between options; one inside brackets belongs to a value."""


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
    bounds_of: dict[str, list[str]] = {}  # two caps of one cost hold together
    for text in caps:
        match = CAP.fullmatch(text)
        if not match:
            raise UsageError(f"cap {text!r}: expected COST<=NUMBER, as in 'flops<=50M'.")
        bounds_of.setdefault(match["cost"], []).append(match["bound"])
    bounds = {cost: ",".join(texts) for cost, texts in bounds_of.items()}

    worst = {}
    if reference:
        for text in reference.split(","):
            name, _, number = text.partition("=")
            # An objective may be named with its minus here too; the number is the plain cost either way.
            worst[name.strip().removeprefix("-")] = parse_number(number)

    if objectives is None:
        # A cap says already how much may be spent; without one, the cost is a second objective.
        names = _default_objectives(space, with_cost=not bounds)
    else:
        names = [text.strip() for text in objectives.split(",")]
    return Contest(space, tuple(names), bounds, budget, worst, raw, plugins)


def _default_objectives(space: Mapping[str, Any], with_cost: bool) -> list[str]:
    table = registry.make("space", space).table
    objectives = [table.metrics[0]]
    if table.costs and with_cost:
        objectives.append(f"-{table.costs[0]}")
    return objectives


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
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
        yaml = path.read_text(encoding="utf-8")
    elif text.lstrip().startswith("{"):
        yaml = text
    else:
        yaml = _options_yaml(text)
    node, problems = parse(yaml, Position(text, 1, 1))
    use = node.plain() if node and not problems else None
    if not isinstance(use, dict) or not isinstance(use.get("use"), str):
        raise UsageError(f"{text!r} names no sampler. Expected NAME, NAME,OPTION=VALUE… or a mapping with 'use'.")
    return use


def _options_yaml(text: str) -> str:
    """Turn ``NAME,OPTION=VALUE`` into YAML, so that values are read with the types that they have in recipes."""
    name, *options = OPTION_COMMA.split(text)
    pairs = [f"use: {name}"]
    for option in options:
        if "=" not in option:
            raise UsageError(f"{text!r}: {option!r} has no value. Expected NAME,OPTION=VALUE…")
        pairs.append(option.replace("=", ": ", 1))
    return f"{{{', '.join(pairs)}}}"


@dataclass(frozen=True)
class Opponents:
    """The samplers that a benchmark compares with.

    Args:
        names: as a command line names them.
        left_out: those that are installed, but cannot work with the table, each with the reason.
    """

    names: list[str]
    left_out: dict[str, str]


def opponents(domain: Any, refusal: Callable[[Mapping[str, Any]], str | None]) -> Opponents:
    """Return the opponents that are installed and can search a table.

    Args:
        domain: the table's domain.
        refusal: tries a sampler with its options, and returns why it refuses the table; ``None`` if it does not.
    """
    from importlib.util import find_spec

    from nasframe.interfaces import SamplerTraits, traits_of

    samplers = registry.factories("sampler")
    has_optuna = find_spec("optuna") is not None
    names: list[str] = []
    left_out: dict[str, str] = {}
    for name in OPPONENTS:
        sampler = name.partition(",")[0]
        # The sampler 'optuna' is registered even if the library that it wraps, an extra, is not installed.
        if sampler not in samplers or (sampler == "optuna" and not has_optuna):
            continue
        needs = traits_of(SamplerTraits, samplers[sampler].load()).needs
        reason: str | None
        if all(hasattr(domain, member) for member in needs):
            reason = refusal(sampler_use(name))
        else:
            reason = "made for knobs, which this table does not have."
        if reason is None:
            names.append(name)
        else:
            left_out[name] = reason
    return Opponents(names, left_out)
