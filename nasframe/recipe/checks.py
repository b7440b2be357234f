"""Checks that parts of a recipe share: plugins and their options, files, bounds. Problems are collected, not raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.declarations import budget_texts, listed
from nasframe.errors import NasframeError, Problem, listing, suggestion
from nasframe.interfaces import EstimatorTraits, traits_of
from nasframe.measures import PRIMARY, objective_fault, possible_metrics
from nasframe.options import (
    INJECTED,
    Option,
    is_path,
    map_refs,
    must_exist,
    options_of,
    plain_default,
    takes_any,
    translated,
    unknown_option,
    validate,
)
from nasframe.recipe.loading import Recipe, exists, expanded
from nasframe.recipe.names import LONGEST
from nasframe.recipe.stage_list import stage_names
from nasframe.recipe.yaml import KeyPath, dotted
from nasframe.records import MetricFormat
from nasframe.search.constraints import parse_bounds

CHEAP = ("modifier", "transform", "evaluator")
"""Kinds whose factories do no work. They are made, so that they can refuse options that do not go together."""
SHOWN_OF_BOUND = 20
"""How many characters of an unreadable bound an error quotes."""
EXAMPLE_BOUND = "Expected text as in '<= 40M' or '50%'."

UnknownOption = Callable[[str, Iterable[str]], str]
"""(unknown name, names of the options that exist) → what to say."""


class Checker:
    """Checks parts of one recipe and remembers every problem with its place.

    Args:
        recipe: the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data = recipe.data
        self.problems: list[Problem] = []
        self.wrong: set[KeyPath] = set()
        """Paths of options whose values do not fit. They may be of any type, so later checks must not look at them."""
        stages = self.data.get("stages")
        self.stages: list[Any] = stages if isinstance(stages, list) else []
        self.names = [name for name, _ in stage_names(self.stages)]
        self.costs: set[str] = set()
        """Names of all costs that bounds and objectives may use."""
        self.own_estimators: Mapping[str, Any] = {}
        """Estimators that a space without a network brings."""
        self.wanted: dict[str, None] = {}
        """Costs that the recipe asks for, in the order in which it names them."""
        self.metrics: Mapping[str, MetricFormat] | None = None
        """What the task measures, if its options tell."""
        self.task_is_wrong = False
        self.own_tasks: dict[KeyPath, dict[str, Any]] = {}
        """Tasks that stages name for themselves, by their places, checked by themselves alone."""

    @contextmanager
    def measuring(self, own_task: Mapping[str, Any] | None) -> Iterator[None]:
        """Inside the block, know the metrics of a stage's own task in place of the recipe's.

        Args:
            own_task: with its options; ``None`` if the stage has the recipe's task, empty if its own has problems.
        """
        if own_task is None:
            yield
            return
        metrics, is_wrong = self.metrics, self.task_is_wrong
        self.task_is_wrong = not own_task
        self.metrics = None
        if own_task:
            factory = registry.find("task", own_task["use"]).load()
            self.metrics = possible_metrics(factory, own_task)
        try:
            yield
        finally:
            self.metrics, self.task_is_wrong = metrics, is_wrong

    def has_problem(self, path: KeyPath) -> bool:
        """Tell whether a problem was noted at a place or below it."""
        shown = dotted(self._shown(path))
        return any(problem.path == shown or problem.path.startswith(f"{shown}.") for problem in self.problems)

    def _shown(self, path: Sequence[Any]) -> tuple[Any, ...]:
        """Return a path with a stage's name in place of its number and verb, as an override would write it."""
        shown = tuple(path)
        is_in_stage = shown[:1] == ("stages",) and len(shown) > 1
        if is_in_stage:  # ("stages", 0, "train", "epochs") is shown as stages.teacher.epochs
            name = self.names[shown[1]]
            shown = ("stages", name, *shown[3:])
        return shown

    def problem(self, path: Sequence[Any], text: str) -> None:
        """Note a problem; a stage is shown by its name."""
        place = str(self.recipe.place(path))
        self.problems.append(Problem(place, dotted(self._shown(path)), text))

    # ---- plugins and their options

    def use(self, kind: str, value: Any, path: KeyPath) -> dict[str, Any] | None:
        """Check one ``use`` with all its options, and write it out with its defaults."""
        if value is None:
            return None
        try:
            name, options = registry.use_of(value, kind)
            factory = registry.find(kind, name).load()
        except NasframeError as error:
            names_plugin = isinstance(value, dict) and "use" in value
            self.problem((*path, "use") if names_plugin else path, str(error))
            return None
        owner = f"{kind} {name!r}"

        def unknown(key: str, known: Iterable[str]) -> str:
            if key in INJECTED:
                return f"not an option of {owner}: the framework gives it."
            hint = ""
            # A likely misspelling needs no other owner, and looking for owners loads every plugin of the kind.
            if not suggestion(key, known):
                hint = self.owners(key, (kind,))
            return unknown_option(key, known, owner, hint)

        reserved = self._reserved_options(kind, options, path)
        count_before = len(self.problems)
        checked = self.checked(owner, options, factory, path, unknown)
        is_sound = len(self.problems) == count_before  # else making it would report the same once more
        if kind in CHEAP and is_sound:
            try:
                registry.make(kind, {"use": name, **checked}, {"seed": 0, "base": self.recipe.base})
            except NasframeError as error:
                self.problem(path, str(error))
        return {"use": name, **reserved, **checked}

    def _reserved_options(self, kind: str, options: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Take out the options that the framework itself understands, such as a sampler's ``join``, and check them."""
        reserved = {}
        for key in registry.RESERVED.get(kind, ()):
            if key in options:
                reserved[key] = options.pop(key)
        for key, text in registry.reserved_faults(kind, reserved):
            self.problem((*path, key), text)
        return {key: value for key, value in reserved.items() if value is not None}

    def checked(
        self,
        owner: str,
        options: Mapping[str, Any],
        factory: Callable[..., Any],
        path: tuple[Any, ...],
        unknown: UnknownOption,
        skip: Iterable[str] = INJECTED,
        positional: int = 0,
    ) -> dict[str, Any]:
        """Check options against a factory; return today's with defaults, references resolved, paths absolute.

        Args:
            owner: what the options belong to, for the errors.
            options: as the recipe gives them.
            factory: the plugin's factory, or a verb's function.
            path: where in the recipe the options stand.
            unknown: what to say of an option that the factory does not have.
            skip: parameters that are not options.
            positional: how many leading parameters are not options.
        """
        # First of all, so that a resolved recipe has only options of today, and no default hides an old name.
        translation = translated(options, factory)
        options = translation.options
        for name, text in translation.faults.items():
            self.problem((*path, name), f"{text} ({owner})")
            self.wrong.add((*path, name))
        known = options_of(factory, skip, positional)
        accepted = {key: value for key, value in options.items() if key in known or takes_any(factory)}
        misfits: set[str] = set()
        _, faults = validate(options, factory, skip, positional, unknown)
        # An unknown option is left out; one whose value does not fit stays, so that the rest of it can be written out.
        for place, text in faults:
            name = place[0]
            written = (*path, *translation.as_written(place))
            is_unknown = name in options and name not in accepted
            if is_unknown:
                self.problem(written, text)
            else:
                self.problem(written, f"{text} ({owner})")
                misfits.add(name)
        self.wrong |= {(*path, name) for name in misfits}
        complete = _with_defaults(accepted, known)
        for key, value in complete.items():
            if key not in misfits:
                written = (*path, *translation.as_written((key,)))
                complete[key] = self._resolved(known.get(key), value, written)
        return complete

    def _resolved(self, option: Option | None, value: Any, path: KeyPath) -> Any:
        """Resolve what an option's value refers to: plugins and files."""
        if option is None:
            return value
        if is_path(option.annotation) and isinstance(value, str):
            # Absolute from here on: a resolved recipe is run from another folder.
            file = self.located(value, path, must_exist(option.annotation, value))
            return str(file or value)
        return map_refs(option.annotation, value, self._reference, path)

    def _reference(self, kind: str, value: Any, path: KeyPath) -> Any:
        """Check a plugin that an option names; a stage's sampler may be the recipe's own."""
        is_option_of_stage = path[0] == "stages" and len(path) == 4  # ("stages", 2, "search", "sampler")
        if is_option_of_stage and kind == "sampler" and value == "shared":
            if self.data.get("sampler") is None:
                self.problem(path, "there is no shared sampler. Expected 'sampler:' at the recipe's top level.")
            return value
        return self.use(kind, value, path)

    def owners(self, key: str, kinds: Iterable[str]) -> str:
        """Name the plugins that have an option of this name, as a sentence to append."""
        owners = []
        for kind in kinds:
            for name, entry in registry.factories(kind).items():
                try:
                    options = options_of(entry.load())
                except NasframeError:  # a plugin that cannot be loaded is reported where it is used
                    continue
                if key in options:
                    owners.append(f"{kind} {name!r}")
        return f" It belongs to {' and '.join(owners)}." if owners else ""

    def located(self, name: str, path: KeyPath, required: bool = True) -> Path | None:
        """Find a file from where it was named: a recipe's folder, or the current one for overrides."""
        place = self.recipe.place(path)
        if place.line:  # with `extends`, the file in which the name stands may be in another folder than the recipe
            home = Path(place.file).parent
        elif self.recipe.path is None:  # the recipe is a mapping
            home = self.recipe.base
        else:  # an override
            home = Path()
        for folder in (home, self.recipe.base):  # an override may also name a file as the recipe would
            file = folder / expanded(name)
            if exists(file):
                return file.resolve()
        if required:
            self.problem(path, f"no such file or folder {name!r}, read from {home}/.")
        return None

    # ---- bounds, objectives and metrics

    def limits(
        self, holder: Mapping[str, Any], path: KeyPath, metrics: Mapping[str, MetricFormat] | None = None
    ) -> None:
        """Check constraints, budgets and objectives: names of costs, and bounds that can be read.

        Args:
            holder: the recipe, or the options of a stage.
            path: where they stand.
            metrics: what objectives may name besides costs; default: what the task measures, as far as that is known.
        """
        for key in ("constraints", "budgets"):
            bounds = holder.get(key)
            if isinstance(bounds, dict):
                for cost, value in bounds.items():
                    self._bounds_of_cost(key, cost, value, (*path, key, cost))
        budgets = holder.get("budgets")
        if isinstance(budgets, list):
            for number, joint in enumerate(budgets):
                self._joint_budget(joint, budgets[:number], (*path, "budgets", number))
        objectives = holder.get("objectives")
        if isinstance(objectives, list):
            for number, name in enumerate(objectives):
                self._objective(str(name), (*path, "objectives", number), metrics or self.metrics)

    def _bounds_of_cost(self, key: str, cost: str, value: Any, path: KeyPath) -> None:
        """Check the bounds of one cost: one, or a list of them."""
        if cost not in self.costs:
            self.problem(path, f"unknown cost. Costs: {listing(self.costs)}.{suggestion(cost, self.costs)}")
            return
        self.wanted[cost] = None  # so that the plan makes its estimator
        texts = listed(value)
        for number, text in enumerate(texts):
            place = (*path, number) if isinstance(value, list) else path
            self._bound(text, cost, place)
        repeated = [text for number, text in enumerate(texts) if text in texts[:number]]
        if repeated and key == "budgets":  # winners are named after their budgets, so two would have one name
            self.problem(path, f"{repeated[0]!r} is listed twice. Expected each budget once.")

    def _joint_budget(self, joint: Any, earlier: list[Any], path: KeyPath) -> None:
        """Check the bounds that one winner must meet together."""
        if not all(isinstance(each, dict) for each in (joint, *earlier)):
            return  # reported as a wrong type
        if not joint:
            self.problem(path, "bounds nothing. Expected {cost: bound}.")
            return
        is_repeated = len(budget_texts([*earlier, joint])) == len(budget_texts(earlier))
        if is_repeated:  # winners are named after their budgets, so two would have one name
            self.problem(path, "is listed twice. Expected each budget once.")
            return
        for cost, value in joint.items():
            if isinstance(value, list):
                text = "has several bounds, but this is one budget. Expected one bound, and a budget for each."
                self.problem((*path, cost), text)
                continue
            self._bounds_of_cost("budgets", cost, value, (*path, cost))

    def _objective(self, objective: str, path: KeyPath, metrics: Mapping[str, MetricFormat] | None) -> None:
        """Check one objective of a search: a metric, or a cost after ``-``."""
        fault = self.objective_fault(objective, metrics)
        if fault:
            self.problem(path, fault)

    def objective_fault(self, objective: str, metrics: Mapping[str, MetricFormat] | None) -> str:
        """Say why a search cannot have an objective, or nothing; its cost is wanted then.

        Args:
            objective: a metric, or a cost after ``-``.
            metrics: what is measured; ``None`` if that is not known.
        """
        if objective == PRIMARY:
            return ""
        name = objective.removeprefix("-")
        higher_is_better = False
        if name in self.costs:
            self.wanted[name] = None
            higher_is_better = traits_of(EstimatorTraits, self._estimator(name)).higher_is_better
        # If the task's options do not tell what it measures, only costs can be checked: any other name may be a metric.
        if metrics is not None:
            return objective_fault(objective, metrics, self.costs, higher_is_better)
        if name in self.costs and not self.task_is_wrong:
            return objective_fault(objective, {}, self.costs, higher_is_better)
        return ""

    def task(self, use: Mapping[str, Any] | None, space: Any) -> None:
        """Find out what the task measures, and check its option ``metric``.

        Args:
            use: the checked task; ``None`` if it has problems.
            space: the recipe's space if it has no network, else ``None``.
        """
        # What the task measures may depend on an option that does not fit.
        has_wrong_option = any(path[:1] == ("task",) for path in self.wrong)
        self.task_is_wrong = use is None or has_wrong_option
        if use is None or has_wrong_option:
            return
        factory = registry.find("task", use["use"]).load()
        self.metrics = possible_metrics(factory, use, space)
        metric = use.get("metric")
        if self.metrics is None or not isinstance(metric, str):
            return
        # A search maximises this metric on `select`, so a loss, or a metric of `dev` alone, will not do.
        scores = {name for name, form in self.metrics.items() if form.higher_is_better and not form.dev_only}
        if metric not in scores:
            text = f"unknown metric {metric!r}. Metrics: {listing(scores)}.{suggestion(metric, scores)}"
            self.problem(("task", "metric"), text)

    def _estimator(self, cost: str) -> Any:
        """Return the estimator of a cost; ``None`` if it cannot be made."""
        declared = self.data.get("estimators")
        use = declared.get(cost) if isinstance(declared, dict) else None
        # A cost is its own plugin unless it uses another.
        if isinstance(use, dict | None):
            use = {"use": cost, **(use or {})}
        try:
            return self.own_estimators.get(cost) or registry.make("estimator", use)
        except NasframeError:  # its options are wrong, which is reported where they stand
            return None

    def _bound(self, text: Any, cost: str, path: KeyPath) -> None:
        """Check that a bound can be read, and that its unit is one of its cost's."""
        fault = _text_fault(text)
        if fault:
            self.problem(path, fault)
            return
        # Estimators are made for their units, so only if the bound has one.
        has_unit = re.search(r"\d\s*[A-Za-zµ]", str(text))
        unit = getattr(self._estimator(cost), "unit", "") if has_unit else None
        # A share of the full cost cannot be compared with a number before the network is loaded, so the parts of
        # ">= 25%, <= 40M" are read one by one.
        parts = str(text).split(",") if "%" in str(text) else [text]
        for part in parts:
            try:
                bounds = parse_bounds(part, full=1.0, unit=unit)
            except NasframeError as error:
                self.problem(path, str(error))
                continue
            if bounds.high <= 0 and cost not in self.own_estimators:
                self.problem(path, f"{text!r} leaves nothing: every cost is above 0.")


def _text_fault(bound: Any) -> str:
    """Say why a bound cannot be part of its winner's name, or nothing."""
    if isinstance(bound, bool) or not isinstance(bound, str | int | float):
        return f"{bound!r} is not a bound. Expected text as in '<= 40M', '>= 40M, <= 66M' or '50%'."
    text = str(bound)
    shown = repr(text[:SHOWN_OF_BOUND])
    if not text.isprintable():
        return f"{shown} has line breaks or invisible characters. {EXAMPLE_BOUND}"
    if len(text) > LONGEST:
        return f"{shown}… is too long for a bound. {EXAMPLE_BOUND}"
    return ""


def _with_defaults(options: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """Return options with the defaults of those that are missing, in the signature's order.

    Resolved recipes that mean the same are then the same text.
    """
    complete: dict[str, Any] = {}
    for key, option in known.items():
        value = options.get(key, plain_default(option))
        if value is not None or key in options:
            complete[key] = value
    return complete | dict(options)
