"""Declares what each verb of a recipe saves, finds and measures; no other place says it.

Checks, dry runs, reports, studies and deployments ask here instead of reading options by themselves. The answers follow
from the stages as a resolved recipe writes them, so nothing has to run, and no network is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from nasframe import registry
from nasframe.errors import NasframeError
from nasframe.interfaces import member

COSTS = ("params", "backbone_params", "encoder_params", "macs", "size", "latency")
"""Costs that ``evaluate`` estimates unless it names others."""

TEACHER = "teacher"
"""The name under which ``load`` saves the recipe's teacher, unless the stage names another."""
LOADED_ON = ("select", "dev")
"""Splits on which ``load`` measures the teacher."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """A stage of a resolved recipe.

    Args:
        verb: the verb.
        name: the stage's name.
        options: as the recipe writes them.
        budgets: a search's own budgets, or else those of the recipe.
    """

    verb: str
    name: str
    options: Mapping[str, Any]
    budgets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownNames:
    """Names that earlier stages have given.

    Args:
        models: of networks, saved or extracted.
        archs: of architectures.
        extracted: of extracted models alone.
    """

    models: frozenset[str] = frozenset()
    archs: frozenset[str] = frozenset()
    extracted: frozenset[str] = frozenset()

    def after(self, outcome: Outcome) -> KnownNames:
        """Return the names that are known after one more stage."""
        models = self.models.union(outcome.saves)
        archs = self.archs.union(outcome.finds)
        extracted = self.extracted
        # Verbs that replace the network save the current one; all others that save make models beside it.
        if not declaration_of(outcome.stage.verb).replaces_net:
            extracted = extracted.union(outcome.saves)
        return KnownNames(models, archs, extracted)


@dataclass(frozen=True)
class Outcome:
    """What one stage leaves behind.

    Args:
        stage: the stage.
        saves: names of networks that later stages can start from, evaluate or export.
        finds: names of architectures; a training stage may find none after all.
        measures: split → names of the models that are measured on it.
    """

    stage: Stage
    saves: Names
    finds: Names
    measures: Mapping[str, Names]


class Declaration:
    """What a verb leaves behind, depending on its options; this base leaves nothing."""

    replaces_net = False
    """Whether the next stage begins with another network than this stage did."""

    def saves(self, stage: Stage, known: KnownNames) -> Names:
        """Name the networks that the stage saves or extracts."""
        return ()

    def finds(self, stage: Stage, known: KnownNames) -> Names:
        """Name the architectures that the stage may find."""
        return ()

    def measures(self, stage: Stage, known: KnownNames) -> Mapping[str, Names]:
        """Name the models that the stage measures, by split."""
        return {}

    def costs(self, stage: Stage) -> Names:
        """Name the costs that the stage estimates of models."""
        return ()


class Load(Declaration):
    """``load`` saves the recipe's teacher, and measures it as it stands."""

    replaces_net = True

    def saves(self, stage: Stage, known: KnownNames) -> Names:
        """Name the teacher."""
        return _saved_as(stage) or (TEACHER,)

    def measures(self, stage: Stage, known: KnownNames) -> Mapping[str, Names]:
        """Name the teacher, on the splits for choices and for reporting."""
        return dict.fromkeys(LOADED_ON, self.saves(stage, known))


class Train(Declaration):
    """``train`` saves its network under ``save_as``; a modifier or the trainer may find an architecture."""

    replaces_net = True

    def saves(self, stage: Stage, known: KnownNames) -> Names:
        """Name the trained network, if it has a name."""
        return _saved_as(stage)

    def finds(self, stage: Stage, known: KnownNames) -> Names:
        """Name the architecture like the network, or like the stage if the network has no name."""
        trains_models = stage.options.get("models") is not None  # one by one; architectures of these are not kept
        if trains_models or not may_find_arch(stage.options):
            return ()
        return _saved_as(stage) or (stage.name,)


class Transform(Declaration):
    """``transform`` saves its network under ``save_as``; a plugin with an option ``archs`` finds what that names."""

    replaces_net = True

    def saves(self, stage: Stage, known: KnownNames) -> Names:
        """Name the changed network, if it has a name."""
        return _saved_as(stage)

    def finds(self, stage: Stage, known: KnownNames) -> Names:
        """Name what the option ``archs`` of the plugin names."""
        return _written_archs(stage)


