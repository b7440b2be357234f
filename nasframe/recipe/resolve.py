"""A recipe against the installed plugins: every problem at once, before any work; without problems it becomes a plan.

Options of plugins and verbs are checked against the signatures that take them (``nasframe.recipe.checks``). The stages
are then checked in order, since what a stage names must point back (``nasframe.recipe.stages``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.errors import NasframeError, Problem, RecipeError, listing, suggestion
from nasframe.interfaces import SpaceTraits, traits_of
from nasframe.observers import chosen_listeners
from nasframe.options import validate
from nasframe.plan import Plan
from nasframe.recipe.checks import Checker
from nasframe.recipe.loading import FORMAT, Recipe, read_recipe
from nasframe.recipe.names import name_fault
from nasframe.recipe.overrides import Override
from nasframe.recipe.preflight import input_refusals, own_task_refusals, refusals
from nasframe.recipe.stage_list import verb_of
from nasframe.recipe.stages import CheckedStages, StageChecker, common_options
from nasframe.recipe.top_level import PLUGIN_KEYS, TopLevel
from nasframe.recipe.yaml import KeyPath
from nasframe.stages.verbs import VERBS

ALWAYS = ("params", "macs")
"""Costs that every plan knows, whether the recipe names them or not: dry runs and reports show them."""
EMPTY: tuple[Any, ...] = (None, {}, [], "")
"""Values of top-level keys that a resolved recipe leaves out."""

PluginFiles = Mapping[Path, KeyPath]
"""One-file plugin → where the recipe names it."""


def resolve(recipe: Recipe) -> Plan:
    """Check a recipe against the installed plugins and make its plan.

    Raises:
        RecipeError: every problem, each with its place, dotted path, and what was expected.
    """
    check = Checker(recipe)
    plan = _plan(check)
    if plan is None:
        # In the order of the file: the checks find them in another one.
        raise RecipeError(sorted(check.problems, key=lambda problem: problem.order))
    return plan


def check_recipe(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str | Override] = ()
) -> tuple[Plan | None, list[Problem]]:
    """Read and resolve a recipe; return its plan, or every problem of the text and of its meaning.

    Args:
        source: a file, the name of a packaged recipe, or a recipe as a mapping.
        overrides: ``key=value``, ``+key=value`` or ``~key``, applied in order.
    """
    recipe, problems = read_recipe(source, overrides)
    if recipe is None:
        return None, problems
    check = Checker(recipe)
    plan = _plan(check)
    problems = sorted([*problems, *check.problems], key=lambda problem: problem.order)
    if problems:
        plan = None
    return plan, problems


@dataclass(frozen=True)
class _Parts:
    """The checked parts of a recipe.

    Args:
        files: its one-file plugins.
        uses: model, task, space, sampler and trainer, each with all its options; ``None`` for those it does not have.
        declared: its estimators by name.
        bare_space: its space if that has no network, else ``None``.
        observers: those who hear what happens, each with all its options.
    """

    files: PluginFiles
    uses: Mapping[str, dict[str, Any] | None]
    declared: Mapping[str, dict[str, Any]]
    bare_space: Any
    observers: Sequence[dict[str, Any]]


def _plan(check: Checker) -> Plan | None:
    """Check everything and put the plan together; ``None`` if there is a problem."""
    files = _load_plugin_files(check)
    # Inside, the recipe's own plugin files are found, and those of no other recipe.
    with registry.file_plugins(files):
        parts = _check_parts(check, files)
        stages = StageChecker(check, parts.uses, parts.bare_space).check_all()
        # After the stages, because some of them ask for costs that nothing else names.
        estimators = _wanted_estimators(check, parts)
        _ask_inputs(check, parts, estimators)
        if check.problems:
            return None
        plan = _put_together(check, parts, stages, estimators)
        # Plugins are asked last: they may rely on options that fit.
        for place, text in refusals(plan):
            check.problem(place, text)
    return None if check.problems else plan


def _check_parts(check: Checker, files: PluginFiles) -> _Parts:
    """Check everything at the top level; note in ``check`` which costs and metrics the stages may name."""
    for file, place in files.items():
        for fault in registry.file_faults(file):
            check.problem(place, fault)
    _check_top_level(check)
    uses = _checked_uses(check)
    declared = _check_estimators(check)
    # Costs and metrics must be known before bounds and objectives, which may name any of them.
    bare_space = _check_bare_space(check, uses)
    if bare_space is not None:
        check.own_estimators = bare_space.estimators
        check.costs = set(bare_space.estimators)
    else:
        check.costs = {*declared, *registry.factories("estimator")}
    check.task(uses["task"], bare_space)
    always = [name for name in ALWAYS if name in check.costs]
    check.wanted = dict.fromkeys([*declared, *always])
    check.limits(check.data, ())
    return _Parts(files, uses, declared, bare_space, _checked_observers(check))


def _checked_observers(check: Checker) -> list[dict[str, Any]]:
    """Check the observers, and make each once, so that one that cannot work is refused before the run begins."""
    observers: list[dict[str, Any]] = []
    written = check.data.get("observers")
    for number, value in enumerate(written if isinstance(written, list) else []):
        place = ("observers", number)
        count_before = len(check.problems)
        use = check.use("observer", value, place)
        if use is None or len(check.problems) > count_before:
            continue
        observers.append(use)
        try:
            chosen_listeners([use], {"base": check.recipe.base, "notify": lambda place, text: None})
        except NasframeError as error:
            check.problem(place, str(error))
    return observers


def _checked_uses(check: Checker) -> dict[str, dict[str, Any] | None]:
    """Check the plugins at the top level; return each with all its options."""
    data = check.data
    compresses_teacher = data.get("teacher") is not None and data.get("model") == data["teacher"]
    uses: dict[str, dict[str, Any] | None] = {}
    for key, kind in PLUGIN_KEYS.items():
        if key == "model" and compresses_teacher:
            uses[key] = None  # in its place; what the recipe wrote once is checked once, as the teacher
            continue
        uses[key] = check.use(kind, data.get(key), (key,))
    if compresses_teacher:
        uses["model"] = uses["teacher"]
    return uses


def _load_plugin_files(check: Checker) -> PluginFiles:
    """Load the one-file plugins that the recipe names; return each with its place in the recipe."""
    files: dict[Path, KeyPath] = {}
    names = check.data.get("plugins")
    if not isinstance(names, list):
        return files
    for number, name in enumerate(names):
        place = ("plugins", number)
        try:
            path = check.located(str(name), place)
            if path is not None:
                registry.add_file(path)
                files[path] = place
        except NasframeError as error:
            check.problem(place, str(error))
    return files


def _check_top_level(check: Checker) -> None:
    """Check the keys, their types, the format version and the name."""
    data = check.data
    keys = {field.name for field in fields(TopLevel)}
    for key in data:
        if key not in keys:
            check.problem((key,), _unknown_key(check, key, keys))
    values = {key: value for key, value in data.items() if key in keys and value is not None}
    _, faults = validate(values, TopLevel, skip=())
    for place, text in faults:
        check.problem(place, text)
    for key in ("task", "stages"):
        if not data.get(key):
            check.problem((key,), "missing. Every recipe needs a task and stages.")
    version = values.get("nasframe", FORMAT)
    if version != FORMAT:
        check.problem(("nasframe",), f"unknown format {version!r}. This nasframe reads format {FORMAT}.")
    _check_name(check, values.get("name"), ("name",))


def _check_name(check: Checker, name: Any, path: KeyPath) -> None:
    """Report a name that cannot name files; a name that is not text is reported as a wrong type."""
    fault = name_fault(name) if isinstance(name, str) else ""
    if fault:
        check.problem(path, fault)


def _unknown_key(check: Checker, key: str, keys: set[str]) -> str:
    """Say that there is no such key at the top level, and where it belongs."""
    words = {*keys, "extends"}
    switches = check.data.get("switches")
    if isinstance(switches, dict):
        words.update(switches)
    # The cheapest and surest hint first; looking for owners loads every plugin.
    hint = _home_of(check, key) or suggestion(key, words) or check.owners(key, registry.KINDS)
    return f"unknown key. Expected one of {listing(words)}.{hint}"


def _home_of(check: Checker, key: str) -> str:
    """Say where a key that stands at the top level belongs, if a verb has such an option."""
    verbs = [verb for verb, entry in VERBS.items() if key in entry.options or key in common_options(verb)]
    if not verbs:
        return ""
    places = []
    for name, stage in zip(check.names, check.stages, strict=True):
        verb, _ = verb_of(stage)
        if verb in verbs:
            places.append(f"stages.{name}.{key}")
    example = f", as in {places[0]}" if places else ""
    return f" Wrong level: it is an option of the stage {' or '.join(verbs)}{example}."


def _check_estimators(check: Checker) -> dict[str, dict[str, Any]]:
    """Check the declared costs; each is its own plugin unless ``use`` names another."""
    declared = check.data.get("estimators")
    estimators: dict[str, dict[str, Any]] = {}
    if not isinstance(declared, dict):
        return estimators
    for name, value in declared.items():
        place = ("estimators", name)
        _check_name(check, name, place)
        if isinstance(value, dict | None):
            value = {"use": name, **(value or {})}
        use = check.use("estimator", value, place)
        if use is not None:
            estimators[name] = use
    return estimators


def _check_bare_space(check: Checker, uses: Mapping[str, dict[str, Any] | None]) -> Any:
    """Return the recipe's space if it needs no network, so that costs are its own; else make sure there is a model."""
    use = uses["space"]
    if use is None or _needs_net(use):
        if not check.data.get("model"):
            check.problem(("model",), "missing. Every recipe needs a model, unless its space works without one.")
        return None
    for key in ("model", "teacher", "estimators"):
        if check.data.get(key):
            text = f"space {use['use']!r} has no network, and brings its own costs. Expected no {key!r}."
            check.problem((key,), text)
    if check.problems:  # its options may not fit
        return None
    try:
        return registry.make("space", use)
    except NasframeError as error:
        check.problem(("space",), str(error))
        return None


