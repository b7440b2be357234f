"""Checks the stages of a recipe in order: each may name what earlier ones saved and found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nasframe import registry
from nasframe.declarations import TEACHER, WITH_OWN_TASK, KnownNames, Stage, budgets_of, head_of, outcome_of
from nasframe.errors import NasframeError, UsageError, listing, suggestion
from nasframe.folders import shared_folder
from nasframe.interfaces import Evaluator, EvaluatorTraits, TrainerTraits, traits_of
from nasframe.measures import loss_fault
from nasframe.options import Fault, groups_of, ref_kind, unknown_option, validate
from nasframe.plan import PlannedStage, needs_space
from nasframe.recipe.checks import Checker
from nasframe.recipe.names import name_fault
from nasframe.recipe.references import CheckedStage, idle_fault, reference_faults, replaced_names
from nasframe.recipe.stage_list import REPEAT, verb_of
from nasframe.recipe.top_level import TopLevel
from nasframe.recipe.yaml import KeyPath
from nasframe.records import MetricFormat, TrainOptions
from nasframe.stages.trials import FitPlugins, split_fit
from nasframe.stages.verbs import POSITIONAL, VERBS

DEFAULT_EVALUATOR = "metric"
"""The evaluator of a search that names none, as the verb's signature has it."""
COMMON = ("name", "from", "space")
"""Options that every stage has; the framework itself understands them."""
OWN_TASK = "task"
"""An option that some verbs have besides: the task of that stage alone."""


def common_options(verb: str) -> tuple[str, ...]:
    """Return the options of a verb's stages that the framework itself understands.

    >>> common_options("train"), common_options("evaluate")
    (('name', 'from', 'space', 'task'), ('name', 'from', 'space'))
    """
    return (*COMMON, OWN_TASK) if verb in WITH_OWN_TASK else COMMON


USELESS_WITH_MODELS = ("sampler", "arch", "within", "save_as")
"""Options of a training that have no effect if it trains models one by one."""


@dataclass(frozen=True)
class CheckedStages:
    """The stages of a recipe after their check.

    Args:
        written: as a resolved recipe writes them.
        planned: as the runner takes them; incomplete if the recipe has problems.
    """

    written: list[dict[str, Any]]
    planned: list[PlannedStage]


@dataclass(frozen=True)
class WrittenStage:
    """A stage as the recipe gives it.

    Args:
        verb: its verb.
        name: its name, given or taken from the verb.
        options: its options, of any type.
        path: where it is in the recipe.
    """

    verb: str
    name: str
    options: Mapping[str, Any]
    path: KeyPath

    def at(self, *keys: Any) -> KeyPath:
        """Return the path of something in the stage."""
        return (*self.path, *keys)


