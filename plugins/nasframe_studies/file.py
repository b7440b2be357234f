"""A study as it was written: one base recipe, arms or axes, tasks, seeds, what is compared; every problem at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nasframe.errors import Problem, RecipeError, listing, suggestion
from nasframe.plan import Plan
from nasframe.recipe.loading import find_recipe, packaged_recipes, read_recipe, similar_name
from nasframe.recipe.names import name_fault
from nasframe.recipe.overrides import Override, change, read_override
from nasframe.recipe.resolve import check_recipe
from nasframe.recipe.yaml import Node, Position, dotted, read
from nasframe.records import MOST_SEED, canonical_json
from nasframe_studies.checks import faults, group_faults
from nasframe_studies.settings import FAMILIES, SPLITS, CompareOptions, StudyRun

KEYS = ("study", "description", "base", "arms", "axes", "tasks", "seeds", "compare", "smoke")
COMPARE = asdict(CompareOptions())
"""The keys of ``compare``, with their defaults."""
MEMBERS = {"arms": "arm", "tasks": "task", "axes": "axis"}
"""Keys that hold things by names of their own, and what one of them is called."""
LABELS = {"name", "description"}
"""Keys of a recipe that change no run."""
COMPARISONS = {"<": "lt", ">": "gt", "<=": "lte", ">=": "gte"}
NAMED_ITEMS = 4


@dataclass(frozen=True)
class Arm:
    """One arm, or one task: a recipe's file and changes of it.

    Args:
        base: the recipe, or ``None`` for the study's.
        changes: overrides by path, as written.
        tasks: what an arm adds on single tasks.
    """

    base: Node | None = None
    changes: Sequence[Override] = ()
    tasks: Mapping[str, Arm] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return what was written, JSON-plain."""
        said = {"base": self.base.plain()} if self.base else {}
        said |= {"tasks": {name: task.plain() for name, task in self.tasks.items()}} if self.tasks else {}
        return said | {"changes": {dotted(item.keys): item.value.plain() for item in self.changes}}


@dataclass(frozen=True)
class Study:
    """A study that can run.

    Args:
        name: the study's.
        description: what its report says.
        source: its file.
        arms: name → what was written.
        tasks: names; empty where the study has no axis of tasks.
        seeds: in order.
        compare: what is compared.
        plans: (arm, task) → the plan, for the first seed; the task is ``""`` where there are none.
    """

    name: str
    description: str
    source: Path
    arms: Mapping[str, Mapping[str, Any]]
    tasks: Sequence[str]
    seeds: Sequence[int]
    compare: CompareOptions
    plans: Mapping[tuple[str, str], Plan]

    def runs(self) -> Iterator[tuple[StudyRun, Plan]]:
        """Yield every run's arm, task, seed and directory, with its plan: seed by seed, so that early ones pair up."""
        for seed, (arm, task) in itertools.product(self.seeds, self.plans):
            plan = self.plans[arm, task]
            plan = replace(plan, seed=seed, recipe={**plan.recipe, "seed": seed})
            name = task or str(plan.task.get("name") or plan.task["use"])
            place = "/".join(part for part in ("runs", arm, task, f"seed-{seed}") if part)
            yield StudyRun(arm, name, seed, place, str(plan.base)), plan


def load_study(path: str | Path, overrides: Sequence[str] = (), smoke: bool = False) -> Study:
    """Read a study and resolve the recipe of every arm.

    Args:
        path: the file, or the name of a packaged one (``studies/samplers``).
        overrides: ``key=value``: of the study where the key is one of its own (``seeds=[0,1]``), else of every
            arm's recipe, below what the arm says.
        smoke: make it small: turn on the recipes' ``smoke`` switch and put the study's ``smoke:`` over every arm.

    Raises:
        RecipeError: every problem of the study and of its recipes, with file, line and column.
    """
    reader = _Reader(path, overrides, smoke)
    study = reader.study()
    if study is None or reader.problems:
        raise RecipeError(sorted(dict.fromkeys(reader.problems), key=lambda problem: problem.order))
    return study


