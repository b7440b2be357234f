"""Checks that parts of a recipe share: plugins and their options, files, bounds; problems are collected, not raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.errors import NasframeError, Problem, listing, suggestion
from nasframe.measures import objective_fault, possible_metrics
from nasframe.options import (
    INJECTED,
    Option,
    is_path,
    map_refs,
    must_exist,
    options_of,
    plain_default,
    takes_any,
    validate,
)
from nasframe.recipe.loading import Recipe, exists, expanded
from nasframe.recipe.names import LONGEST
from nasframe.recipe.overrides import stage_names
from nasframe.recipe.yaml import dotted
from nasframe.records import MetricFormat

CHEAP = ("modifier", "transform")  # kinds whose factories do no work: they are made, so that they can refuse


class Checker:
    """Checks parts of one recipe and remembers every problem with its place.

    Args:
        recipe: the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.data = recipe, recipe.data
        self.problems: list[Problem] = []
        self.wrong: set[tuple[Any, ...]] = set()
        """Paths of options whose values do not fit; they are of any type, so nothing else can be said of them."""
        stages = self.data.get("stages")
        self.stages: list[Any] = stages if isinstance(stages, list) else []
        self.names = [name for name, _ in stage_names(self.stages)]
        self.costs: set[str] = set()
        self.own_estimators: Mapping[str, Any] = {}  # of a space without a network
        self.wanted: dict[str, None] = {}
        self.metrics: Mapping[str, MetricFormat] | None = None
        self.task_is_wrong = False

    def problem(self, path: Sequence[Any], text: str) -> None:
        """Note a problem; a stage is shown by its name."""
        shown = tuple(path)
        if shown[:1] == ("stages",) and len(shown) > 1:
            shown = ("stages", self.names[shown[1]], *shown[3:])
        self.problems.append(Problem(str(self.recipe.place(path)), dotted(shown), text))

    def use(self, kind: str, value: Any, path: tuple[Any, ...]) -> dict[str, Any] | None:
        """Check one ``use`` with all its options, and write it out with its defaults."""
        if value is None:
            return None
        try:
            name, options = registry.use_of(value, kind)
            factory = registry.find(kind, name).load()
        except NasframeError as error:
            self.problem((*path, "use") if isinstance(value, dict) and "use" in value else path, str(error))
            return None
        reserved = {key: options.pop(key) for key in registry.RESERVED.get(kind, ()) if key in options}
        for key, text in registry.reserved_faults(kind, reserved):
            self.problem((*path, key), text)
        reserved = {key: item for key, item in reserved.items() if item is not None}
        before = len(self.problems)
        checked = self.checked(f"{kind} {name!r}", (kind,), options, factory, INJECTED, 0, path)
        if kind in CHEAP and len(self.problems) == before:  # options that fit one by one may not fit together
            try:
                registry.make(kind, {"use": name, **checked}, {"seed": 0, "base": self.recipe.base})
            except NasframeError as error:
                self.problem(path, str(error))
        return {"use": name} | reserved | checked

    def checked(
        self, owner: str, kinds: Iterable[str], options: Mapping[str, Any], factory: Callable[..., Any],
        skip: Iterable[str], positional: int, path: tuple[Any, ...],
    ) -> dict[str, Any]:  # fmt: skip
        """Check options against a factory; return them with defaults, references resolved, paths absolute."""
        known = options_of(factory, skip, positional)
        for key in options.keys() - known.keys():
            if not takes_any(factory):
                self.unknown(owner, kinds, key, known, skip, path)
        given = {key: value for key, value in options.items() if key in known or takes_any(factory)}
        _, faults = validate(given, factory, skip, positional)
        for at, text in faults:
            self.problem((*path, *at), f"{text} ({owner})")
        wrong = {at[0] for at, _ in faults}
        self.wrong |= {(*path, name) for name in wrong}
        defaults = {key: plain_default(option) for key, option in known.items()}
        full = {key: given.get(key, default) for key, default in defaults.items()}  # in the signature's order
        full = {key: value for key, value in full.items() if value is not None or key in given} | given
        return {key: self.deep(known.get(key), v, (*path, key)) if key not in wrong else v for key, v in full.items()}

    def deep(self, option: Option | None, value: Any, path: tuple[Any, ...]) -> Any:
        """Resolve what an option's value refers to: plugins and files."""
        if option is None:
            return value
        if is_path(option.annotation) and isinstance(value, str):
            return str(self.located(value, path, must_exist(option.annotation, value)) or value)
        return map_refs(option.annotation, value, self.reference, path)

    def reference(self, kind: str, value: Any, path: tuple[Any, ...]) -> Any:
        """Check a plugin that an option names; a stage's sampler may be the recipe's own."""
        if kind == "sampler" and value == "shared" and path[0] == "stages" and len(path) == 4:
            if self.data.get("sampler") is None:
                self.problem(path, "there is no shared sampler. Expected 'sampler:' at the recipe's top level.")
            return value
        return self.use(kind, value, path)

    def unknown(
        self,
        owner: str,
        kinds: Iterable[str],
        key: str,
        known: Mapping[str, Option],
        skip: Iterable[str],
        path: tuple[Any, ...],
    ) -> None:
        """Report an option that a factory does not have, and say whose it is."""
        if key in skip:
            self.problem((*path, key), f"not an option of {owner}: the framework gives it.")
            return
        hint = suggestion(key, known) or self.owners(key, kinds)
        options = f"Options: {listing(known)}." if known else "It has no options."
        self.problem((*path, key), f"{owner} has no option {key!r}. {options}{hint}")

    def owners(self, key: str, kinds: Iterable[str]) -> str:
        """Name plugins that have an option of this name."""
        found = []
        for kind in kinds:
            for name, entry in registry.factories(kind).items():
                try:
                    if key in options_of(entry.load()):
                        found.append(f"{kind} {name!r}")
                except NasframeError:
                    continue
        return f" It belongs to {' and '.join(found)}." if found else ""

    def located(self, name: str, path: tuple[Any, ...], required: bool = True) -> Path | None:
        """Find a file from where it was named: a recipe's folder, or the current one for overrides."""
        place = self.recipe.place(path)
        home = Path(place.file).parent if place.line else self.recipe.base if self.recipe.path is None else Path()
        for folder in (home, self.recipe.base):
            file = folder / expanded(name)
            if exists(file):
                return file.resolve()
        if required:
            self.problem(path, f"no such file or folder {name!r}, read from {home}/.")
        return None

    def limits(self, holder: Mapping[str, Any], path: tuple[Any, ...]) -> None:
        """Check constraints, budgets and objectives: names of costs, and bounds that can be read."""
        for key in ("constraints", "budgets"):
            bounds = holder.get(key)
            for cost, value in (bounds if isinstance(bounds, dict) else {}).items():
                at = (*path, key, cost)
                if cost not in self.costs:
                    self.problem(at, f"unknown cost. Costs: {listing(self.costs)}.{suggestion(cost, self.costs)}")
                    continue
                self.wanted[cost] = None
                texts = value if isinstance(value, list) else [value]
                for number, text in enumerate(texts):
                    self.bound(text, cost, (*at, number) if isinstance(value, list) else at)
                twice = next((text for number, text in enumerate(texts) if text in texts[:number]), None)
                if twice is not None and key == "budgets":
                    self.problem(at, f"{twice!r} stands there twice. Expected every budget once.")
        objectives = holder.get("objectives")
        for number, name in enumerate(objectives if isinstance(objectives, list) else []):
            self.objective(str(name), (*path, "objectives", number))

    def objective(self, objective: str, path: tuple[Any, ...]) -> None:
        """Check one aim of a search: a metric of the task, or a cost after ``-``.

        A task that does not tell what it measures may measure what is no cost, in either direction: a run sees, once
        the data are loaded.
        """
        name = objective.removeprefix("-")
        fault = ""
        if name in self.costs:
            self.wanted[name] = None
        if self.metrics is not None:
            fault = objective_fault(objective, self.metrics, self.costs)
        elif name in self.costs and not self.task_is_wrong:
            fault = objective_fault(objective, {}, self.costs)
        if fault:
            self.problem(path, fault)

    def task(self, use: Mapping[str, Any] | None, space: Any) -> None:
        """Find out what the task measures, and check the metric that it shall be scored by.

        Args:
            use: the checked task; ``None`` if it has problems.
            space: the recipe's space if it has no network, else ``None``.
        """
        # What the task measures may depend on an option that does not fit.
        self.task_is_wrong = use is None or any(path[:1] == ("task",) for path in self.wrong)
        if use is None or self.task_is_wrong:
            return
        factory = registry.find("task", use["use"]).load()
        self.metrics = possible_metrics(factory, use, space)
        wanted = use.get("metric")
        if self.metrics is None or not isinstance(wanted, str):
            return
        scores = {name for name, form in self.metrics.items() if form.higher_is_better and not form.dev_only}
        if wanted not in scores:
            text = f"unknown metric {wanted!r}. Metrics: {listing(scores)}.{suggestion(wanted, scores)}"
            self.problem(("task", "metric"), text)

    def unit(self, cost: str) -> str:
        """Return what a cost is in, empty if that is not known."""
        declared = self.data.get("estimators")
        use = declared.get(cost) if isinstance(declared, dict) else None
        if isinstance(use, dict | None):
            use = {"use": cost, **(use or {})}
        try:
            estimator = self.own_estimators.get(cost) or registry.make("estimator", use)
        except NasframeError:  # its options are wrong, which is reported where they stand
            return ""
        return str(getattr(estimator, "unit", ""))

    def bound(self, text: Any, cost: str, path: tuple[Any, ...]) -> None:
        """Check that a bound can be read, and that its unit is one of its cost's."""
        from nasframe.search.constraints import parse_bounds

        if isinstance(text, bool) or not isinstance(text, str | int | float):
            self.problem(path, f"{text!r} is no bound. Expected text as in '<= 40M', '>= 40M, <= 66M' or '50%'.")
            return
        if not str(text).isprintable():  # it is part of its winner's name
            hidden = f"{str(text)[:20]!r} has line breaks or invisible characters."
            self.problem(path, f"{hidden} Expected text as in '<= 40M' or '50%'.")
            return
        if len(str(text)) > LONGEST:
            self.problem(path, f"{str(text)[:20]!r}… is too long for a bound. Expected text as in '<= 40M' or '50%'.")
            return
        unit = self.unit(cost) if re.search(r"\d\s*[A-Za-zµ]", str(text)) else None
        parts = str(text).split(",") if "%" in str(text) else [text]  # a share of the full cost compares with no number
        for part in parts:
            try:
                bounds = parse_bounds(part, full=1.0, unit=unit)
                if bounds.high <= 0 and cost not in self.own_estimators:
                    self.problem(path, f"{text!r} leaves nothing: every cost is above 0.")
            except NasframeError as error:
                self.problem(path, str(error))