class StageChecker:
    """Checks stages in order.

    Args:
        check: where problems are noted.
        uses: the recipe's model, task, space, sampler and trainer; ``None`` for those it does not have.
        bare_space: the recipe's space if it has no network.
    """

    def __init__(self, check: Checker, uses: Mapping[str, dict[str, Any] | None], bare_space: Any = None) -> None:
        self.check = check
        self.uses = uses
        self.bare_space = bare_space
        self.known = KnownNames(head=head_of(uses["task"]))
        self.search_metrics: dict[KeyPath, Mapping[str, MetricFormat] | None] = {}
        """Path of a search → what it measures of its trials, as far as that is known."""

    def check_all(self) -> CheckedStages:
        """Check every stage."""
        checked = CheckedStages([], [])
        names = self.check.names
        for number, entry in enumerate(self.check.stages):
            verb, options = verb_of(entry)
            stage = WrittenStage(verb, names[number], options, ("stages", number, verb))
            if stage.name in names[:number]:
                text = f"a second stage is called {stage.name!r}. Expected a 'name:' of its own."
                self.check.problem(stage.path, text)
            if not self._is_stage(entry, stage):
                continue
            self._check_names(stage)
            own_task = self._own_task(stage)
            with self.check.measuring(own_task):
                complete = self._options(stage, own_task)
                self._check_meaning(stage, complete)
            checked.written.append({verb: {"name": stage.name, **complete}})
            if not self.check.problems:  # else no plan is made, and values may not fit
                checked.planned.append(PlannedStage(stage.name, verb, verb_arguments(verb, complete)))
        return checked

    def _own_task(self, stage: WrittenStage) -> dict[str, Any] | None:
        """Check the task that a stage names for itself; return it with its defaults.

        Returns:
            The task; ``None`` if the stage has the recipe's, an empty mapping if there is a problem.
        """
        written = stage.options.get(OWN_TASK) if stage.verb in WITH_OWN_TASK else None
        if written is None:
            return None
        place = stage.at(OWN_TASK)
        if self.bare_space is not None:
            self.check.problem(place, "needs a network, but the recipe's space has none. Expected no task.")
            return {}
        task = self.check.use("task", written, place)
        if task is None or self.check.has_problem(place):
            return {}
        if task == self.uses["task"]:  # the recipe's, written once more
            return None
        self.check.own_tasks[place] = task
        return task

    def _is_stage(self, entry: Any, stage: WrittenStage) -> bool:
        """Tell whether an entry is a stage; report it if it is not."""
        verb = stage.verb
        options = None
        if verb and isinstance(entry, Mapping):
            options = entry[verb]
        if not verb or not isinstance(options, dict | None):
            path = stage.path if verb else stage.path[:2]
            self.check.problem(path, f"{entry!r} is not a stage. Expected {{verb: {{option: value}}}}.")
            return False
        if verb not in VERBS:
            verbs = listing([*VERBS, REPEAT])
            self.check.problem(stage.path, f"unknown verb {verb!r}. Verbs: {verbs}.{suggestion(verb, VERBS)}")
            return False
        return True

    def _check_names(self, stage: WrittenStage) -> None:
        """Check the names that a stage gives: its own, what it saves, and the architectures that it names."""
        options = stage.options
        saved = options.get("save_as")
        self._check_name(saved, stage.at("save_as"), network=True)
        has_own_name = options.get("name") is not None
        if has_own_name or stage.name != saved:  # else it is named after what it saves, which is checked already
            path = stage.at("name") if "name" in options else stage.path
            self._check_name(stage.name, path)
        archs = options.get("archs")
        if isinstance(archs, dict):
            for name in archs:
                self._check_name(name, stage.at("archs", name), rich=True, network=True)

    def _check_name(self, name: Any, path: KeyPath, **rules: bool) -> None:
        """Report a name that cannot name files; a value that is not text is reported as a wrong type."""
        if not isinstance(name, str):
            return
        fault = name_fault(name, **rules)
        if fault:
            self.check.problem(path, fault)

    # ---- options

    def _options(self, stage: WrittenStage, own_task: Mapping[str, Any] | None) -> dict[str, Any]:
        """Check a stage's options; return them with defaults.

        Args:
            stage: the stage.
            own_task: its own task, checked.
        """
        common = self._common_options(stage)
        if own_task:
            common[OWN_TASK] = own_task
        own = {key: value for key, value in stage.options.items() if key not in common_options(stage.verb)}
        if "use" in VERBS[stage.verb].options:
            return common | self._options_with_use(stage, own)
        return common | self._own_options(stage, own)

    def _common_options(self, stage: WrittenStage) -> dict[str, Any]:
        """Check the options that every stage has."""
        common: dict[str, Any] = {}
        for key in COMMON:
            value = stage.options.get(key)
            if value is None:
                if key == "space" and "space" in stage.options:  # a stage on the network as it was loaded
                    common["space"] = None
                continue
            common[key] = value
            if key != "space" and not isinstance(value, str):
                self.check.problem(stage.at(key), f"{value!r} does not fit. Expected text.")
                self.check.wrong.add(stage.at(key))
        if common.get("space") is not None:
            common["space"] = self.check.use("space", common["space"], stage.at("space"))
        return common

    def _options_with_use(self, stage: WrittenStage, own: Mapping[str, Any]) -> dict[str, Any]:
        """Check a verb that uses a plugin: options that the verb does not have belong to the plugin."""
        known = VERBS[stage.verb].options
        kind = ref_kind(known["use"].annotation)
        assert kind is not None
        of_verb = {key: value for key, value in own.items() if key in known and key != "use"}
        of_plugin = {key: value for key, value in own.items() if key not in of_verb}
        if "use" not in of_plugin:
            names = listing(registry.factories(kind))
            self.check.problem(stage.path, f"missing 'use'. Expected one of {names}.")
            return {}
        plugin = self.check.use(kind, of_plugin, stage.path) or {}
        return plugin | self._checked(stage, of_verb, skip=("use",))

    def _own_options(self, stage: WrittenStage, own: dict[str, Any]) -> dict[str, Any]:
        """Check a verb all of whose options are its own."""
        # Written into each stage, so that the resolved recipe shows who trains it.
        if stage.verb == "train" and self.uses["trainer"] is not None:
            own.setdefault("trainer", self.uses["trainer"])
        fit = own.get("fit")
        if isinstance(fit, dict):
            own["fit"] = self._fit(fit, stage)
        known = VERBS[stage.verb].options
        limits = {key: value for key, value in own.items() if key in known}
        metrics = None
        if stage.verb == "search":
            metrics = self.search_metrics[stage.path] = self._search_metrics(stage, own)
        self.check.limits(limits, stage.path, metrics)
        return self._checked(stage, own)

    def _search_metrics(self, stage: WrittenStage, own: Mapping[str, Any]) -> Mapping[str, MetricFormat] | None:
        """Return what a search measures of its trials, as far as that is known; report what its evaluator lacks."""
        use = own.get("evaluator") or DEFAULT_EVALUATOR
        try:
            evaluator: Evaluator = registry.make("evaluator", use, {"seed": 0})
        except NasframeError:  # reported with the other options
            return self.check.metrics
        traits = traits_of(EvaluatorTraits, evaluator)
        if not traits.reads_select and own.get("examples") is not None:
            text = "has no effect, because the evaluator measures nothing on 'select'. Expected none."
            self.check.problem(stage.at("examples"), text)
        if traits.needs_net and self.bare_space is not None:
            text = "needs a network, but the recipe's space has none. Expected another evaluator."
            self.check.problem(stage.at("evaluator"), text)
        if not self.check.metrics:
            return self.check.metrics
        primary = next(iter(self.check.metrics))
        try:
            metrics = evaluator.metrics(primary, self.check.metrics)
        except UsageError as error:
            self.check.problem(stage.at("evaluator"), str(error))
            return self.check.metrics
        shared = self.check.data.get("objectives")
        if own.get("evaluator") and own.get("objectives") is None and isinstance(shared, list):
            for objective in map(str, shared):
                fault = self.check.objective_fault(objective, metrics)
                if fault:
                    text = f"does not go with the recipe's objective {objective!r}: {fault} Or give the stage its own."
                    self.check.problem(stage.at("evaluator"), text)
        return metrics

    def _fit(self, fit: Mapping[str, Any], stage: WrittenStage) -> dict[str, Any]:
        """Check how a search trains its candidates. Its signature only says that ``fit`` is a mapping."""
        training, plugins = split_fit(fit)
        _, faults = validate(training, TrainOptions, skip=())
        for place, text in faults:
            self.check.problem(stage.at("fit", *place), text)
        if training.get("epochs") is None and training.get("max_steps") is None:
            text = "how long to train each candidate is missing. Expected 'epochs' or 'max_steps'."
            self.check.problem(stage.at("fit"), text)
        if not plugins:
            return training

        def unknown(key: str, known: Iterable[str]) -> str:
            return unknown_option(key, known, "fit")

        checked = self.check.checked("fit", plugins, FitPlugins, stage.at("fit"), unknown, skip=())
        return training | checked

    def _checked(self, stage: WrittenStage, options: Mapping[str, Any], skip: Iterable[str] = ()) -> dict[str, Any]:
        """Check options against the verb's signature; return them with defaults."""
        verb = stage.verb

        def unknown(key: str, known: Iterable[str]) -> str:
            return misplaced_option(self.check, verb, key, known)

        function = VERBS[verb].function
        return self.check.checked(f"stage {verb!r}", options, function, stage.path, unknown, skip, POSITIONAL)

    # ---- meaning

    def _check_meaning(self, written: WrittenStage, options: Mapping[str, Any]) -> None:
        """Check what a stage refers to and needs, and note what it leaves behind."""
        # What options mean can only be checked if their types fit: 'epochs: soon' cannot be compared with anything.
        sound = {key: value for key, value in options.items() if written.at(key) not in self.check.wrong}
        stage = CheckedStage(written.verb, written.name, written.options, sound)
        for text in self._needs(stage):
            self.check.problem(written.path, text)
        within = sound.get("within")
        if self.bare_space is not None and isinstance(within, dict):
            self._check_part_of_domain(within, written.at("within"))
        faults = list(reference_faults(stage, self.known, self.check.costs))
        if stage.verb == "train":
            faults += training_faults(stage)
        # If the task's options do not tell what it measures, the run finds out before its first stage.
        metrics = self.search_metrics.get(written.path)
        if stage.options.get("winner") == "loss" and metrics is not None:
            fault = loss_fault(metrics)
            if fault:
                faults.append((("winner",), fault))
        for place, text in faults:
            self.check.problem(written.at(*place), text)
        self._check_idle(stage, written.path)
        # Even if the stage has problems: else every later stage that names its results would be reported, too.
        self._note_outcome(stage, written)

    def _needs(self, stage: CheckedStage) -> Iterator[str]:
        """Yield what a stage needs and the recipe does not have: a network, a space, or a teacher."""
        if self.bare_space is not None and _needs_net(stage):
            yield "needs a network, but the recipe's space has none. Expected searches only."
        if stage.verb == "load" and self.check.data.get(TEACHER) is None:
            yield "needs a teacher. Expected 'teacher:' at the recipe's top level."
        has_space = stage.options.get("space", self.check.data.get("space")) is not None
        if not has_space and needs_space(stage.verb, stage.options):
            yield "needs a space. Expected 'space:' at the recipe's top level, or in the stage."

    def _check_part_of_domain(self, within: Mapping[str, Any], path: KeyPath) -> None:
        try:
            self.bare_space.domain.restrict(within)
        except NasframeError as error:
            self.check.problem(path, str(error))

    def _check_idle(self, stage: CheckedStage, path: KeyPath) -> None:
        """Report a stage that would have nothing to do."""
        fault = idle_fault(stage, self.known)
        if not fault:
            return
        # An earlier problem may be why no architecture was found; once it is mended, there may be one.
        nothing_found = stage.verb == "extract" and not self.known.archs
        if nothing_found and self.check.problems:
            return
        self.check.problem(path, fault)

    def _note_outcome(self, checked: CheckedStage, written: WrittenStage) -> None:
        """Note what a stage saves, finds and measures; report names that another stage has given already."""
        verb, options = checked.verb, checked.options
        budgets = budgets_of(options, self.check.data.get("budgets"))
        stage = Stage(verb, checked.name, options, budgets)
        outcome = outcome_of(stage, self.known)
        names_archs = verb in ("extract", "transform") and isinstance(options.get("archs"), dict)
        path = written.at("archs" if names_archs else "save_as")
        for name in replaced_names(verb, outcome.saves, outcome.finds, self.known):
            kind = "a model" if name in self.known.models else "an architecture"
            self.check.problem(path, f"an earlier stage gave the name {name!r} to {kind}. Expected another.")
        self.known = self.known.after(outcome)
        clash = shared_folder(sorted(self.known.models))
        if clash is not None and not set(clash).isdisjoint(outcome.saves):
            self.check.problem(path, f"{clash[0]!r} and {clash[1]!r} would share a folder. Expected another name.")
        for cost in VERBS[verb].declaration.costs(stage):
            if cost in self.check.costs:
                self.check.wanted[cost] = None


