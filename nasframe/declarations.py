"""Declares what each verb of a recipe saves, finds and measures; no other place says it.

Checks, dry runs, reports, studies and deployments ask here instead of reading options by themselves. The answers follow
from the stages as a resolved recipe writes them, so nothing has to run, and no network is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, TypeAlias

from nasframe import registry
from nasframe.errors import NasframeError, UsageError
from nasframe.interfaces import SamplerTraits, TaskFactoryTraits, TransformTraits, member, traits_of
from nasframe.records import canonical_json

COSTS = ("params", "backbone_params", "encoder_params", "macs", "size", "latency")
"""Costs that ``evaluate`` estimates unless it names others."""

PART_COSTS = ("backbone_params", "encoder_params")
"""Those of :data:`COSTS` that count a part which only networks of a sliceable family are known to have."""

TEACHER = "teacher"
"""The name under which ``load`` saves the recipe's teacher, unless the stage names another."""
LOADED_ON = ("select", "dev")
"""Splits on which ``load`` measures the teacher."""

WITH_OWN_TASK = ("train", "transform", "search", "extract")
"""Verbs whose stages may name a task of their own; all others mean the recipe's."""

Names = tuple[str, ...]
Budgets: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Cost → one bound or several, each with a winner of its own; or a list of mappings, each with the bounds that one
winner meets together."""


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
    budgets: Budgets = field(default_factory=dict)


@dataclass(frozen=True)
class KnownNames:
    """Names that earlier stages have given.

    Args:
        models: of networks, saved or extracted.
        archs: of architectures.
        extracted: of extracted models alone.
        head: the head that the recipe's task needs, as :func:`head_of` names it.
        heads: model → the head that it has; one that is not listed has the head of the recipe's task.
        current: the head of the network that the next stage begins with; empty for that of the recipe's task.
    """

    models: frozenset[str] = frozenset()
    archs: frozenset[str] = frozenset()
    extracted: frozenset[str] = frozenset()
    head: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)
    current: str = ""

    def head_of_model(self, name: str) -> str:
        """Return the head that a saved network has."""
        return self.heads.get(name, self.head)

    def head_of_stage(self, options: Mapping[str, Any]) -> str:
        """Return the head that a stage's task needs: its own task's, or else the recipe's."""
        return head_of(options.get("task")) or self.head

    def of_stage(self, options: Mapping[str, Any]) -> list[str]:
        """Name the networks with the head that a stage's task needs, in alphabetical order."""
        head = self.head_of_stage(options)
        return [name for name in sorted(self.models) if self.head_of_model(name) == head]

    def after(self, outcome: Outcome) -> KnownNames:
        """Return the names that are known after one more stage."""
        models = self.models.union(outcome.saves)
        archs = self.archs.union(outcome.finds)
        extracted = self.extracted
        # Verbs that replace the network save the current one; all others that save make models beside it.
        if not declaration_of(outcome.stage.verb).replaces_net:
            extracted = extracted.union(outcome.saves)
        return KnownNames(models, archs, extracted, self.head, self._heads_after(outcome), self._current_after(outcome))

    def _heads_after(self, outcome: Outcome) -> dict[str, str]:
        """Return the heads of models after one more stage."""
        options = outcome.stage.options
        head = self.head_of_stage(options)
        heads = dict(self.heads)
        heads.update(dict.fromkeys(outcome.saves, head))
        if gives_head(outcome.stage.verb, options):
            named = matching(sorted(self.models), options.get("models") or ())
            heads.update(dict.fromkeys(named, head))
        return heads

    def _current_after(self, outcome: Outcome) -> str:
        """Return the head of the network that the stage after one more stage begins with."""
        stage = outcome.stage
        if declaration_of(stage.verb).replaces_net and not works_on_models(stage.verb, stage.options):
            return self.head_of_stage(stage.options)
        start = stage.options.get("from")
        if start is None:
            return self.current or self.head
        if start in ("pretrained", "random"):
            return self.head_of_stage(stage.options)
        return self.head_of_model(start)


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
        # The current network is measured under the stage's name. Networks with another task's head cannot be measured.
        candidates = known.of_stage({}) or [stage.name]
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
    known = names_at_start(recipe)
    for stage in stages_of(recipe):
        outcome = outcome_of(stage, known)
        known = known.after(outcome)
        yield outcome


