"""Reads a study's file: one base recipe, arms or axes, tasks, seeds, and what is compared.

Each arm becomes one resolved recipe for each task, a :class:`~nasframe.plan.Plan`. All problems of the file and of its
recipes are collected and reported together.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

from nasframe.errors import Problem, RecipeError, listing, suggestion
from nasframe.plan import Plan
from nasframe.recipe.loading import find_recipe, packaged_recipes, read_recipe, similar_name
from nasframe.recipe.names import name_fault
from nasframe.recipe.overrides import Override, change, read_override
from nasframe.recipe.resolve import check_recipe
from nasframe.recipe.top_level import TopLevel
from nasframe.recipe.yaml import Node, Position, dotted, read
from nasframe.records import MOST_SEED, canonical_json
from nasframe_studies.axes import label, written_out
from nasframe_studies.checks import comparison_problems, group_problems
from nasframe_studies.settings import FAMILIES, SPLITS, CompareOptions, StudyRun

KEYS = ("study", "description", "base", "arms", "axes", "tasks", "seeds", "compare", "smoke")
COMPARE_KEYS = tuple(asdict(CompareOptions()))
COMPARE_KINDS: Mapping[str, tuple[Any, str]] = {
    "metric": (str, "a metric's name"),
    "budgets": ((dict, list), "cost: [bounds], or a list of {cost: bound}"),
    "models": (list, "a list"),
    "groups": (dict, "name: [patterns of tasks]"),
}
"""What the values of some of these keys must be."""
MEMBERS = {"arms": "arm", "tasks": "task", "axes": "axis"}
"""Keys that hold named members, and the word for one of these."""
LABELS = {"name", "description"}
"""Keys of a recipe that change no run."""
WITHOUT_EFFECT = LABELS | {"observers"}
"""Keys in which the recipes of two arms may differ and still compute the same."""
RECIPE_KEYS = {"extends", *(key.name for key in fields(TopLevel))}.difference(KEYS)
"""The keys that only recipes have."""


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
            folders = ["runs", arm]
            if task:  # without `tasks:` the directories need no level for them
                folders.append(task)
            folders.append(f"seed-{seed}")
            run = StudyRun(
                arm=arm,
                task=task or task_name(plan),
                seed=seed,
                run="/".join(folders),
                base=str(plan.base.absolute()),
            )
            yield run, plan


def task_name(plan: Plan) -> str:
    """Return the name of a plan's task: its ``name``, or else its plugin."""
    return str(plan.task.get("name") or plan.task["use"])


def origin(plan: Plan) -> list[Any]:
    """Return what a plan's model and data are made from; their plugins may be the recipe's own files."""
    return [[plan.model, plan.teacher], plan.task, str(plan.base), plan.recipe.get("plugins", [])]


def load_study(
    path: str | Path, overrides: Sequence[str] = (), smoke: bool = False, *, copy_of: str | Path | None = None
) -> Study:
    """Read a study and resolve the recipe of every arm.

    Args:
        path: the file, or the name of a packaged one (``studies/samplers``).
        overrides: ``key=value``: of the study if the key is one of its own (``seeds=[0,1]``), else of every arm's
            recipe, below the arm's own changes.
        smoke: make it small: turn on the recipes' ``smoke`` switch and put the study's ``smoke:`` over every arm.
        copy_of: the file of which ``path`` is a copy; relative paths are read from there.

    Raises:
        RecipeError: every problem of the study and of its recipes, with file, line and column.
    """
    reader = _Reader(path, overrides, smoke, copy_of)
    study = reader.study()
    if study is None or reader.problems:
        problems = dict.fromkeys(reader.problems)
        raise RecipeError(sorted(problems, key=lambda problem: problem.order))
    return replace(study, overrides=list(overrides), smoke=smoke)


@dataclass(frozen=True)
class _CompareSection:
    """The ``compare:`` section.

    Args:
        options: its values; those that are problems may be of wrong types.
        nodes: the keys that it has, with their places.
    """

    options: CompareOptions
    nodes: Mapping[str, Node]