def _needs_net(stage: CheckedStage) -> bool:
    """Tell whether a stage needs a network; a plain search can do with a space that looks up its scores."""
    options = stage.options
    if stage.verb != "search" or options.get("fit"):
        return True
    return "from" in options or "space" in options  # the network to start from, and a space to cut it by


# ---- the planned stage


def verb_arguments(verb: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of a sound stage into the verb's keyword arguments."""
    known = VERBS[verb].options
    arguments: dict[str, Any] = {}
    if "from" in options:
        arguments["from_"] = options["from"]  # "from" is a word of Python's own
    for key in ("space", OWN_TASK):
        if key in options:
            arguments[key] = options[key]
    if "use" in known:
        common = common_options(verb)
        of_plugin = {key: value for key, value in options.items() if key not in known and key not in common}
        arguments["use"] = {"use": options.get("use"), **of_plugin}
    groups: dict[str, dict[str, Any]] = {option.group: {} for option in known.values() if option.group}
    for key, option in known.items():
        if key == "use" or key not in options:
            continue
        holder = groups[option.group] if option.group else arguments
        holder[option.parameter] = options[key]
    return arguments | _group_objects(verb, groups)


def _group_objects(verb: str, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Make the options of a group, as the many of a training, one object of the group's class."""
    classes = groups_of(VERBS[verb].function)
    return {group: classes[group](**values) for group, values in groups.items()}


# ---- faults of single stages


def misplaced_option(check: Checker, verb: str, key: str, known: Iterable[str]) -> str:
    """Say that a verb has no such option, and where the option belongs."""
    names = [*known, *common_options(verb)]
    other_verbs = [other for other, entry in VERBS.items() if key in entry.options]
    keys_at_top = [field.name for field in fields(TopLevel)]
    hint = ""
    if key == OWN_TASK:
        hint = f" Only {listing(WITH_OWN_TASK)} have a task of their own; all others mean the recipe's."
    elif key in keys_at_top:
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
        useless = [key for key in USELESS_WITH_MODELS if options.get(key) is not None]
        if useless:
            yield ("models",), f"trains whole models under their own names. Expected no {useless[0]!r}."
    # As written: a value that does not fit is reported already, and is not missing.
    written = stage.written
    if written.get("epochs") is None and written.get("max_steps") is None:
        yield (), "how long to train is missing. Expected 'epochs' or 'max_steps'."
    yield from _sampler_faults(options)
    yield from _trainer_faults(options)
    batch = options.get("batch_size")
    parts = options.get("accumulate")
    if isinstance(batch, int) and isinstance(parts, int) and parts > batch:
        yield ("accumulate",), f"splits a batch of {batch} into {parts} parts. Expected at most {batch}."
    if options.get("teacher_states") is not None and options.get("teacher_cache") != "run":
        yield ("teacher_states",), "has no effect without 'teacher_cache: run'."


def _trainer_faults(options: Mapping[str, Any]) -> Iterator[Fault]:
    """Find a sampler or modifiers of a training whose trainer has no place for them."""
    use = options.get("trainer")
    if use is None:
        return
    try:
        name, _ = registry.use_of(use)
        factory = registry.find("trainer", name).load()
    except NasframeError:  # reported where the trainer stands
        return
    if traits_of(TrainerTraits, factory).takes_modifiers:
        return
    for option in ("sampler", "arch", "modifiers"):
        if options.get(option):
            yield (option,), f"has no place in the loop of trainer {name!r}. Expected none."


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
