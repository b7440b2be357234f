"""A recipe against the installed plugins: every problem at once, before any work; what is left is a plan.

Every option of every plugin and verb is checked against the signature that takes it. References between stages must
point back: ``from``, ``arch`` and a modifier's ``teacher`` name what an earlier stage saved or found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.declarations import KnownNames, Stage, budgets_of, matching, outcome_of
from nasframe.errors import NasframeError, Problem, RecipeError, listing, suggestion
from nasframe.options import groups_of, options_of, ref_kind, validate
from nasframe.plan import Plan, PlannedStage, asks_teacher
from nasframe.recipe.checks import Checker
from nasframe.recipe.loading import FORMAT, Recipe
from nasframe.recipe.names import name_fault
from nasframe.recipe.overrides import Override, verb_of
from nasframe.recipe.preflight import material_refusals, refusals
from nasframe.recipe.top_level import PLUGIN_KEYS, TopLevel
from nasframe.records import TrainOptions
from nasframe.stages.verbs import VERBS

ALWAYS = ("params", "macs")
"""Costs that every plan can tell, named or not."""
COMMON = ("name", "from", "space")
"""Options that every stage has; the framework itself understands them."""
POSITIONAL = 2
"""Leading parameters of a verb that are not options: ``work`` and ``run``."""


def resolve(recipe: Recipe) -> Plan:
    """Check a recipe against the installed plugins and make its plan.

    Raises:
        RecipeError: every problem, each with its place, dotted path, and what was expected.
    """
    check = Checker(recipe)
    plan = _plan(check)
    if plan is None:
        raise RecipeError(sorted(check.problems, key=lambda problem: problem.order))
    return plan


def check_recipe(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str | Override] = ()
) -> tuple[Plan | None, list[Problem]]:
    """Read and resolve a recipe; return its plan, or every problem of the text and of its meaning."""
    from nasframe.recipe.loading import read_recipe

    recipe, problems = read_recipe(source, overrides)
    if recipe is None:
        return None, problems
    check = Checker(recipe)
    plan = _plan(check)
    problems = sorted([*problems, *check.problems], key=lambda problem: problem.order)
    return (None if problems else plan), problems


def _plan(check: Checker) -> Plan | None:
    """Check everything and put the plan together; ``None`` where there is a problem."""
    files = _plugin_files(check)
    with registry.file_plugins(files):
        return _plan_with(check, files)


def _plan_with(check: Checker, files: Mapping[Path, tuple[Any, ...]]) -> Plan | None:
    """Check everything but the files of plugins, which are loaded, and put the plan together."""
    faults: dict[str, Path] = {}
    for file in files:
        faults |= dict.fromkeys(registry.file_faults(file), file)
    for fault, file in faults.items():
        check.problem(files[file], fault)
    _top_level(check)
    data, recipe = check.data, check.recipe
    uses = {key: check.use(key, data.get(key), (key,)) for key in PLUGIN_KEYS}
    declared = _estimators(check)
    bare = _bare_space(check, uses)
    check.own_estimators = bare.estimators if bare else {}
    check.costs = set(bare.estimators) if bare else declared.keys() | registry.factories("estimator").keys()
    check.task(uses["task"], bare)
    check.wanted = dict.fromkeys([*declared, *(name for name in ALWAYS if name in check.costs)])
    check.limits(data, ())
    stages = _Stages(check, uses, bare)
    written, planned = stages.all()
    wanted = () if bare else check.wanted
    estimators = {n: declared.get(n) or check.use("estimator", n, ("estimators", n)) for n in wanted}
    wrong = {problem.path.partition(".")[0] for problem in check.problems}
    sound = {key: None if key in wrong else uses[key] for key in ("model", "task")}
    costs = {} if "estimators" in wrong else estimators
    for place, text in material_refusals(sound["model"], sound["task"], costs, recipe.base):
        check.problem(place, text)
    if check.problems:
        return None
    name = data.get("name") or (recipe.path.stem if recipe.path else "recipe")
    seed: int = data.get("seed") or 0
    complete: dict[str, Any] = {"nasframe": FORMAT, "name": name, "description": data.get("description")}
    complete |= {
        "plugins": [str(path) for path in files],
        "seed": data.get("seed") or 0,
        **uses,
        "estimators": declared,
    }
    complete |= {key: data.get(key) for key in ("constraints", "budgets", "objectives")} | {"stages": written}
    plan = Plan(
        recipe={key: value for key, value in complete.items() if value not in (None, {}, [], "")},
        name=name, seed=seed, base=recipe.base, model=uses["model"] or {}, task=uses["task"] or {},
        space=uses["space"], sampler=uses["sampler"], estimators={n: use for n, use in estimators.items() if use},
        constraints=data.get("constraints") or {}, budgets=data.get("budgets") or {},
        objectives=data.get("objectives"), stages=planned,
    )  # fmt: skip
    for place, text in refusals(plan):
        check.problem(place, text)
    return None if check.problems else plan


def _top_level(check: Checker) -> None:
    """Check keys, their types, the format version and the name."""
    data, known = check.data, {field.name for field in fields(TopLevel)}
    switches = data.get("switches")
    words = known | {"extends"} | (switches.keys() if isinstance(switches, dict) else set())
    for key in data.keys() - known:
        hint = _home(check, key) or suggestion(key, words) or check.owners(key, registry.KINDS)
        check.problem((key,), f"unknown key. Expected one of {listing(words)}.{hint}")
    given = {key: value for key, value in data.items() if key in known and value is not None}
    for at, text in validate(given, TopLevel, skip=())[1]:
        check.problem(at, text)
    for key in ("task", "stages"):
        if not data.get(key):
            check.problem((key,), "missing. Every recipe needs a task and stages.")
    if given.get("nasframe", FORMAT) != FORMAT:
        check.problem(("nasframe",), f"format {given['nasframe']!r} is not known. This nasframe reads format {FORMAT}.")
    _name(check, given.get("name"), ("name",))


def _home(check: Checker, key: str) -> str:
    """Say where a key that stands at the top belongs, if a verb has such an option."""
    verbs = [verb for verb in VERBS if key in (*options_of(VERBS[verb].function, (), POSITIONAL), *COMMON)]
    pairs = zip(check.names, check.stages, strict=True)
    places = [f"stages.{name}.{key}" for name, stage in pairs if verb_of(stage)[0] in verbs]
    example = f", as in {places[0]}" if places else ""
    return f" Wrong level: it is an option of the stage {' or '.join(verbs)}{example}." if verbs else ""


def _name(check: Checker, name: Any, path: tuple[Any, ...], **rules: bool) -> None:
    """Report a name that cannot name files; what is no text is reported with the option's type."""
    fault = name_fault(name, **rules) if isinstance(name, str) else ""
    if fault:
        check.problem(path, fault)