class _Reader:
    """Reads one study and collects its problems."""

    def __init__(self, path: str | Path, overrides: Sequence[str], smoke: bool) -> None:
        self.problems: list[Problem] = []
        self.path = find_recipe(path) or Path(path)
        root, found = read(self.path, str(self.path))
        if not self.path.exists():
            studies = [name for name in packaged_recipes() if name.startswith("studies/")]
            text = "no such file, and no packaged study of that name; 'nasframe recipes' lists those that there are."
            found = [Problem(str(path), "", text + similar_name(path, studies))]
        self.problems += found
        if root is not None and not isinstance(root.value, dict):
            self.problem(root, "", "no study. Expected 'study: NAME', 'base: RECIPE', 'arms:' and 'seeds:'.")
            root = None
        self.root = root or Node({}, Position(str(self.path)))
        own = [text for text in overrides if re.split(r"[.=]", text.lstrip("+~"), maxsplit=1)[0] in KEYS]
        change(self.root, (), self.problems)
        for text in own:  # one by one, for a later one may change what an earlier one adds
            change(self.root, self.own(text), self.problems)
        self.overrides = [text for text in overrides if text not in own]
        self.smoke = self.root.value.get("smoke") if smoke else None
        self.small = smoke
        self.switches_of: dict[Path, set[str]] = {}

    def problem(self, at: Node | Position, path: str, text: str) -> None:
        self.problems.append(Problem(str(at.at if isinstance(at, Node) else at), path, text))

    def own(self, text: str) -> list[Override]:
        """Read an override of the study; the arm, task or axis that it changes must be there, unless it adds one."""
        item = read_override(text, self.problems)
        if item is None or item.keys[0] not in MEMBERS or len(item.keys) == 1:
            return [item] if item else []
        key, rest = item.keys[0], dotted(item.keys[1:])
        holder = self.root.value.get(key)
        known = holder.value if holder is not None and isinstance(holder.value, dict) else {}
        there = [name for name in known if f"{rest}.".startswith(f"{name}.")]  # names may hold dots, as axes do
        name = max(there, key=len) if there else rest if key == "axes" else item.keys[1]
        if not there and not item.sign:
            what = f"no {MEMBERS[key]} {name!r}. {key.capitalize()}: {listing(known)}.{suggestion(name, known)}"
            self.problem(item.at, f"{key}.{name}", f"{what} To add it write '+{text}'.")
            return []
        inner = rest[len(name) + 1 :]
        return [replace(item, keys=(key, name, *(inner.split(".") if inner else ())))]

    def get(self, key: str, kind: type, what: str) -> Any:
        """Return a key's value, checked; ``None`` where it is missing or wrong."""
        node = self.root.value.get(key)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, kind):
            self.problem(node, key, f"{node.plain()!r} does not fit. Expected {what}.")
            return None
        return node.value

    def study(self) -> Study | None:
        """Check everything; ``None`` where there is nothing to resolve."""
        if self.problems:
            return None
        for key, node in self.root.value.items():
            if key not in KEYS:
                self.problem(node, key, f"unknown key. Expected one of {listing(KEYS)}.{suggestion(key, KEYS)}")
        tasks = self.entries("tasks", self.get("tasks", dict, "names with their overrides below"))
        arms, seeds = self.arms(tasks), self.seeds()
        compare = self.compare(arms)
        self.groups(compare["groups"], tasks)
        plans = {
            (arm, task): plan
            for arm in arms
            for task in (tasks or {"": Arm()})
            if (plan := self.plan([tasks.get(task), arms[arm], arms[arm].tasks.get(task)], compare))
        }
        self.distinct(arms, plans)
        self.comparable(plans, compare)
        name = self.get("study", str, "the study's name") or self.path.stem
        fault = name_fault(name, rich=True)
        if fault:
            self.problem(self.root.value.get("study", self.root), "study", fault)
        plain = {key: node.plain() if isinstance(node, Node) else node for key, node in compare.items()}
        return Study(
            name=name,
            description=self.get("description", str, "text") or "",
            source=self.path.resolve(),
            arms={name: arm.plain() for name, arm in arms.items()},
            tasks=list(tasks),
            seeds=seeds,
            compare=CompareOptions(**plain),
            plans=plans,
        )

    def entries(self, key: str, given: Any, tasks: Mapping[str, Any] | None = None) -> dict[str, Arm]:
        """Read arms or tasks: name → overrides; beside them ``base``, another recipe, and an arm's own ``tasks``."""
        found = {}
        for name, node in (given or {}).items():
            fault = name_fault(name, rich=True)
            if fault:
                self.problem(node, f"{key}.{name}", fault)
            if not isinstance(node.value, dict | None):
                self.problem(node, f"{key}.{name}", f"{node.plain()!r} does not fit. Expected dotted.path: value.")
                continue
            inner = dict(node.value or {})
            base, own = inner.pop("base", None), inner.pop("tasks", None) if tasks is not None else None
            for task in own.value or () if own is not None else ():
                if task not in (tasks or {}):
                    text = f"no task {task!r}. Tasks: {listing(tasks or ())}.{suggestion(task, tasks or ())}"
                    self.problem(own.value[task] if own else node, f"{key}.{name}.tasks.{task}", text)
            inside = self.entries(f"{key}.{name}.tasks", own.value) if own else {}
            changes = [item for path, value in inner.items() for item in written_out(path, value)]
            found[name] = Arm(base, changes, inside)
        return found

    def arms(self, tasks: Mapping[str, Arm]) -> dict[str, Arm]:
        """Read the arms, or make them from the axes."""
        axes = self.get("axes", dict, "dotted.path: [values]")
        if (axes is None) == (self.root.value.get("arms") is None):
            self.problem(self.root, "", "Expected either 'arms:' or 'axes:', whose product makes the arms.")
        if axes is None:
            return self.entries("arms", self.get("arms", dict, "names with their overrides below"), tasks)
        columns = []
        for path, node in axes.items():
            if not isinstance(node.value, list) or not node.value:
                self.problem(node, f"axes.{path}", f"{node.plain()!r} does not fit. Expected a list of values.")
                continue
            columns.append([(label(path, value, number), path, value) for number, value in enumerate(node.value)])
        found: dict[str, Arm] = {}
        for cells in itertools.product(*columns):
            name = ",".join(text for text, *_ in cells)
            fault = name_fault(name, rich=True)
            if fault:
                self.problem(self.root.value["axes"], "axes", f"{fault} Use 'arms:' to name them yourself.")
            if name in found:
                self.problem(self.root.value["axes"], "axes", f"two arms are both called {name!r}. Use 'arms:'.")
            found[name] = Arm(changes=[item for _, path, value in cells for item in written_out(path, value)])
        return found

    def seeds(self) -> list[int]:
        """Read the seeds: whole numbers, each once."""
        node = self.root.value.get("seeds")
        small = self.smoke.value.get("seeds") if self.smoke and isinstance(self.smoke.value, dict) else None
        if small and not (node and node.at.overridden):
            node = small
        found = node.plain() if node else None
        if not isinstance(found, list) or not found or not all(type(s) is int and 0 <= s <= MOST_SEED for s in found):
            self.problem(node or self.root, "seeds", f"{found!r} does not fit. Expected a list as in [0, 1, 2].")
            return []
        for seed in sorted({seed for seed in found if found.count(seed) > 1}):
            self.problem(node, "seeds", f"{seed} stands there {found.count(seed)} times. Expected every seed once.")
        return found

    def compare(self, arms: Mapping[str, Arm]) -> dict[str, Any]:
        """Read what is compared; ``against`` is the first arm unless another is named."""
        given = self.get("compare", dict, f"a mapping of {listing(COMPARE)}") or {}
        for key, node in given.items():
            if key not in COMPARE:
                text = f"unknown key. Expected one of {listing(COMPARE)}.{suggestion(key, COMPARE)}"
                self.problem(node, f"compare.{key}", text)
        found: dict[str, Any] = COMPARE | {"against": next(iter(arms), None)}
        found |= {key: node for key, node in given.items() if key in COMPARE and node.value is not None}
        said = {key: node.plain() if isinstance(node, Node) else node for key, node in found.items()}
        if arms and said["against"] not in arms:
            text = f"no arm {said['against']!r}. Arms: {listing(arms)}.{suggestion(said['against'], arms)}"
            self.problem(found["against"], "compare.against", text)
        if said["split"] not in SPLITS:
            self.problem(found["split"], "compare.split", f"{said['split']!r} is no split. Expected {listing(SPLITS)}.")
        if said["family"] not in FAMILIES:
            family = said["family"]
            text = f"{family!r} does not fit. Expected one of {listing(FAMILIES)}.{suggestion(family, FAMILIES)}"
            self.problem(found["family"], "compare.family", text)
        kinds = {
            "metric": (str, "a metric's name"), "budgets": (dict, "cost: [bounds]"), "models": (list, "a list"),
            "groups": (dict, "name: [patterns of tasks]"),
        }  # fmt: skip
        for key, (kind, what) in kinds.items():
            if said[key] is not None and not isinstance(said[key], kind):
                self.problem(found[key], f"compare.{key}", f"{said[key]!r} does not fit. Expected {what}.")
        return found

    def groups(self, given: Node | None, tasks: Collection[str]) -> None:
        """Check that groups are lists of patterns of tasks, each of which fits a task that no other group has."""
        if given is None or not isinstance(given.value, dict):
            return
        fit = {}
        for group, node in given.value.items():
            patterns = node.plain()
            if isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns):
                fit[group] = patterns
            else:
                text = f"{patterns!r} does not fit. Expected a list of patterns of tasks."
                self.problem(node, f"compare.groups.{group}", text)
        for group, text in group_faults(fit, tasks):
            self.problem(given.value[group], f"compare.groups.{group}", text)

    def distinct(self, arms: Iterable[str], plans: Mapping[tuple[str, str], Plan]) -> None:
        """Refuse two arms whose recipes are equal on all tasks, as where an option was said that was so already."""
        if self.problems or self.small:  # what tells arms apart may be the very lengths that are made small
            return
        first: dict[str, str] = {}
        for arm in arms:
            mine = {task: plan.recipe for (name, task), plan in plans.items() if name == arm}
            said = canonical_json({task: {k: r[k] for k in r.keys() - LABELS} for task, r in mine.items()})
            if (twin := first.setdefault(said, arm)) != arm:
                holder = self.root.value.get("arms") or self.root.value["axes"]
                text = f"the same recipe as arm {twin!r}. Expected arms that differ; an option that is not said stays."
                self.problem(holder.value.get(arm, holder), f"arms.{arm}", text)

    def comparable(self, plans: Mapping[tuple[str, str], Plan], compare: Mapping[str, Any]) -> None:
        """Check that the runs will measure what is compared."""
        said = {key: node.plain() if isinstance(node, Node) else node for key, node in compare.items()}
        if said["split"] not in SPLITS or not isinstance(said["models"], list | None):
            return
        patterns = said["models"] or () if not self.problems else ()  # with a recipe that is wrong models are lacking
        for number, text in faults(plans, said["split"], patterns):
            key = "split" if number is None else f"models.{number}"
            node = compare["split"] if number is None else compare["models"].value[number]
            self.problem(node if isinstance(node, Node) else self.root, f"compare.{key}", text)

    def plan(self, layers: Sequence[Arm | None], compare: Mapping[str, Any]) -> Plan | None:
        """Resolve a recipe under the task's changes, the arm's, and the arm's on that task."""
        laid = [layer for layer in layers if layer]
        bases = [self.root.value.get("base"), *(layer.base for layer in laid)]
        base = next((node for node in reversed(bases) if node), None)
        if base is None or not isinstance(base.value, str):
            what = "missing. Expected 'base: RECIPE', of the study or of every arm."
            self.problem(base or self.root, "base", what if base is None else f"{base.plain()!r} is no file.")
            return None
        file = find_recipe(base.value, self.path.parent)
        if file is None or file.is_dir():
            text = f"no such recipe {base.value!r}, read from {self.path.parent}/."
            self.problem(base, "base", text + similar_name(base.value, packaged_recipes()))
            return None
        changes: list[str | Override] = list(self.overrides)
        budgets = compare.get("budgets")
        if isinstance(budgets, Node):
            changes.append(Override("", ("budgets",), budgets.copy(), budgets.at))
        mine = [replace(item, value=item.value.copy()) for layer in laid for item in layer.changes]
        if self.small and "smoke" in (switches := self.switches(file)):  # over a task's switch, below what an arm says
            changes += [*(item for item in mine if item.keys[0] in switches), "smoke=true"]
            mine = [item for item in mine if item.keys[0] not in switches]
        changes += mine
        small = self.smoke.value.items() if self.smoke and isinstance(self.smoke.value, dict) else ()
        changes += [item for path, node in small if path != "seeds" for item in written_out(path, node.copy())]
        plan, problems = check_recipe(file, changes)
        self.problems += problems
        return plan

    def switches(self, file: Path) -> Collection[str]:
        """Name a recipe's switches."""
        if file not in self.switches_of:
            recipe, _ = read_recipe(file)
            self.switches_of[file] = set() if recipe is None else set(recipe.data.get("switches") or {})
        return self.switches_of[file]


