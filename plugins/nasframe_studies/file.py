"""Reads a study's file: one base recipe, arms or axes, tasks, seeds, and what is compared.

Each arm becomes one resolved recipe for each task, a :class:`~nasframe.plan.Plan`. All problems of the file and of its
recipes are collected and reported together.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from nasframe.errors import Problem, RecipeError, listing, suggestion
from nasframe.plan import Plan
from nasframe.recipe.loading import find_recipe, packaged_recipes, read_recipe, similar_name
from nasframe.recipe.names import name_fault
from nasframe.recipe.overrides import Override, change, read_override
from nasframe.recipe.resolve import check_recipe
from nasframe.recipe.yaml import Node, Position, dotted, read
from nasframe.records import MOST_SEED, canonical_json
from nasframe_studies.axes import label, written_out
from nasframe_studies.checks import comparison_problems, group_problems
from nasframe_studies.settings import FAMILIES, SPLITS, CompareOptions, StudyRun

KEYS = ("study", "description", "base", "arms", "axes", "tasks", "seeds", "compare", "smoke")
COMPARE = asdict(CompareOptions())
"""The keys of ``compare``, with their defaults."""
COMPARE_KINDS = {
    "metric": (str, "a metric's name"),
    "budgets": (dict, "cost: [bounds]"),
    "models": (list, "a list"),
    "groups": (dict, "name: [patterns of tasks]"),
}
"""What the values of some of them must be."""
MEMBERS = {"arms": "arm", "tasks": "task", "axes": "axis"}
"""Keys that hold named members, and the word for one of these."""
LABELS = {"name", "description"}
"""Keys of a recipe that change no run."""


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
        """Return the arm as written, JSON-plain."""
        written: dict[str, Any] = {}
        if self.base:
            written["base"] = self.base.plain()
        if self.tasks:
            written["tasks"] = {name: task.plain() for name, task in self.tasks.items()}
        written["changes"] = {dotted(item.keys): item.value.plain() for item in self.changes}
        return written


@dataclass(frozen=True)
class Study:
    """A study that can run.

    Args:
        name: the study's name.
        description: the text of its report.
        source: its file.
        arms: name → the arm as written.
        tasks: names of the tasks; empty if the study has no axis of tasks.
        seeds: the seeds, in order.
        compare: what is compared.
        plans: (arm, task) → the plan, for the first seed; the task is ``""`` if there are none.
        overrides: the overrides that it was read under.
        smoke: whether it was made small.
    """

    name: str
    description: str
    source: Path
    arms: Mapping[str, Mapping[str, Any]]
    tasks: Sequence[str]
    seeds: Sequence[int]
    compare: CompareOptions
    plans: Mapping[tuple[str, str], Plan]
    overrides: Sequence[str] = ()
    smoke: bool = False

    def runs(self) -> Iterator[tuple[StudyRun, Plan]]:
        """Yield every run with its plan.

        The first seed of all arms comes first, so that a study that is stopped has pairs of arms to compare.
        """
        for seed, (arm, task) in itertools.product(self.seeds, self.plans):
            plan = self.plans[arm, task]
            plan = replace(plan, seed=seed, recipe={**plan.recipe, "seed": seed})
            folders = ["runs", arm, task, f"seed-{seed}"]
            place = "/".join(folder for folder in folders if folder)
            yield StudyRun(arm, task or task_name(plan), seed, place, str(plan.base)), plan


def task_name(plan: Plan) -> str:
    """Return the name of a plan's task: its ``name``, or else its plugin."""
    return str(plan.task.get("name") or plan.task["use"])


def load_study(
    path: str | Path, overrides: Sequence[str] = (), smoke: bool = False, *, origin: str | Path | None = None
) -> Study:
    """Read a study and resolve the recipe of every arm.

    Args:
        path: the file, or the name of a packaged one (``studies/samplers``).
        overrides: ``key=value``: of the study if the key is one of its own (``seeds=[0,1]``), else of every arm's
            recipe, below the arm's own changes.
        smoke: make it small: turn on the recipes' ``smoke`` switch and put the study's ``smoke:`` over every arm.
        origin: the place of the file of which ``path`` is a copy; relative paths are read from there.

    Raises:
        RecipeError: every problem of the study and of its recipes, with file, line and column.
    """
    reader = _Reader(path, overrides, smoke, origin)
    study = reader.study()
    if study is None or reader.problems:
        problems = dict.fromkeys(reader.problems)
        raise RecipeError(sorted(problems, key=lambda problem: problem.order))
    return replace(study, overrides=list(overrides), smoke=smoke)