@dataclass(frozen=True)
class _AxisValue:
    """One value of an axis.

    Args:
        path: the option that the axis varies.
        node: the value.
        label: its part in the names of arms.
    """

    path: str
    node: Node
    label: str


class _Reader:
    """Reads one study and collects its problems.

    After a problem it goes on as if the key were not there, so that one call reports all that is wrong.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str], smoke: bool, copy_of: str | Path | None) -> None:
        self.problems: list[Problem] = []
        self.path = find_recipe(path) or Path(path)
        self.original = Path(copy_of or self.path)
        self.root = self.read_root(path)
        self.overrides: list[str] = []
        change(self.root, (), self.problems)  # the file's own `set:`, so that the command line is put over it
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
            # In place of what reading says, which knows nothing of packaged studies.
            problems = [Problem(str(path), "", text + similar_name(path, studies))]
        self.problems += problems
        if root is not None and not isinstance(root.value, dict):
            self.problem(root, "", "no study. Expected 'study: NAME', 'base: RECIPE', 'arms:' and 'seeds:'.")
            root = None
        if root is not None and _is_recipe(root):
            self.problem(root, "", f"a recipe, not a study. Run it with: nasframe run {path}")
        return root or Node({}, Position(str(self.path)))

    def problem(self, node: Node, path: str, text: str) -> None:
        self.problems.append(Problem(str(node.at), path, text))

    def misfit(self, node: Node, path: str, expected: str) -> None:
        """Note that a value is of the wrong kind."""
        self.problem(node, path, f"{node.plain()!r} does not fit. Expected {expected}.")

    def unknown_key(self, node: Node, path: str, key: str, keys: Sequence[str]) -> None:
        """Note a key that nothing reads."""
        self.problem(node, path, f"unknown key. Expected one of {listing(keys)}.{suggestion(key, keys)}")

    def study_override(self, text: str) -> list[Override]:
        """Read an override of the study; the arm, task or axis that it changes must exist, unless it adds one."""
        item = read_override(text, self.problems)
        if item is None:
            return []
        key, *inner_keys = item.keys
        # Other keys are checked when they are read. A mistyped arm, task or axis would instead become a new one.
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
            # A new axis is named by all of its path, since it has nothing below; a new arm or task by one key.
            name = inner_path if key == "axes" else inner_keys[0]
            # With `~` the override is refused later, when it is applied and finds nothing to take away.
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
            self.misfit(node, key, expected)
            return None
        return node.value

    def study(self) -> Study | None:
        """Check everything and return the study, which must not be used if there are problems."""
        if self.problems:  # of the file or the command line: everything else would be misread because of them
            return None
        for key, node in self.root.value.items():
            if key not in KEYS:
                self.unknown_key(node, key, key, KEYS)
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
            source=self.original.resolve(),
            arms={name: arm.plain() for name, arm in arms.items()},
            tasks=list(tasks),
            seeds=seeds,
            compare=section.options,
            plans=plans,
        )

    def name(self) -> str:
        """Return the study's name: as written, or else its file's."""
        name = self.get("study", str, "the study's name") or self.original.stem
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
            if not isinstance(node.value, dict | None):  # `wide:` with nothing below is an arm without changes
                self.misfit(node, path, "dotted.path: value")
                continue
            options = dict(node.value or {})
            base = options.pop("base", None)
            on_tasks = {}
            if tasks is not None:  # below a task `tasks` would be an option like any other
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
            self.misfit(node, path, "tasks with their overrides below")
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
        if (axes is not None) == has_arms:  # both or neither
            self.problem(self.root, "", "Expected either 'arms:' or 'axes:', whose product makes the arms.")
        if axes is not None:
            return self.product_of(axes)
        return self.entries("arms", self.get("arms", dict, "names with their overrides below"), tasks)

    def product_of(self, axes: Mapping[str, Node]) -> dict[str, Arm]:
        """Make one arm of every combination of the axes' values, named by the values."""
        values_of = []
        for path, node in axes.items():
            if not isinstance(node.value, list) or not node.value:
                self.misfit(node, f"axes.{path}", "a list of values")
                continue
            of_axis = [_AxisValue(path, value, label(path, value, number)) for number, value in enumerate(node.value)]
            values_of.append(of_axis)
        arms: dict[str, Arm] = {}
        for combination in itertools.product(*values_of):
            name = ",".join(value.label for value in combination)
            changes: list[Override] = []
            for value in combination:
                changes += written_out(value.path, value.node)
            self.check_product_name(name, arms)
            arms[name] = Arm(changes=changes)
        return arms

    def check_product_name(self, name: str, arms: Collection[str]) -> None:
        """Check the name of an arm that axes made: it can name files, and no other arm has it."""
        # A name comes from all axes together, so that problems with it have no place but ``axes``.
        axes = self.root.value["axes"]
        fault = name_fault(name, rich=True)
        if fault:
            self.problem(axes, "axes", f"{fault} Use 'arms:' to name them yourself.")
        if name in arms:
            self.problem(axes, "axes", f"two arms are both called {name!r}. Use 'arms:'.")

    def seeds(self) -> list[int]:
        """Read the seeds: whole numbers, each once."""
        node = self.root.value.get("seeds")
        is_overridden = node is not None and node.at.overridden
        # Seeds of the command line are meant for this very call, so that they count more than those of ``smoke``.
        if "seeds" in self.smoke and not is_overridden:
            node = self.smoke["seeds"]
        holder = node or self.root  # of the problems
        seeds = node.plain() if node else None
        if not _are_seeds(seeds):
            self.problem(holder, "seeds", f"{seeds!r} does not fit. Expected a list as in [0, 1, 2].")
            return []
        # A repeated seed is one measurement, but would count as two in every test.
        for seed, count in sorted(Counter(seeds).items()):
            if count > 1:
                self.problem(holder, "seeds", f"{seed} is listed {count} times. Expected every seed once.")
        return seeds

    # ---- what is compared

    def compare(self, arms: Mapping[str, Arm]) -> _CompareSection:
        """Read the section; ``against`` is the first arm unless another is named."""
        section = self.get("compare", dict, f"a mapping of {listing(COMPARE_KEYS)}") or {}
        nodes = {}
        for key, node in section.items():
            if key not in COMPARE_KEYS:
                self.unknown_key(node, f"compare.{key}", key, COMPARE_KEYS)
            elif node.value is not None:  # `metric:` with nothing after it keeps its default
                nodes[key] = node
        values = {key: node.plain() for key, node in nodes.items()}
        values.setdefault("against", next(iter(arms), None))
        options = CompareOptions(**values)
        self.check_compare(options, nodes, arms)
        return _CompareSection(options, nodes)

    def check_compare(self, options: CompareOptions, nodes: Mapping[str, Node], arms: Mapping[str, Arm]) -> None:
        """Check the values of ``compare``; the defaults are right, so that each wrong value has a node."""
        against, split, family = options.against, options.split, options.family
        # Lists and tuples rather than mappings and sets: what was written may be a list, which has no hash.
        if arms and against not in list(arms):
            text = f"no arm {against!r}. Arms: {listing(arms)}.{suggestion(str(against), arms)}"
            self.problem(nodes["against"], "compare.against", text)
        if split not in SPLITS:
            self.problem(nodes["split"], "compare.split", f"{split!r} is no split. Expected {listing(SPLITS)}.")
        if family not in FAMILIES:
            text = f"{family!r} does not fit. Expected one of {listing(FAMILIES)}.{suggestion(family, FAMILIES)}"
            self.problem(nodes["family"], "compare.family", text)
        for key, (kind, expected) in COMPARE_KINDS.items():
            if key in nodes and not isinstance(getattr(options, key), kind):
                self.misfit(nodes[key], f"compare.{key}", expected)

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
                self.misfit(node, f"compare.groups.{group}", "a list of patterns of tasks")
        for group, text in group_problems(patterns_of, tasks):
            self.problem(groups.value[group], f"compare.groups.{group}", text)

    def check_distinct(self, arms: Iterable[str], plans: Mapping[tuple[str, str], Plan]) -> None:
        """Refuse two arms whose recipes are equal on all tasks, as if one sets an option to its old value."""
        # A recipe that is wrong has no plan, so that arms might seem equal. In a small study they may really be:
        # `smoke` overrides the lengths that tell them apart.
        if self.problems or self.is_small:
            return
        first_arms: dict[str, str] = {}
        for arm in arms:
            recipes = {}
            for (other, task), plan in plans.items():
                if other == arm:
                    recipes[task] = {key: plan.recipe[key] for key in plan.recipe.keys() - WITHOUT_EFFECT}
            twin = first_arms.setdefault(canonical_json(recipes), arm)
            if twin != arm:
                # Arms that axes made have no place of their own in the file.
                holder = self.root.value.get("arms") or self.root.value["axes"]
                node = holder.value.get(arm, holder)
                text = f"the same recipe as arm {twin!r}. Expected arms that differ; unset options keep their values."
                self.problem(node, f"arms.{arm}", text)

    def check_comparable(self, plans: Mapping[tuple[str, str], Plan], section: _CompareSection) -> None:
        """Check that the runs will measure what is compared."""
        split, models = section.options.split, section.options.models
        if split not in SPLITS or not isinstance(models, list | None):  # both are reported already
            return
        patterns = models or []
        if self.problems:  # a recipe that is wrong has no plan, so that its models would be reported as missing
            patterns = []
        for number, text in comparison_problems(plans, split, patterns):
            if number is None:
                node = section.nodes.get("split", self.root)
                self.problem(node, "compare.split", text)
            else:
                node = section.nodes["models"].value[number]
                self.problem(node, f"compare.models.{number}", text)

    # ---- recipes

    def plans(
        self, arms: Mapping[str, Arm], tasks: Mapping[str, Arm], section: _CompareSection
    ) -> dict[tuple[str, str], Plan]:
        """Resolve every arm's recipe on every task."""
        plans = {}
        every_task = tasks or {"": Arm()}
        for name, arm in arms.items():
            for task, changes in every_task.items():
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
            if path != "seeds":  # the one key of the section that is the study's and not the recipes'
                changes += written_out(path, node.copy())
        plan, problems = check_recipe(file, changes)
        self.problems += problems
        return plan

    def recipe_file(self, layers: Sequence[Arm]) -> Path | None:
        """Return the recipe that the last layer with a ``base`` names, else the study's."""
        base = self.root.value.get("base")
        for layer in layers:
            base = layer.base or base
        if base is None:  # reported once: all arms without a recipe have this problem at the same place
            self.problem(self.root, "base", "missing. Expected 'base: RECIPE', of the study or of every arm.")
            return None
        if not isinstance(base.value, str):
            self.problem(base, "base", f"{base.plain()!r} is no file.")
            return None
        file = find_recipe(base.value, self.original.parent)
        if file is None or file.is_dir():
            text = f"no such recipe {base.value!r}, read from {self.original.parent}/."
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
        of_switches: list[str | Override] = []
        others: list[str | Override] = []
        for item in changes:
            part = of_switches if item.keys[0] in switches else others
            part.append(item)
        return [*of_switches, "smoke=true", *others]

    def switches(self, file: Path) -> set[str]:
        """Return the names of a recipe's switches; a file is read once, however many arms begin with it."""
        if file not in self.switches_of:
            recipe, _ = read_recipe(file)
            names = {} if recipe is None else recipe.data.get("switches")
            self.switches_of[file] = set(names or {})
        return self.switches_of[file]


def _is_recipe(root: Node) -> bool:
    """Return whether a file is a recipe: it has a key that only recipes have, and none that only studies have."""
    keys = set(root.value)
    study_keys = keys.intersection(KEYS) - {"description"}  # which recipes have, too
    return not study_keys and not keys.isdisjoint(RECIPE_KEYS)


def _are_seeds(value: Any) -> TypeGuard[list[int]]:
    """Return whether a value is a list of seeds; true and false are numbers in Python, but no seeds."""
    if not isinstance(value, list) or not value:
        return False
    return all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in value)