def written_out(path: str, node: Node) -> Iterator[Override]:
    """Turn one entry of an arm into overrides; below ``stages`` names of stages and their options go one by one."""
    yield from _written_out(tuple(path.split(".")), node)


def _written_out(keys: tuple[str, ...], node: Node) -> Iterator[Override]:
    if keys[0] == "stages" and len(keys) < 3 and isinstance(node.value, dict) and node.value:
        for key, item in node.value.items():
            yield from _written_out((*keys, key), item)
    else:
        yield Override("", keys, node, node.at, merges=True)


def label(path: str, node: Node, number: int) -> str:
    """Name one value of an axis: lists by up to four plain items, longer ones and mappings by their number.

    >>> label("stages.search.trials", Node(300, Position("x")), 0)
    'trials=300'
    >>> label("stages.search.sampler.use", Node("random", Position("x")), 0)
    'random'
    >>> label("stages.search.constraints.macs", Node("<= 40M", Position("x")), 0)
    'macs=lte40M'
    """
    value, key = node.plain(), path.rpartition(".")[2]
    if isinstance(value, dict) and isinstance(value.get("use"), str):
        value = value["use"]
    items = value if isinstance(value, list) else [value]
    plain = 0 < len(items) <= NAMED_ITEMS and not any(isinstance(item, dict | list) for item in items)
    text = "+".join(map(_safe, items)) if plain else str(number)
    return text if key == "use" else f"{key}={text}"


def _safe(value: Any) -> str:
    """Write a value so that it can stand in a file's name; a number's sign and comparisons stay."""
    text = re.sub(r"([<>]=?)\s*", lambda found: COMPARISONS[found[1]], str(value))
    return "-" * bool(re.match(r"-[\d.]", text)) + re.sub(r"[^\w.+@%]+", "-", text).strip("-")