@dataclass(frozen=True)
class _CompareSection:
    """The ``compare:`` section: its values, and where those that are not defaults were written."""

    values: Mapping[str, Any]
    nodes: Mapping[str, Node]


class _Reader:
    """Reads one study and collects its problems."""

    def __init__(self, path: str | Path, overrides: Sequence[str], smoke: bool, origin: str | Path | None) -> None:
        self.problems: list[Problem] = []
        self.path = find_recipe(path) or Path(path)
        self.origin = Path(origin or self.path)
        self.root = self.read_root(path)
        self.overrides: list[str] = []
        change(self.root, (), self.problems)
        for text in overrides:
            first_key = re.split(r"[.=]", text.lstrip("+~"), maxsplit=1)[0]
            if first_key in KEYS:
                # One by one, because a later one may change what an earlier one adds.
                change(self.root, self.study_override(text), self.problems)
            else:
                self.overrides.append(text)
        self.is_small = smoke
        self.smoke: Mapping[str, Node] = {}
        section = self.root.value.get("smoke")
        if smoke and section is not None and isinstance(section.value, dict):
            self.smoke = section.value
        self.switches_of: dict[Path, set[str]] = {}

    def read_root(self, path: str | Path) -> Node:
        """Read the file; its root is an empty mapping if it holds no study."""
        root, problems = read(self.path, str(self.path))
        if not self.path.exists():
            studies = [name for name in packaged_recipes() if name.startswith("studies/")]
            text = "no such file, and no packaged study of that name; 'nasframe recipes' lists the packaged ones."
            problems = [Problem(str(path), "", text + similar_name(path, studies))]
        self.problems += problems
        if root is not None and not isinstance(root.value, dict):
            self.problem(root, "", "no study. Expected 'study: NAME', 'base: RECIPE', 'arms:' and 'seeds:'.")
            root = None
        return root or Node({}, Position(str(self.path)))

    def problem(self, node: Node, path: str, text: str) -> None:
        self.problems.append(Problem(str(node.at), path, text))

    def study_override(self, text: str) -> list[Override]:
        """Read an override of the study; the arm, task or axis that it changes must exist, unless it adds one."""
        item = read_override(text, self.problems)
        if item is None:
            return []
        key, *inner_keys = item.keys
        if key not in MEMBERS or not inner_keys:
            return [item]
        inner_path = ".".join(inner_keys)
        holder = self.root.value.get(key)
        members = holder.value if holder is not None and isinstance(holder.value, dict) else {}
        # Names may hold dots, as those of axes do: the longest name with which the path begins is meant.
        matches = [name for name in members if f"{inner_path}.".startswith(f"{name}.")]
        if matches:
            name = max(matches, key=len)
        else:
            name = inner_path if key == "axes" else inner_keys[0]
            if not item.sign:
                reason = f"no {MEMBERS[key]} {name!r}. {key.capitalize()}: {listing(members)}."
                hint = f"{suggestion(name, members)} To add it write '+{text}'."
                self.problems.append(Problem(str(item.at), f"{key}.{name}", reason + hint))
                return []
        rest = inner_path[len(name) + 1 :]
        rest_keys = rest.split(".") if rest else []
        return [replace(item, keys=(key, name, *rest_keys))]

    def get(self, key: str, kind: type, expected: str) -> Any:
        """Return a key's value; ``None`` if it is missing or of another kind, which is a problem."""
        node = self.root.value.get(key)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, kind):
            self.problem(node, key, f"{node.plain()!r} does not fit. Expected {expected}.")
            return None
        return node.value

    def study(self) -> Study | None:
        """Check everything and return the study, which must not be used if there are problems."""
        if self.problems:
            return None
        for key, node in self.root.value.items():
            if key not in KEYS:
                self.problem(node, key, f"unknown key. Expected one of {listing(KEYS)}.{suggestion(key, KEYS)}")
        tasks = self.entries("tasks", self.get("tasks", dict, "names with their overrides below"))
        arms = self.arms(tasks)
        seeds = self.seeds()
        section = self.compare(arms)  # before the plans, because its budgets are part of every recipe
        self.check_groups(section, tasks)
        plans = self.plans(arms, tasks, section)
        self.check_distinct(arms, plans)
        self.check_comparable(plans, section)
        return Study(
            name=self.name(),
            description=self.get("description", str, "text") or "",
            source=self.origin.resolve(),
            arms={name: arm.plain() for name, arm in arms.items()},
            tasks=list(tasks),
            seeds=seeds,
            compare=CompareOptions(**section.values),  # of wrong types if there are problems
            plans=plans,
        )

    def name(self) -> str:
        """Return the study's name: as written, or else its file's."""
        name = self.get("study", str, "the study's name") or self.origin.stem
        fault = name_fault(name, rich=True)
        if fault:
            self.problem(self.root.value.get("study", self.root), "study", fault)
        return name

    # ---- arms and tasks

    def entries(
        self, key: str, written: Mapping[str, Node] | None, tasks: Collection[str] | None = None
    ) -> dict[str, Arm]:
        """Read named members.

        Args:
            key: where they were written.
            written: name → dotted paths with their values, and ``base`` for another recipe.
            tasks: the study's tasks, if the members are arms, which may have ``tasks`` of their own.
        """
        arms = {}
        for name, node in (written or {}).items():
            path = f"{key}.{name}"
            fault = name_fault(name, rich=True)
            if fault:
                self.problem(node, path, fault)
            if not isinstance(node.value, dict | None):
                self.problem(node, path, f"{node.plain()!r} does not fit. Expected dotted.path: value.")
                continue
            options = dict(node.value or {})
            base = options.pop("base", None)
            on_tasks = {}
            if tasks is not None:
                on_tasks = self.changes_on_tasks(f"{path}.tasks", options.pop("tasks", None), tasks)
            changes: list[Override] = []
            for option, value in options.items():
                changes += written_out(option, value)
            arms[name] = Arm(base, changes, on_tasks)
        return arms

    def changes_on_tasks(self, path: str, node: Node | None, tasks: Collection[str]) -> dict[str, Arm]:
        """Read what an arm adds on single tasks."""
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.problem(node, path, f"{node.plain()!r} does not fit. Expected tasks with their overrides below.")
            return {}
        for task, changes in node.value.items():
            if task not in tasks:
                text = f"no task {task!r}. Tasks: {listing(tasks)}.{suggestion(task, tasks)}"
                self.problem(changes, f"{path}.{task}", text)
        return self.entries(path, node.value)

    def arms(self, tasks: Mapping[str, Arm]) -> dict[str, Arm]:
        """Read the arms, or make them from the axes."""
        axes = self.get("axes", dict, "dotted.path: [values]")
        has_arms = self.root.value.get("arms") is not None
        if (axes is not None) == has_arms:
            self.problem(self.root, "", "Expected either 'arms:' or 'axes:', whose product makes the arms.")
        if axes is not None:
            return self.product_of(axes)
        return self.entries("arms", self.get("arms", dict, "names with their overrides below"), tasks)

    def product_of(self, axes: Mapping[str, Node]) -> dict[str, Arm]:
        """Make one arm of every combination of the axes' values, named by the values."""
        columns = []
        for path, node in axes.items():
            if not isinstance(node.value, list) or not node.value:
                self.problem(node, f"axes.{path}", f"{node.plain()!r} does not fit. Expected a list of values.")
                continue
            cells = [(label(path, value, number), path, value) for number, value in enumerate(node.value)]
            columns.append(cells)
        arms: dict[str, Arm] = {}
        # A name comes from all axes together, so that problems with it have no place but ``axes``.
        for combination in itertools.product(*columns):
            name = ",".join(text for text, _, _ in combination)
            fault = name_fault(name, rich=True)
            if fault:
                self.problem(self.root.value["axes"], "axes", f"{fault} Use 'arms:' to name them yourself.")
            if name in arms:
                self.problem(self.root.value["axes"], "axes", f"two arms are both called {name!r}. Use 'arms:'.")
            changes: list[Override] = []
            for _, path, value in combination:
                changes += written_out(path, value)
            arms[name] = Arm(changes=changes)
        return arms

    def seeds(self) -> list[int]:
        """Read the seeds: whole numbers, each once."""
        node = self.root.value.get("seeds")
        is_overridden = node is not None and node.at.overridden
        # Seeds of the command line are meant for this very call, so that they count more than those of ``smoke``.
        if "seeds" in self.smoke and not is_overridden:
            node = self.smoke["seeds"]
        seeds = node.plain() if node else None
        if not _are_seeds(seeds):
            self.problem(node or self.root, "seeds", f"{seeds!r} does not fit. Expected a list as in [0, 1, 2].")
            return []
        for seed, count in sorted(Counter(seeds).items()):
            if count > 1:
                text = f"{seed} is listed {count} times. Expected every seed once."
                self.problem(node or self.root, "seeds", text)
        return seeds

    # ---- what is compared

    def compare(self, arms: Mapping[str, Arm]) -> _CompareSection:
        """Read the section; ``against`` is the first arm unless another is named."""
        written = self.get("compare", dict, f"a mapping of {listing(COMPARE)}") or {}
        nodes = {}
        for key, node in written.items():
            if key not in COMPARE:
                text = f"unknown key. Expected one of {listing(COMPARE)}.{suggestion(key, COMPARE)}"
                self.problem(node, f"compare.{key}", text)
            elif node.value is not None:
                nodes[key] = node
        first_arm = next(iter(arms), None)
        values = {**COMPARE, "against": first_arm}
        values |= {key: node.plain() for key, node in nodes.items()}
        section = _CompareSection(values, nodes)
        self.check_compare(section, arms)
        return section

    def check_compare(self, section: _CompareSection, arms: Mapping[str, Arm]) -> None:
        """Check the values of ``compare``; the defaults are right, so that each wrong value has a node."""
        values, nodes = section.values, section.nodes
        against, split, family = values["against"], values["split"], values["family"]
        if arms and against not in list(arms):
            text = f"no arm {against!r}. Arms: {listing(arms)}.{suggestion(str(against), arms)}"
            self.problem(nodes["against"], "compare.against", text)
        if split not in SPLITS:
            self.problem(nodes["split"], "compare.split", f"{split!r} is no split. Expected {listing(SPLITS)}.")
        if family not in FAMILIES:
            text = f"{family!r} does not fit. Expected one of {listing(FAMILIES)}.{suggestion(family, FAMILIES)}"
            self.problem(nodes["family"], "compare.family", text)
        for key, (kind, expected) in COMPARE_KINDS.items():
            if values[key] is not None and not isinstance(values[key], kind):
                self.problem(nodes[key], f"compare.{key}", f"{values[key]!r} does not fit. Expected {expected}.")

    def check_groups(self, section: _CompareSection, tasks: Collection[str]) -> None:
        """Check that groups are lists of patterns of tasks, each of which fits a task that no other group has."""
        groups = section.nodes.get("groups")
        if groups is None or not isinstance(groups.value, dict):
            return
        patterns_of = {}
        for group, node in groups.value.items():
            patterns = node.plain()
            if isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns):
                patterns_of[group] = patterns
            else:
                text = f"{patterns!r} does not fit. Expected a list of patterns of tasks."
                self.problem(node, f"compare.groups.{group}", text)
        for group, text in group_problems(patterns_of, tasks):
            self.problem(groups.value[group], f"compare.groups.{group}", text)

    def check_distinct(self, arms: Iterable[str], plans: Mapping[tuple[str, str], Plan]) -> None:
        """Refuse two arms whose recipes are equal on all tasks, as if one sets an option to its old value."""
        if self.problems or self.is_small:  # in a small study the lengths that tell arms apart may be equal
            return
        first_arms: dict[str, str] = {}
        for arm in arms:
            recipes = {}
            for (other, task), plan in plans.items():
                if other == arm:
                    recipes[task] = {key: plan.recipe[key] for key in plan.recipe.keys() - LABELS}
            twin = first_arms.setdefault(canonical_json(recipes), arm)
            if twin != arm:
                holder = self.root.value.get("arms") or self.root.value["axes"]
                text = f"the same recipe as arm {twin!r}. Expected arms that differ; unset options keep their values."
                self.problem(holder.value.get(arm, holder), f"arms.{arm}", text)

    def check_comparable(self, plans: Mapping[tuple[str, str], Plan], section: _CompareSection) -> None:
        """Check that the runs will measure what is compared."""
        split, models = section.values["split"], section.values["models"]
        if split not in SPLITS or not isinstance(models, list | None):
            return
        patterns = models or []
        if self.problems:  # a recipe that is wrong has no plan, so that its models would be reported as missing
            patterns = []
        for number, text in comparison_problems(plans, split, patterns):
            if number is None:
                self.problem(section.nodes.get("split", self.root), "compare.split", text)
            else:
                self.problem(section.nodes["models"].value[number], f"compare.models.{number}", text)

    # ---- recipes

    def plans(
        self, arms: Mapping[str, Arm], tasks: Mapping[str, Arm], section: _CompareSection
    ) -> dict[tuple[str, str], Plan]:
        """Resolve every arm's recipe on every task."""
        plans = {}
        for name, arm in arms.items():
            for task, changes in (tasks or {"": Arm()}).items():
                layers = [changes, arm]
                if task in arm.tasks:
                    layers.append(arm.tasks[task])
                plan = self.plan(layers, section)
                if plan is not None:
                    plans[name, task] = plan
        return plans

    def plan(self, layers: Sequence[Arm], section: _CompareSection) -> Plan | None:
        """Resolve a recipe under the task's changes, the arm's, and the arm's on that task; later ones win."""
        file = self.recipe_file(layers)
        if file is None:
            return None
        # From the weakest to the strongest: command line, budgets of the comparison, layers, smoke section.
        changes: list[str | Override] = list(self.overrides)
        budgets = section.nodes.get("budgets")
        if budgets is not None:
            changes.append(Override("", ("budgets",), budgets.copy(), budgets.at))
        changes += self.layer_changes(layers, file)
        for path, node in self.smoke.items():
            if path != "seeds":
                changes += written_out(path, node.copy())
        plan, problems = check_recipe(file, changes)
        self.problems += problems
        return plan

    def recipe_file(self, layers: Sequence[Arm]) -> Path | None:
        """Return the recipe that the last layer with a ``base`` names, else the study's."""
        base = self.root.value.get("base")
        for layer in layers:
            base = layer.base or base
        if base is None:
            self.problem(self.root, "base", "missing. Expected 'base: RECIPE', of the study or of every arm.")
            return None
        if not isinstance(base.value, str):
            self.problem(base, "base", f"{base.plain()!r} is no file.")
            return None
        file = find_recipe(base.value, self.origin.parent)
        if file is None or file.is_dir():
            text = f"no such recipe {base.value!r}, read from {self.origin.parent}/."
            self.problem(base, "base", text + similar_name(base.value, packaged_recipes()))
            return None
        return file

    def layer_changes(self, layers: Sequence[Arm], file: Path) -> list[str | Override]:
        """Return the layers' changes as overrides; in a small study the recipe's ``smoke`` switch is among them."""
        changes: list[Override] = []
        for layer in layers:
            # Copies, because applying an override may change its value, and other arms share it.
            changes += [replace(item, value=item.value.copy()) for item in layer.changes]
        switches = self.switches(file) if self.is_small else set()
        if "smoke" not in switches:
            return [*changes]
        # Later wins: smoke over a task's switch, which says how long to train, but below an arm's own options.
        of_switches = [item for item in changes if item.keys[0] in switches]
        others = [item for item in changes if item.keys[0] not in switches]
        return [*of_switches, "smoke=true", *others]

    def switches(self, file: Path) -> set[str]:
        """Return the names of a recipe's switches."""
        if file not in self.switches_of:
            recipe, _ = read_recipe(file)
            names = {} if recipe is None else recipe.data.get("switches")
            self.switches_of[file] = set(names or {})
        return self.switches_of[file]


def _are_seeds(value: Any) -> TypeGuard[list[int]]:
    """Return whether a value is a list of seeds; true and false are numbers in Python, but no seeds."""
    if not isinstance(value, list) or not value:
        return False
    return all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in value)