def _needs_net(space: Mapping[str, Any]) -> bool:
    """Tell whether a space chooses parts of a network, as most do, or looks up what was measured before."""
    factory = registry.find("space", space["use"]).load()
    needs_net: bool = traits_of(SpaceTraits, factory).needs_net
    return needs_net


def _wanted_estimators(check: Checker, parts: _Parts) -> dict[str, dict[str, Any]]:
    """Return the estimators of all costs that the recipe asks for; a space without a network brings its own."""
    if parts.bare_space is not None:
        return {}
    estimators: dict[str, dict[str, Any]] = {}
    for name in check.wanted:
        use = parts.declared.get(name)
        if use is None:
            use = check.use("estimator", name, ("estimators", name))
        if use is not None:
            estimators[name] = use
    return estimators


def _ask_inputs(check: Checker, parts: _Parts, estimators: Mapping[str, dict[str, Any]]) -> None:
    """Let model, teacher, task and costs say whether they go together; none is asked that has problems already."""
    # By the first word of the path: a wrong option of the model may be what the task would stumble over.
    wrong = {problem.path.partition(".")[0] for problem in check.problems}
    sound = {kind: use for kind, use in parts.uses.items() if kind not in wrong}
    costs = {} if "estimators" in wrong else estimators
    for place, text in input_refusals(
        sound.get("model"), sound.get("teacher"), sound.get("task"), costs, check.recipe.base
    ):
        check.problem(place, text)
    for place, task in check.own_tasks.items():
        if "model" not in wrong and not check.has_problem(place):
            for inside, text in own_task_refusals(sound.get("model"), task, check.recipe.base):
                check.problem((*place, *inside), text)


