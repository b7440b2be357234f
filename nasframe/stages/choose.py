"""Turns the options of a stage into what they name: the network to start from, a sampler and its domain, models …"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from nasframe.declarations import matching
from nasframe.errors import RunError
from nasframe.interfaces import CURRENT, written_arch
from nasframe.records import canonical_json
from nasframe.search.costs import tables
from nasframe.search.guarded import GuardedSampler
from nasframe.search.restrict import joined
from nasframe.stages.regions import domain_for, regions_of

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Work
    from nasframe.records import Arch
    from nasframe.stages.session import StageSession


def start_network(stage: StageSession, name: str, work: Work) -> nn.Module:
    """Return the network that a stage starts from.

    Args:
        stage: the stage.
        name: ``pretrained``, ``random``, or the name that an earlier stage saved a network under.
        work: what the stage before left.
    """
    if name not in ("pretrained", "random"):
        return work.models[name]
    is_random = name == "random"
    net = stage.inputs.net(random=is_random, stage=stage.planned)
    if work.vocabulary is None:
        return net
    # A network that is loaded again has the model's whole vocabulary; the current tokenizer only has some of it.
    from nasframe.nn.vocabulary import shrunk_net

    return shrunk_net(net, work.vocabulary)


def space(stage: StageSession, use: Mapping[str, Any], work: Work) -> Any:
    """Return a stage's own space: the one that made its network, or a new one."""
    origin = work.origins.get(CURRENT)
    if origin is not None and origin.net is None and canonical_json(dict(origin.use)) == canonical_json(dict(use)):
        return origin.space
    return stage.inputs.space(work.net, use)


def sampler(stage: StageSession, use: Any, work: Work, bounded: Iterable[str] = ()) -> Any:
    """Return the run's shared sampler, or a new one for this stage.

    Args:
        stage: the stage.
        use: ``shared``, or the sampler's name and options.
        work: whose space is sampled.
        bounded: the costs that the stage bounds; a new sampler gets them as ``costs``.
    """
    if use == "shared":
        return stage.session.shared_sampler(work)
    assert work.space is not None
    space_domain = work.space.domain
    # The shared sampler learns of the recipe's bounds only, since it outlives this stage.
    costs = stage.session.cost_rows(work, bounded)
    of_choices = tables(stage.estimators, work.space, work.net)
    make = partial(stage.make, "sampler", use, domain=space_domain, costs=costs, tables=of_choices)
    regions = regions_of(stage.inputs, work.space, work.net)
    return GuardedSampler(make, joined(space_domain, use), regions)


def domain(stage: StageSession, space: Any, use: Any, within: Mapping[str, list[Any]] | None) -> Any:
    """Return a space's domain in the coordinates of a sampler, restricted to ``within`` if that is given."""
    return domain_for(stage.plan, space, use, within)


def arch(stage: StageSession, chosen: str | Mapping[str, Any] | None, work: Work) -> Arch | None:
    """Return the architecture that an option chooses: by the name it was found under, or by its sizes.

    Raises:
        RunError: no architecture has that name.
    """
    if chosen is None:
        return None
    if not isinstance(chosen, str):
        assert work.space is not None
        return written_arch(work.space, chosen)
    if chosen not in work.archs:
        names = ", ".join(work.archs) or "none"
        raise RunError(f"stage {stage.name}: no architecture {chosen!r}. There are: {names}.")
    return work.archs[chosen]


def models(available: Mapping[str, nn.Module], patterns: list[str] | None) -> dict[str, nn.Module]:
    """Return the models whose names match one of the patterns, or all if there are no patterns.

    Raises:
        RunError: no model matches.
    """
    chosen = {name: available[name] for name in matching(available, patterns)}
    if not chosen:
        names = ", ".join(available) or "none"
        raise RunError(f"no model matches {patterns}. There are: {names}.")
    return chosen