class Search(Declaration):
    """``search`` finds one winner for each of its budgets."""

    def finds(self, stage: Stage, known: KnownNames) -> Names:
        """Name the winners."""
        prefix = stage.options.get("save_as") or "best"
        return tuple(winner.name for winner in winners(str(prefix), stage.budgets))


class Extract(Declaration):
    """``extract`` makes a model of each architecture that it chooses, under the same name."""

    def saves(self, stage: Stage, known: KnownNames) -> Names:
        """Name the chosen architectures; without a choice, those that are not yet extracted."""
        chosen = stage.options.get("archs")
        if isinstance(chosen, Mapping):
            return _written_archs(stage)
        unextracted = sorted(known.archs - known.models)  # an extracted model has the name of its architecture
        return matching(unextracted, chosen or None)

    def finds(self, stage: Stage, known: KnownNames) -> Names:
        """Name the architectures that the option ``archs`` gives a name to."""
        return _written_archs(stage)


class Evaluate(Declaration):
    """``evaluate`` measures the models that its patterns choose; before anything is saved, the current network."""

    def measures(self, stage: Stage, known: KnownNames) -> Mapping[str, Names]:
        """Name the chosen models, on the stage's only split."""
        candidates = sorted(known.models) or [stage.name]  # the current network is measured under the stage's name
        split = stage.options.get("split", "dev")
        return {split: matching(candidates, stage.options.get("models"))}

    def costs(self, stage: Stage) -> Names:
        """Name the costs that the stage asks for."""
        costs = stage.options.get("costs")
        return COSTS if costs is None else tuple(costs)


DECLARATIONS: Mapping[str, Declaration] = {
    "load": Load(),
    "train": Train(),
    "transform": Transform(),
    "search": Search(),
    "extract": Extract(),
    "evaluate": Evaluate(),
    "export": Declaration(),
}


def declaration_of(verb: str) -> Declaration:
    """Return a verb's declaration; an unknown verb, as in the recipe of a newer version, declares nothing."""
    return DECLARATIONS.get(verb, Declaration())


def outcome_of(stage: Stage, known: KnownNames) -> Outcome:
    """Return what a stage leaves behind after stages that gave the names in ``known``."""
    declaration = declaration_of(stage.verb)
    saves = declaration.saves(stage, known)
    finds = declaration.finds(stage, known)
    return Outcome(stage, saves, finds, declaration.measures(stage, known))


def outcomes(recipe: Mapping[str, Any]) -> Iterator[Outcome]:
    """Yield what each stage of a resolved recipe leaves behind, in order.

    >>> stages = [{"search": {"name": "search", "save_as": "best"}}, {"extract": {"name": "extract"}}]
    >>> for outcome in outcomes({"budgets": {"encoder_params": ["50%"], "macs": []}, "stages": stages}):
    ...     print(outcome.stage.name, outcome.finds, outcome.saves)
    search ('best@50%',) ()
    extract () ('best@50%',)
    """
    known = KnownNames()
    for stage in stages_of(recipe):
        outcome = outcome_of(stage, known)
        known = known.after(outcome)
        yield outcome