def _put_together(
    check: Checker, parts: _Parts, stages: CheckedStages, estimators: Mapping[str, dict[str, Any]]
) -> Plan:
    """Make the plan of a recipe without problems."""
    recipe = check.recipe
    data = recipe.data
    uses = parts.uses
    file_name = recipe.path.stem if recipe.path else "recipe"
    name = data.get("name") or file_name
    seed = data.get("seed") or 0
    constraints = data.get("constraints")
    budgets = data.get("budgets")
    objectives = data.get("objectives")
    # The resolved recipe runs by itself: every default is written out, and nothing is extended or switched any more.
    content = {
        "nasframe": FORMAT,
        "name": name,
        "description": data.get("description"),
        "plugins": [str(path) for path in parts.files],
        "seed": seed,
        **uses,
        "estimators": dict(parts.declared),
        "constraints": constraints,
        "budgets": budgets,
        "objectives": objectives,
        "observers": list(parts.observers),
        "stages": stages.written,
    }
    return Plan(
        recipe={key: value for key, value in content.items() if value not in EMPTY},
        name=name,
        seed=seed,
        base=recipe.base,
        model=uses["model"] or {},
        teacher=uses["teacher"],
        task=uses["task"] or {},
        space=uses["space"],
        sampler=uses["sampler"],
        estimators=dict(estimators),
        constraints=constraints or {},
        budgets=budgets or {},
        objectives=objectives,
        stages=stages.planned,
        observers=list(parts.observers),
    )