def _plugin_files(check: Checker) -> dict[Path, tuple[Any, ...]]:
    """Load the one-file plugins that the recipe names; return each with its place in the recipe."""
    files: dict[Path, tuple[Any, ...]] = {}
    listed = check.data.get("plugins")
    for number, name in enumerate(listed if isinstance(listed, list) else []):
        at = ("plugins", number)
        try:
            if path := check.located(str(name), at):
                registry.add_file(path)
                files[path] = at
        except NasframeError as error:
            check.problem(at, str(error))
    return files


def _bare_space(check: Checker, uses: Mapping[str, Any]) -> Any:
    """Make the recipe's space if it needs no network, since the costs are then its own; check that there is none."""
    use, data = uses["space"], check.data
    if not use or getattr(registry.find("space", use["use"]).load(), "needs_net", True):
        if not data.get("model"):
            check.problem(("model",), "missing. Every recipe needs a model, unless its space stands without one.")
        return None
    for key in ("model", "estimators"):
        if data.get(key):
            check.problem((key,), f"space {use['use']!r} has no network, and costs of its own. Expected no {key!r}.")
    try:
        return None if check.problems else registry.make("space", use)
    except NasframeError as error:
        check.problem(("space",), str(error))
        return None


def _estimators(check: Checker) -> dict[str, dict[str, Any]]:
    """Check the declared costs; each is its own plugin unless ``use`` says another."""
    declared, found = check.data.get("estimators"), {}
    for name, value in (declared if isinstance(declared, dict) else {}).items():
        _name(check, name, ("estimators", name))
        value = {"use": name, **(value or {})} if isinstance(value, dict | None) else value
        if use := check.use("estimator", value, ("estimators", name)):
            found[name] = use
    return found


