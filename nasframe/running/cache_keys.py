"""What a stage's result depends on: the parts of its key in the cache.

A key leaves out what cannot change a number (comments, the order of options, where files lie) and takes in whatever
might: it would rather miss once too often than return the result of other code, data or settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.interfaces import SpaceTraits, member, traits_of
from nasframe.plan import aimed_costs, keeps_net, own_task, uses_supernet
from nasframe.recipe.yaml import dotted
from nasframe.records import canonical_json
from nasframe.running.environment import environment
from nasframe.running.named_files import contents, without_places
from nasframe.running.sources import names_in, sources

if TYPE_CHECKING:
    from nasframe.plan import Plan

FORMAT = 2


def stage_keys(plan: Plan, materials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of every stage's key, in order. Each has the digest of the one before, as ``upstream``.

    Args:
        plan: the resolved recipe.
        materials: what each stage would start from if it were the first, as :func:`nasframe.running.start.materials`
            returns it.
    """
    machine = environment()
    # Each key holds the one before it, so a change anywhere changes the keys of all later stages.
    upstream = ""
    keys = []
    for position in range(len(plan.stages)):
        parts = definition(plan, position)
        parts["material"] = dict(materials[position])
        parts["environment"] = machine
        # No recipe names families, so each of them may be the one that describes a network.
        parts["source"] = sources(names_in(parts) | registry.factories("family").keys())
        parts["upstream"] = upstream
        parts["format"] = FORMAT
        keys.append(parts)
        upstream = digest(parts)
    return keys


def chains(plan: Plan) -> dict[str, str]:
    """Return a digest of each stage and all before it, as far as the recipe goes, by the stage's name.

    Runs can share the stages whose digests are equal. Unlike :func:`stage_keys` this loads nothing.
    """
    # The same name may stand for other code in another recipe's files.
    files = plan.recipe.get("plugins")
    upstream = _short_digest({"plugins": contents(files)}) if files else ""
    digests = {}
    for position, stage in enumerate(plan.stages):
        upstream = _short_digest({"upstream": upstream, **definition(plan, position)})
        digests[stage.name] = upstream
    return digests


def _short_digest(parts: Mapping[str, Any]) -> str:
    return digest(parts)[:16]


def digest(parts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a key's parts; the order of their names does not matter.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def differences(mine: Any, other: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Compare the parts of two keys; yields dotted path, mine, other.

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
    """Return the parts of a recipe that a stage's result depends on, apart from the stages before it."""
    stage = plan.stages[position]
    ((verb, options),) = plan.recipe["stages"][position].items()
    trains_subnetworks = verb == "train" and bool(options.get("sampler") or options.get("arch"))
    # Only what the verb uses: another budget must not train a super-network again.
    parts: dict[str, Any] = {"stage": stage.name, "verb": verb, "options": options, "seed": plan.seed}
    if verb in ("search", "extract", "transform") or trains_subnetworks or _depends_on_space(plan, verb, options):
        parts["space"] = plan.space
    if options.get("sampler") == "shared":
        parts["sampler"] = plan.sampler
    if options.get("sampler"):
        parts["costs"] = aimed_costs(plan)  # a sampler learns of these, whatever their bounds
    # Modifiers may follow a budget of any cost.
    if verb in ("search", "evaluate") or trains_subnetworks or options.get("modifiers"):
        parts["estimators"] = plan.estimators
    if verb == "search":
        parts["constraints"] = plan.constraints
        parts["budgets"] = plan.budgets
        parts["objectives"] = plan.objectives
        parts["keeps_net"] = keeps_net(plan, stage)  # the entry of a search that kept none has no such files
    # Paths are replaced by what lies there: the same data in another folder is the same data.
    with_contents: dict[str, Any] = contents(parts, plan.base)
    if plan.teacher is not None:
        with_contents["teacher"] = without_places(plan.teacher)
    with_contents["model"] = without_places(plan.model)
    # A stage's own task in place of the recipe's: recipes with different tasks share such a stage.
    with_contents["task"] = without_places(own_task(stage) or plan.task)
    return with_contents


def _depends_on_space(plan: Plan, verb: str, options: Mapping[str, Any]) -> bool:
    """Tell whether a stage on the whole network depends on the space: on the super-network that it makes, or its costs.

    A space of slices promises to keep the network, so that recipes with different spaces share their teachers. A
    modifier may need the space all the same, for an expected cost.
    """
    trains_supernet = verb == "train" and uses_supernet(verb, options)
    if verb != "evaluate" and not trains_supernet:
        return False
    use = options.get("space") or plan.space
    if not use:
        return False
    if any(_reads_space(modifier) for modifier in options.get("modifiers") or ()):
        return True
    name, _ = registry.use_of(use)
    return not traits_of(SpaceTraits, registry.find("space", name).load()).keeps_net


def _reads_space(modifier: Any) -> bool:
    """Tell whether a modifier, as a resolved recipe writes it, may read the space; null switches one off."""
    if modifier is None:
        return False
    name, _ = registry.use_of(modifier)
    return bool(member(registry.find("modifier", name).load(), "reads_space", True))