def measured_models(recipe: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return split → names of the models that a resolved recipe measures on it."""
    measured: dict[str, set[str]] = {}
    for outcome in outcomes(recipe):
        for split, names in outcome.measures.items():
            measured.setdefault(split, set()).update(names)
    return measured


def stages_of(recipe: Mapping[str, Any]) -> Iterator[Stage]:
    """Yield the stages of a resolved recipe."""
    for entry in recipe.get("stages") or ():
        verb, written = next(iter(entry.items()))
        options = written or {}
        name = options.get("name") or options.get("save_as") or verb
        yield Stage(verb, str(name), options, budgets_of(options, recipe.get("budgets")))


def budgets_of(options: Mapping[str, Any], shared: Any) -> dict[str, Any]:
    """Return the budgets of a search: its own (``{}`` for none), or else those at the recipe's top level.

    >>> budgets_of({"budgets": {}}, {"macs": "50%"}), budgets_of({}, {"macs": "50%"})
    ({}, {'macs': '50%'})
    """
    own = options.get("budgets")
    budgets = shared if own is None else own
    return dict(budgets) if isinstance(budgets, Mapping) else {}


# ---- names


@dataclass(frozen=True)
class Winner:
    """A winner that a search is asked for.

    Args:
        name: the name of the architecture.
        cost: the cost that its budget bounds; ``None`` for a search without budgets.
        text: the budget as the recipe writes it.
    """

    name: str
    cost: str | None = None
    text: str = ""


def winners(prefix: str, budgets: Mapping[str, Any]) -> list[Winner]:
    """Name the winners of a search, one for each budget.

    Args:
        prefix: the search's ``save_as``.
        budgets: cost → one bound or a list of them; an empty list counts for nothing.

    >>> [winner.name for winner in winners("best", {"macs": ["50%", "30%"], "params": []})]
    ['best@50%', 'best@30%']
    >>> [winner.name for winner in winners("best", {"macs": "50%", "params": "1M"})]
    ['best@macs=50%', 'best@params=1M']
    >>> winners("best", {})
    [Winner(name='best', cost=None, text='')]
    """
    texts_of_costs = {}
    for cost, bounds in budgets.items():
        texts = [str(bound) for bound in listed(bounds)]
        if texts:
            texts_of_costs[cost] = list(dict.fromkeys(texts))  # a budget that is listed twice has one winner
    if not texts_of_costs:
        return [Winner(prefix)]
    named = []
    for cost, texts in texts_of_costs.items():
        label = f"{cost}=" if len(texts_of_costs) > 1 else ""  # a single cost goes without saying
        for text in texts:
            named.append(Winner(f"{prefix}@{label}{text}", cost, text))
    return named


def budget_of(name: str) -> tuple[str, str]:
    """Return the cost and the budget in a winner's name; the cost is empty if only one cost has budgets.

    >>> budget_of("best@macs=50%"), budget_of("best@<= 4M"), budget_of("best")
    (('macs', '50%'), ('', '<= 4M'), ('', ''))
    """
    label = name.partition("@")[2]
    # A cost begins with a letter, so that the budget "<=4M" is not taken for the cost "<" with a budget "4M".
    match = re.fullmatch(r"([A-Za-z_][\w.-]*)=(.*)", label)
    return (match[1], match[2]) if match else ("", label)


def listed(value: Any) -> list[Any]:
    """Return a value in a list, or the list that it is already.

    >>> listed("50%"), listed(["75%", "50%"])
    (['50%'], ['75%', '50%'])
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return [value]


def matching(names: Collection[str], patterns: Sequence[Any] | None) -> Names:
    """Return the names that match one of some patterns, in their order; all if there are no patterns.

    >>> matching(["teacher", "best@50%"], ["best@*"]), matching(["teacher"], None)
    (('best@50%',), ('teacher',))
    """
    if patterns is None:
        return tuple(names)
    matches = []
    for name in names:
        if any(fnmatch(name, str(pattern)) for pattern in patterns):
            matches.append(name)
    return tuple(matches)


def may_find_arch(options: Mapping[str, Any]) -> bool:
    """Tell whether a training stage may return an architecture: its trainer does, or one of its modifiers.

    A plugin says so by ``returns_arch``, formerly ``answers``. Without either, a trainer or a function may.
    """
    uses = [("trainer", options.get("trainer"))]
    for modifier in options.get("modifiers") or []:
        uses.append(("modifier", modifier))
    for kind, use in uses:
        if use is None:
            continue
        try:
            plugin, _ = registry.use_of(use)
            factory = registry.find(kind, plugin).load()
        except NasframeError:  # checks report it at its place in the recipe; until then nothing is ruled out
            return True
        # A modifier's class inherits a false from Modifier. A trainer, or a function, may return anything.
        default = kind == "trainer" or not isinstance(factory, type)
        if member(factory, "returns_arch", default):
            return True
    return False


def _saved_as(stage: Stage) -> Names:
    """Return the name in ``save_as`` alone, or nothing."""
    name = stage.options.get("save_as")
    return (name,) if isinstance(name, str) else ()


def _written_archs(stage: Stage) -> Names:
    """Return the names that the option ``archs`` gives to architectures."""
    archs = stage.options.get("archs")
    if not isinstance(archs, Mapping):
        return ()
    return tuple(map(str, archs))