def names_at_start(recipe: Mapping[str, Any]) -> KnownNames:
    """Return what is known before the first stage of a recipe: no names, and the head that its task needs."""
    return KnownNames(head=head_of(recipe.get("task")))


def known_before(recipe: Mapping[str, Any], stage: str) -> KnownNames:
    """Return the names that are known when a stage of a resolved recipe begins."""
    known = names_at_start(recipe)
    for outcome in outcomes(recipe):
        if outcome.stage.name == stage:
            break
        known = known.after(outcome)
    return known


def head_of(task: Any) -> str:
    """Name the head that a task needs, empty if the task is not known. Networks can share tasks with equal heads.

    A head for classes belongs to one task alone, since its outputs mean that task's classes. All other heads, as those
    that predict tokens, are the same whatever the data are.

    >>> head_of({"use": "causal_lm", "train": "notes.txt"})
    'AutoModelForCausalLM'
    """
    if not task:
        return ""
    try:
        name, options = registry.use_of(task)
        factory = registry.find("task", name).load()
    except NasframeError:  # reported where the task stands
        return ""
    auto_class = traits_of(TaskFactoryTraits, factory).auto_class
    if auto_class.endswith("Classification"):
        return canonical_json({"use": name, **options})
    return auto_class


def works_on_models(verb: str, options: Mapping[str, Any]) -> bool:
    """Tell whether a stage changes models that it names one by one, and leaves the current network as it is."""
    return verb in ("train", "transform") and options.get("models") is not None


def gives_head(verb: str, options: Mapping[str, Any]) -> bool:
    """Tell whether a stage gives networks the head that its task needs, as the transform ``new_head`` does."""
    if verb != "transform":
        return False
    try:
        name, _ = registry.use_of(options.get("use"))
        factory = registry.find("transform", name).load()
    except NasframeError:  # reported where the transform stands
        return False
    return traits_of(TransformTraits, factory).gives_head


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


def budgets_of(options: Mapping[str, Any], shared: Any) -> Budgets:
    """Return the budgets of a search: its own (``{}`` for none), or else those at the recipe's top level.

    >>> budgets_of({"budgets": {}}, {"macs": "50%"}), budgets_of({}, {"macs": "50%"})
    ({}, {'macs': '50%'})
    >>> budgets_of({}, [{"macs": "50%", "latency": "12 ms"}])
    [{'macs': '50%', 'latency': '12 ms'}]
    """
    own = options.get("budgets")
    budgets = shared if own is None else own
    if isinstance(budgets, Mapping):
        return dict(budgets)
    if isinstance(budgets, list | tuple):
        return [dict(joint) for joint in budgets if isinstance(joint, Mapping)]
    return {}


def budget_texts(budgets: Budgets) -> list[dict[str, str]]:
    """Return the bounds of each winner as the recipe writes them: cost → text. A repeated budget has one winner.

    >>> budget_texts({"macs": ["50%", "30%"], "params": []})
    [{'macs': '50%'}, {'macs': '30%'}]
    >>> budget_texts([{"macs": "50%", "latency": "12 ms"}])
    [{'macs': '50%', 'latency': '12 ms'}]
    """
    written: list[dict[str, str]] = []
    same: Callable[[str], str] = str
    if isinstance(budgets, Mapping):
        for cost, bounds in budgets.items():
            written += [{cost: str(bound)} for bound in listed(bounds)]
    else:
        written += [{cost: str(bound) for cost, bound in joint.items()} for joint in budgets]
        same = _without_spaces  # as in the names of winners of joint budgets
    distinct: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    for texts in written:
        if texts:
            distinct.setdefault(frozenset((cost, same(text)) for cost, text in texts.items()), texts)
    return list(distinct.values())


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def budgeted_costs(budgets: Budgets) -> list[str]:
    """Name the costs that budgets bound, each once.

    >>> budgeted_costs([{"macs": "50%", "latency": "12ms"}, {"macs": "30%"}])
    ['macs', 'latency']
    """
    if isinstance(budgets, Mapping):
        return list(budgets)
    return list(dict.fromkeys(cost for joint in budgets for cost in joint))