class _Stages:
    """Checks the stages in order, knowing what earlier ones saved and found."""

    def __init__(self, check: Checker, uses: Mapping[str, Any], bare: Any = None) -> None:
        self.check, self.uses, self.bare = check, uses, bare
        self.known = KnownNames()

    def all(self) -> tuple[list[dict[str, Any]], list[PlannedStage]]:
        """Return the stages as a resolved recipe writes them, and as the runner takes them."""
        written, planned = [], []
        names = self.check.names
        for number, stage in enumerate(self.check.stages):
            verb, options = verb_of(stage)
            at = ("stages", number, verb)
            if names.index(names[number]) < number:
                self.check.problem(at, f"a second stage is called {names[number]!r}. Expected a 'name:' of its own.")
            if not self.is_stage(stage, verb, at):
                continue
            self.names(names[number], verb, options, at)
            full = self.stage(verb, options, at)
            sound = {key: value for key, value in full.items() if (*at, key) not in self.check.wrong}
            self.references(verb, options, sound, at)
            self.training(verb, sound, at)
            self.outcome(names[number], verb, sound, at)
            written.append({verb: {"name": names[number], **full}})
            planned.append(PlannedStage(names[number], verb, self.arguments(verb, full)))
        return written, planned

    def names(self, stage: str, verb: str, options: Mapping[str, Any], at: tuple[Any, ...]) -> None:
        """Check the names that a stage gives: its own, what it saves, and the architectures it finds."""
        saved = options.get("save_as")
        _name(self.check, saved, (*at, "save_as"), network=True)
        if options.get("name") is not None or stage != saved:
            _name(self.check, stage, (*at, "name") if "name" in options else at)
        archs = options.get("archs")
        for name in archs if isinstance(archs, dict) else ():
            _name(self.check, name, (*at, "archs", name), rich=True, network=True)

    def is_stage(self, stage: Any, verb: str, at: tuple[Any, ...]) -> bool:
        """Report what is no stage at all."""
        if not verb or (isinstance(stage, Mapping) and not isinstance(stage[verb], dict | None)):
            self.check.problem(
                at[:2] if not verb else at, f"{stage!r} is no stage. Expected {{verb: {{option: value}}}}."
            )
        elif verb not in VERBS:
            hint = suggestion(verb, VERBS) or self.check.owners(verb, ())
            self.check.problem(at, f"unknown verb {verb!r}. Verbs: {listing([*VERBS, 'repeat'])}.{hint}")
        else:
            return True
        return False

    def stage(self, verb: str, options: dict[str, Any], at: tuple[Any, ...]) -> dict[str, Any]:
        """Check a stage's options; return them with defaults."""
        check, function = self.check, VERBS[verb].function
        known = options_of(function, (), POSITIONAL)
        common = {key: options[key] for key in COMMON if options.get(key) is not None}
        for key in ("name", "from"):
            if not isinstance(common.get(key, ""), str):
                check.problem((*at, key), f"{common[key]!r} does not fit. Expected text.")
                check.wrong.add((*at, key))
        own = {key: value for key, value in options.items() if key not in COMMON}
        if "use" in known:  # what is not the verb's own belongs to the plugin it uses
            kind = ref_kind(known["use"].annotation)
            inner = {key: own.pop(key) for key in list(own) if key not in known or key == "use"}
            if "use" not in inner:
                check.problem(at, f"missing 'use'. Expected one of {listing(registry.factories(kind))}.")
                return common
            plugin = check.use(kind, inner, at) or {}
            full = check.checked(f"stage {verb!r}", (), own, function, ("use",), POSITIONAL, at)
            return common | plugin | full
        if verb == "train" and self.uses["trainer"] is not None:
            own.setdefault("trainer", self.uses["trainer"])
        for key in [key for key in own if key not in known]:
            check.problem((*at, key), self.misplaced(verb, key, known))
            del own[key]
        if "space" in common:
            common["space"] = check.use("space", common["space"], (*at, "space"))
        if isinstance(own.get("fit"), dict):
            for where, text in validate(own["fit"], TrainOptions, skip=())[1]:
                check.problem((*at, "fit", *where), text)
        check.limits(own, at)
        return common | check.checked(f"stage {verb!r}", (), own, function, (), POSITIONAL, at)

    def misplaced(self, verb: str, key: str, known: Iterable[str]) -> str:
        """Say of an option that a verb does not have where it belongs."""
        others = [other for other in VERBS if key in options_of(VERBS[other].function, (), POSITIONAL)]
        if key in {field.name for field in fields(TopLevel)}:
            hint = " Wrong level: it belongs at the recipe's top level."
        elif others:
            hint = f" It belongs to the stage {' or '.join(others)}."
        else:
            hint = suggestion(key, known) or self.check.owners(key, registry.KINDS)
        return f"stage {verb!r} has no option {key!r}. Options: {listing([*known, *COMMON])}.{hint}"

    def references(self, verb: str, given: Mapping[str, Any], full: Mapping[str, Any], at: tuple[Any, ...]) -> None:
        """Check that names point at what an earlier stage saved or found, and that a space is there where needed."""
        if self.bare and (verb != "search" or full.get("fit") or {"from", "space"} & full.keys()):
            self.check.problem(at, "needs a network, but the recipe's space has none. Expected searches only.")
        within = full.get("within")
        if self.bare and isinstance(within, dict):
            try:
                self.bare.domain.restrict(within)
            except NasframeError as error:
                self.check.problem((*at, "within"), str(error))
        starts = {"pretrained", "random", *self.known.models}
        if isinstance(start := full.get("from"), str) and start not in starts:
            self.missing((*at, "from"), "network", start, starts)
        if isinstance(arch := full.get("arch"), str) and arch not in self.known.archs:
            self.missing((*at, "arch"), "architecture", arch, self.known.archs)
        networks = self.known.models
        for number, modifier in enumerate(full.get("modifiers") or []):
            if asks_teacher(modifier) and modifier["teacher"] not in networks:
                self.missing((*at, "modifiers", number, "teacher"), "saved network", modifier["teacher"], networks)
        needs = verb in ("search", "extract") or (verb == "train" and (full.get("sampler") or full.get("arch")))
        if needs and self.uses["space"] is None and "space" not in full and self.check.data.get("space") is None:
            self.check.problem(at, "needs a space. Expected 'space:' at the recipe's top level, or in the stage.")
        patterns, names = {"extract": ("archs", self.known.archs)}.get(verb, ("models", self.known.models))
        chosen = given.get(patterns)
        for number, pattern in enumerate(chosen if isinstance(chosen, list) else []):
            if not matching(names, [pattern]):
                self.missing((*at, patterns, number), patterns[:-1], pattern, names)
        for name, sizes in chosen.items() if isinstance(chosen, dict) else ():
            if isinstance(sizes, str) and sizes not in self.known.archs:
                self.missing((*at, patterns, name), "architecture", sizes, self.known.archs)
        for number, cost in enumerate(full.get("costs") or []):
            if cost not in self.check.costs:
                self.missing((*at, "costs", number), "cost", cost, self.check.costs)
        stage = Stage(verb, "", full)
        nothing_left = verb == "extract" and not VERBS[verb].declaration.saves(stage, self.known)
        if nothing_left and not isinstance(chosen, dict) and self.known.archs:
            self.check.problem(at, f"nothing is left to extract: {self.taken()}. Expected 'archs: {{name: found}}'.")
        elif verb == "extract" and not chosen and not self.known.archs and not self.check.problems:
            self.check.problem(at, "nothing to extract: no earlier stage finds an architecture, and 'archs' has none.")
        if verb == "export" and not chosen and not self.known.extracted:
            self.check.problem(at, "nothing to export: no earlier stage extracts a model. Expected one, or 'models'.")
        alone = [key for key in ("sampler", "arch", "within", "save_as") if full.get(key) is not None]
        if verb == "train" and full.get("models") is not None and alone:
            self.check.problem((*at, "models"), f"trains whole models under their own names. Expected no {alone[0]!r}.")
        if verb == "train" and not any(given.get(key) is not None for key in ("epochs", "max_steps")):
            self.check.problem(at, "how long to train is missing. Expected 'epochs' or 'max_steps'.")

    def taken(self) -> str:
        """Say which found architectures have names that models already have."""
        return f"{listing(self.known.archs & self.known.models)} name both an architecture and a model"

    def training(self, verb: str, full: Mapping[str, Any], at: tuple[Any, ...]) -> None:
        """Refuse options of a training that do not go together, or would have no effect."""
        if verb != "train":
            return
        sampler, problem = full.get("sampler"), self.check.problem
        if sampler is not None and full.get("arch") is not None:
            problem((*at, "arch"), "one sub-network, beside a sampler that proposes others. Expected only one of both.")
        if sampler is None and full.get("within") is not None:
            problem((*at, "within"), "restricts what a sampler proposes, but there is none. Expected 'sampler'.")
        archs, batch, parts = (full.get(key) for key in ("archs_per_step", "batch_size", "accumulate"))
        if sampler is None and isinstance(archs, int) and archs > 1:
            problem((*at, "archs_per_step"), "counts what a sampler proposes, but there is none. Expected 'sampler'.")
        if isinstance(batch, int) and isinstance(parts, int) and parts > batch:
            text = f"splits a batch of {batch} into {parts} parts. Expected at most {batch}."
            problem((*at, "accumulate"), text)

    def missing(self, path: tuple[Any, ...], what: str, name: Any, known: Iterable[str]) -> None:
        self.check.problem(
            path, f"no {what} {name!r} at this point. There are: {listing(known)}.{suggestion(name, known)}"
        )

    def outcome(self, name: str, verb: str, full: Mapping[str, Any], at: tuple[Any, ...]) -> None:
        """Note what a stage saves and finds; refuse names that another stage has given already."""
        stage = Stage(verb, name, full, budgets_of(full, self.check.data.get("budgets")))
        outcome, known = outcome_of(stage, self.known), self.known
        models, archs = set(outcome.saves), set(outcome.finds)
        # a network may be saved again, as in a repeat; extracted models and architectures are never replaced
        replaced = models & (known.models if verb == "extract" else known.extracted)
        replaced |= (archs - models) & (known.archs | known.models)
        names_archs = verb in ("extract", "transform") and isinstance(full.get("archs"), dict)
        place = (*at, "archs") if names_archs else (*at, "save_as")
        for again in sorted(replaced):
            kind = "a model" if again in known.models else "an architecture"
            self.check.problem(place, f"an earlier stage gave the name {again!r} to {kind}. Expected another.")
        self.known = known.after(outcome)
        costs = VERBS[verb].declaration.costs(stage)
        self.check.wanted |= dict.fromkeys(cost for cost in costs if cost in self.check.costs)

    def arguments(self, verb: str, full: Mapping[str, Any]) -> dict[str, Any]:
        """Turn options into the verb's keyword arguments: ``from`` is ``from_``, grouped options one object."""
        known = options_of(VERBS[verb].function, (), POSITIONAL)
        found: dict[str, Any] = {"from_": full["from"]} if "from" in full else {}
        found |= {"space": full["space"]} if "space" in full else {}
        grouped: dict[str, dict[str, Any]] = {option.group: {} for option in known.values() if option.group}
        rest = {key: value for key, value in full.items() if key not in known and key not in COMMON}
        for key, option in known.items():
            if key == "use":
                found["use"] = {"use": full.get("use"), **rest}
            elif key in full:
                (grouped[option.group] if option.group else found)[option.parameter] = full[key]
        if self.check.problems:
            return found
        return found | {group: groups_of(VERBS[verb].function)[group](**values) for group, values in grouped.items()}
