"""Checks the stages of a recipe in order: each may name what earlier ones saved and found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nasframe import registry
from nasframe.declarations import KnownNames, Stage, budgets_of, outcome_of
from nasframe.errors import NasframeError, listing, suggestion
from nasframe.measures import loss_fault
from nasframe.options import Fault, groups_of, ref_kind, unknown_option, validate
from nasframe.plan import PlannedStage
from nasframe.recipe.checks import Checker
from nasframe.recipe.names import name_fault
from nasframe.recipe.references import CheckedStage, idle_fault, reference_faults, replaced_names
from nasframe.recipe.stage_list import verb_of
from nasframe.recipe.top_level import TopLevel
from nasframe.records import TrainOptions
from nasframe.stages.verbs import POSITIONAL, VERBS

COMMON = ("name", "from", "space")
"""Options that every stage has; the framework itself understands them."""

Place = tuple[Any, ...]
"""Where in the recipe something stands."""


@dataclass(frozen=True)
class CheckedStages:
    """The stages of a recipe after their check.

    Args:
        written: as a resolved recipe writes them.
        planned: as the runner takes them.
    """

    written: list[dict[str, Any]]
    planned: list[PlannedStage]


class StageChecker:
    """Checks stages in order.

    Args:
        check: where problems are noted.
        uses: the recipe's model, task, space, sampler and trainer; ``None`` for those it does not have.
        bare_space: the recipe's space if it has no network.
    """

    def __init__(self, check: Checker, uses: Mapping[str, dict[str, Any] | None], bare_space: Any = None) -> None:
        self.check, self.uses, self.bare_space = check, uses, bare_space
        self.known = KnownNames()

    def check_all(self) -> CheckedStages:
        """Check every stage; an entry that is not a stage is left out of the result."""
        stages = CheckedStages([], [])
        names = self.check.names
        for number, entry in enumerate(self.check.stages):
            verb, written = verb_of(entry)
            name, at = names[number], ("stages", number, verb)
            if name in names[:number]:
                self.check.problem(at, f"a second stage is called {name!r}. Expected a 'name:' of its own.")
            if not self._is_stage(entry, verb, at):
                continue
            self._check_names(name, verb, written, at)
            options = self._options(verb, written, at)
            # What options mean can only be checked if their types fit: 'epochs: soon' cannot be compared with anything.
            sound = {key: value for key, value in options.items() if (*at, key) not in self.check.wrong}
            self._check_meaning(CheckedStage(verb, name, written, sound), at)
            stages.written.append({verb: {"name": name, **options}})
            stages.planned.append(PlannedStage(name, verb, self._arguments(verb, options)))
        return stages

    def _is_stage(self, entry: Any, verb: str, at: Place) -> bool:
        """Tell whether an entry is a stage; report it if it is not."""
        options = entry[verb] if verb and isinstance(entry, Mapping) else None
        if not verb or not isinstance(options, dict | None):
            place = at if verb else at[:2]
            self.check.problem(place, f"{entry!r} is not a stage. Expected {{verb: {{option: value}}}}.")
            return False
        if verb not in VERBS:
            hint = suggestion(verb, VERBS) or self.check.owners(verb, ())
            self.check.problem(at, f"unknown verb {verb!r}. Verbs: {listing([*VERBS, 'repeat'])}.{hint}")
            return False
        return True

    def _check_names(self, stage: str, verb: str, written: Mapping[str, Any], at: Place) -> None:
        """Check the names that a stage gives: its own, what it saves, and the architectures that it names."""
        saved = written.get("save_as")
        self._check_name(saved, (*at, "save_as"), network=True)
        has_own_name = written.get("name") is not None
        if has_own_name or stage != saved:  # else the stage is named after what it saves, which is checked already
            place = (*at, "name") if "name" in written else at
            self._check_name(stage, place)
        archs = written.get("archs")
        if isinstance(archs, dict):
            for name in archs:
                self._check_name(name, (*at, "archs", name), rich=True, network=True)

    def _check_name(self, name: Any, path: Place, **rules: bool) -> None:
        """Report a name that cannot name files; a value that is not text is reported as a wrong type."""
        fault = name_fault(name, **rules) if isinstance(name, str) else ""
        if fault:
            self.check.problem(path, fault)

    # ---- options

    def _options(self, verb: str, written: Mapping[str, Any], at: Place) -> dict[str, Any]:
        """Check a stage's options; return them with defaults."""
        common = self._common_options(written, at)
        own = {key: value for key, value in written.items() if key not in COMMON}
        if "use" in VERBS[verb].options:
            return common | self._options_with_use(verb, own, at)
        return common | self._own_options(verb, own, at)

    def _common_options(self, written: Mapping[str, Any], at: Place) -> dict[str, Any]:
        """Check the options that every stage has."""
        common = {key: written[key] for key in COMMON if written.get(key) is not None}
        for key in ("name", "from"):
            if not isinstance(common.get(key, ""), str):
                self.check.problem((*at, key), f"{common[key]!r} does not fit. Expected text.")
                self.check.wrong.add((*at, key))
        if "space" in common:
            common["space"] = self.check.use("space", common["space"], (*at, "space"))
        return common

    def _options_with_use(self, verb: str, own: Mapping[str, Any], at: Place) -> dict[str, Any]:
        """Check a verb that uses a plugin: options that the verb does not have belong to the plugin."""
        known = VERBS[verb].options
        kind = ref_kind(known["use"].annotation)
        assert kind is not None
        of_verb = {key: value for key, value in own.items() if key in known and key != "use"}
        of_plugin = {key: value for key, value in own.items() if key not in of_verb}
        if "use" not in of_plugin:
            self.check.problem(at, f"missing 'use'. Expected one of {listing(registry.factories(kind))}.")
            return {}
        plugin = self.check.use(kind, of_plugin, at) or {}
        return plugin | self._checked(verb, of_verb, at, skip=("use",))

    def _own_options(self, verb: str, own: dict[str, Any], at: Place) -> dict[str, Any]:
        """Check a verb all of whose options are its own."""
        # Written into each stage, so that the resolved recipe shows who trains it.
        if verb == "train" and self.uses["trainer"] is not None:
            own.setdefault("trainer", self.uses["trainer"])
        # The signature only says that `fit` is a mapping: its keys are those of a training.
        if isinstance(own.get("fit"), dict):
            _, faults = validate(own["fit"], TrainOptions, skip=())
            for place, text in faults:
                self.check.problem((*at, "fit", *place), text)
        known = VERBS[verb].options
        self.check.limits({key: value for key, value in own.items() if key in known}, at)
        return self._checked(verb, own, at)

    def _checked(self, verb: str, own: Mapping[str, Any], at: Place, skip: Iterable[str] = ()) -> dict[str, Any]:
        def unknown(key: str, known: Iterable[str]) -> str:
            return misplaced_option(self.check, verb, key, known)

        return self.check.checked(f"stage {verb!r}", own, VERBS[verb].function, at, unknown, skip, POSITIONAL)

    # ---- meaning

    def _check_meaning(self, stage: CheckedStage, at: Place) -> None:
        """Check what a stage refers to and needs, and note what it leaves behind."""
        for text in self._space_faults(stage):
            self.check.problem(at, text)
        if self.bare_space is not None and isinstance(stage.options.get("within"), dict):
            self._check_part_of_domain(stage.options["within"], (*at, "within"))
        faults = list(reference_faults(stage, self.known, self.check.costs))
        if stage.verb == "train":
            faults += training_faults(stage)
        # If the task's options do not tell what it measures, the run finds out before its first stage.
        if stage.options.get("winner") == "loss" and self.check.metrics is not None:
            fault = loss_fault(self.check.metrics)
            if fault:
                faults.append((("winner",), fault))
        for place, text in faults:
            self.check.problem((*at, *place), text)
        idle = idle_fault(stage, self.known)
        nothing_found = stage.verb == "extract" and not self.known.archs
        if idle and not (nothing_found and self.check.problems):  # the other problem may be why nothing was found
            self.check.problem(at, idle)
        # Even if the stage has problems: else every later stage that names its results would be reported, too.
        self._note_outcome(stage, at)

    def _space_faults(self, stage: CheckedStage) -> Iterator[str]:
        """Yield what a stage needs and the recipe does not have: a network, or a space."""
        options = stage.options
        # A space without a network looks up its scores, so nothing can be trained, extracted or evaluated.
        needs_net = stage.verb != "search" or options.get("fit") or {"from", "space"} & options.keys()
        if self.bare_space is not None and needs_net:
            yield "needs a network, but the recipe's space has none. Expected searches only."
        draws_archs = options.get("sampler") is not None or options.get("arch") is not None
        needs_space = stage.verb in ("search", "extract") or (stage.verb == "train" and draws_archs)
        has_space = "space" in options or self.check.data.get("space") is not None
        if needs_space and not has_space:
            yield "needs a space. Expected 'space:' at the recipe's top level, or in the stage."

    def _check_part_of_domain(self, within: Mapping[str, Any], at: Place) -> None:
        try:
            self.bare_space.domain.restrict(within)
        except NasframeError as error:
            self.check.problem(at, str(error))

    def _note_outcome(self, checked: CheckedStage, at: Place) -> None:
        """Note what a stage saves, finds and measures; report names that another stage has given already."""
        budgets = budgets_of(checked.options, self.check.data.get("budgets"))
        stage = Stage(checked.verb, checked.name, checked.options, budgets)
        outcome = outcome_of(stage, self.known)
        names_archs = checked.verb in ("extract", "transform") and isinstance(checked.options.get("archs"), dict)
        place = (*at, "archs") if names_archs else (*at, "save_as")
        for name in replaced_names(checked.verb, outcome.saves, outcome.finds, self.known):
            kind = "a model" if name in self.known.models else "an architecture"
            self.check.problem(place, f"an earlier stage gave the name {name!r} to {kind}. Expected another.")
        self.known = self.known.after(outcome)
        for cost in VERBS[checked.verb].declaration.costs(stage):
            if cost in self.check.costs:
                self.check.wanted[cost] = None

    # ---- the planned stage

    def _arguments(self, verb: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turn options into the verb's keyword arguments: ``from`` is ``from_``, grouped options one object."""
        known = VERBS[verb].options
        arguments: dict[str, Any] = {}
        for key, parameter in (("from", "from_"), ("space", "space")):  # "from" is a word of Python's own
            if key in options:
                arguments[parameter] = options[key]
        if "use" in known:
            of_plugin = {key: value for key, value in options.items() if key not in known and key not in COMMON}
            arguments["use"] = {"use": options.get("use"), **of_plugin}
        # Options of a group, as the many of a training, become one object of the group's class.
        grouped: dict[str, dict[str, Any]] = {option.group: {} for option in known.values() if option.group}
        for key, option in known.items():
            if key == "use" or key not in options:
                continue
            holder = grouped[option.group] if option.group else arguments
            holder[option.parameter] = options[key]
        if self.check.problems:  # values may not fit, so that no object could be made of them
            return arguments
        classes = groups_of(VERBS[verb].function)
        for group, values in grouped.items():
            arguments[group] = classes[group](**values)
        return arguments


def misplaced_option(check: Checker, verb: str, key: str, known: Iterable[str]) -> str:
    """Say that a verb has no such option, and where the option belongs."""
    other_verbs = [other for other, entry in VERBS.items() if key in entry.options]
    names = [*known, *COMMON]
    hint = ""
    if key in {field.name for field in fields(TopLevel)}:
        hint = " Wrong level: it belongs at the recipe's top level."
    elif other_verbs:
        hint = f" It belongs to the stage {' or '.join(other_verbs)}."
    elif not suggestion(key, names):  # only now, since it loads every plugin
        hint = check.owners(key, registry.KINDS)
    return unknown_option(key, names, f"stage {verb!r}", hint)


def training_faults(stage: CheckedStage) -> Iterator[Fault]:
    """Find options of a training that do not go together, or would have no effect."""
    options = stage.options
    if options.get("models") is not None:
        useless = [key for key in ("sampler", "arch", "within", "save_as") if options.get(key) is not None]
        if useless:
            yield ("models",), f"trains whole models under their own names. Expected no {useless[0]!r}."
    if stage.written.get("epochs") is None and stage.written.get("max_steps") is None:
        yield (), "how long to train is missing. Expected 'epochs' or 'max_steps'."
    yield from _sampler_faults(options)
    batch, parts = options.get("batch_size"), options.get("accumulate")
    if isinstance(batch, int) and isinstance(parts, int) and parts > batch:
        yield ("accumulate",), f"splits a batch of {batch} into {parts} parts. Expected at most {batch}."


def _sampler_faults(options: Mapping[str, Any]) -> Iterator[Fault]:
    """Find options of a training that need a sampler, or that none can have."""
    if options.get("sampler") is not None:
        if options.get("arch") is not None:
            yield ("arch",), "names one sub-network, but a sampler proposes others. Expected one or the other."
        return
    if options.get("within") is not None:
        yield ("within",), "restricts what a sampler proposes, but there is none. Expected 'sampler'."
    archs_per_step = options.get("archs_per_step")
    if isinstance(archs_per_step, int) and archs_per_step > 1:
        yield ("archs_per_step",), "counts what a sampler proposes, but there is none. Expected 'sampler'."