# ---- names


@dataclass(frozen=True)
class Winner:
    """A winner that a search is asked for.

    Args:
        name: the name of the architecture.
        texts: cost → its bounds as the recipe writes them; empty for a search without budgets.
    """

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)


def winners(prefix: str, budgets: Budgets) -> list[Winner]:
    """Name the winners of a search, one for each budget.

    Args:
        prefix: the search's ``save_as``.
        budgets: cost → one bound or a list of them, where an empty list counts for nothing; or a list of mappings,
            each with the bounds that one winner meets together.

    >>> [winner.name for winner in winners("best", {"macs": ["50%", "30%"], "params": []})]
    ['best@50%', 'best@30%']
    >>> [winner.name for winner in winners("best", {"macs": "50%", "params": "1M"})]
    ['best@macs=50%', 'best@params=1M']
    >>> [winner.name for winner in winners("best", [{"macs": "50%", "latency": "12 ms"}, {"macs": "30%"}])]
    ['best@macs=50%,latency=12ms', 'best@macs=30%']
    >>> winners("best", {})
    [Winner(name='best', texts={})]
    """
    budgets_as_written = budget_texts(budgets)
    if not budgets_as_written:
        return [Winner(prefix)]
    costs = {cost for texts in budgets_as_written for cost in texts}
    named = []
    for texts in budgets_as_written:
        if len(costs) == 1:  # a single cost goes without saying
            label = next(iter(texts.values()))
        elif len(texts) == 1:
            label = ",".join(f"{cost}={text}" for cost, text in texts.items())
        else:
            label = ",".join(f"{cost}={_without_spaces(text)}" for cost, text in texts.items())
        named.append(Winner(f"{prefix}@{label}", texts))
    return named


def bounds_in(name: str) -> dict[str, str]:
    """Return the bounds in a winner's name by cost; the cost is empty if only one cost has budgets.

    >>> bounds_in("best@macs=50%,latency=12ms"), bounds_in("best@<= 4M"), bounds_in("best")
    ({'macs': '50%', 'latency': '12ms'}, {'': '<= 4M'}, {})
    """
    label = name.partition("@")[2]
    if not label:
        return {}
    # A cost begins with a letter, so that the budget "<=4M" is not taken for the cost "<" with a budget "4M". A band
    # has a comma, too: what follows a comma is another cost's only if that is named.
    bounds = {}
    for part in re.split(r",(?=[A-Za-z_][\w.-]*=)", label):
        match = re.fullmatch(r"([A-Za-z_][\w.-]*)=(.*)", part)
        if match is None:
            return {"": label}
        bounds[match[1]] = match[2]
    return bounds


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


def remark_on_random_start(sampler: Any, evaluations: int) -> str | None:
    """Say that a search ends before its sampler learns from scores; ``None`` if it does not, or if that is not known.

    Args:
        sampler: the sampler as a recipe names it, of a name that is registered.
        evaluations: how many there are.

    Raises:
        UsageError: the sampler's ``random_start`` names no option that it has.

    >>> remark_on_random_start({"use": "evolution", "population": 8}, 8)
    'its first 8 proposals are random, and there are only 8 evaluations.'
    """
    name, options = registry.use_of(sampler)
    factory = registry.find("sampler", name).load()
    option = traits_of(SamplerTraits, factory).random_start
    if not option:
        return None
    parameters = inspect.signature(factory).parameters
    if option not in parameters:
        raise UsageError(f"sampler {name!r}: random_start is {option!r}. Expected one of its options.")
    count = options.get(option, parameters[option].default)
    if not isinstance(count, int) or count < evaluations:
        return None
    return f"its first {count} proposals are random, and there are only {evaluations} evaluations."


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
