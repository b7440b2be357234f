"""What ``nasframe compress`` knows of the packaged method recipes: how each is given its budgets.

Methods that search meet any budget on any cost that is estimated or measured: one training serves all budgets. Methods
that prune to a share of the encoder repeat some of their stages for each budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.recipe.loading import load_recipe, packaged_recipes
from nasframe_compress.request import Budget, budget_text

FOLDER = "methods/"
DEFAULT_SHARE = "50%"
"""The budget that the packaged recipes are written for."""
DEFAULT_EXPORTER = "hetero"
DEFAULT_MODEL = f"best@{DEFAULT_SHARE}"


@dataclass(frozen=True)
class Repeat:
    """The stages that a method repeats for each budget.

    Args:
        stages: their names, which follow one another.
        share: the path of the share in them, the stage's name first.
        start: the saved network that each repetition starts from; ``None`` if they leave the network as it is.
        exact: whether a share says which shapes the network gets, whatever the data are.
        keeps_layers: whether all layers stay, each with one head at least.
    """

    stages: tuple[str, ...]
    share: tuple[str | int, ...]
    start: str | None = None
    exact: bool = False
    keeps_layers: bool = True


@dataclass(frozen=True)
class Method:
    """A method recipe.

    Args:
        name: the recipe's name in ``methods/``.
        title: what it does, in a line.
        stages: as the recipe writes them.
        repeat: the stages that are repeated for each budget; ``None`` for a method that searches.
        has_budgets: whether its budgets bound the sizes of networks, and not their number formats.
        has_bands: whether its sampler learns for bands of cost, which follow the budgets.
        smoke: dotted path → value, with which its stages work in a few steps.
        exporter: what writes its networks.
    """

    name: str
    title: str
    stages: Sequence[Mapping[str, Any]]
    repeat: Repeat | None
    has_budgets: bool
    has_bands: bool
    smoke: Mapping[str, Any]
    exporter: str

    @property
    def searches(self) -> bool:
        """Whether one training serves all budgets, for which the best networks are then searched."""
        return any("search" in stage for stage in self.stages)


REPEATS: Mapping[str, Repeat] = {
    "magnitude": Repeat(("extract",), ("extract", "archs", DEFAULT_MODEL, "size"), exact=True),
    "hspg": Repeat(("sparse", "extract"), ("sparse", "modifiers", 0, "size"), start="teacher"),
    "dhspg": Repeat(("sparse", "extract"), ("sparse", "modifiers", 0, "size"), start="teacher"),
    "hesso": Repeat(("sparse", "extract"), ("sparse", "modifiers", 0, "size"), start="teacher"),
    "slimming": Repeat(("joint", "extract"), ("joint", "modifiers", 0, "target"), start="teacher"),
    "adabert": Repeat(("cells", "extract"), ("cells", "modifiers", 0, "target"), start="teacher", keeps_layers=False),
    "rosita": Repeat(("width", "extract"), ("width", "modifiers", 0, "target"), start="shallow", keeps_layers=False),
}
"""The methods that prune to a share."""


def method_names() -> list[str]:
    """Return the names of the packaged method recipes.

    >>> "yoco_bert" in method_names()
    True
    """
    names = []
    for name in packaged_recipes():
        if name.startswith(FOLDER) and not name.removeprefix(FOLDER).startswith("_"):
            names.append(name.removeprefix(FOLDER))
    return sorted(names)


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UsageError: there is none of that name.

    >>> find_method("hspg").searches, find_method("yoco_bert").searches
    (False, True)
    """
    known = method_names()
    if name not in known:
        raise UsageError(f"--methods {name!r}: unknown. Methods: {listing(known)}.{suggestion(name, known)}")
    recipe = load_recipe(f"{FOLDER}{name}")
    sampler = recipe.data.get("sampler")
    return Method(
        name=name,
        title=_title(name),
        stages=recipe.data["stages"],
        repeat=REPEATS.get(name),
        has_budgets=bool(recipe.data.get("budgets")),
        has_bands=isinstance(sampler, Mapping) and "bands" in sampler,
        smoke=recipe.data.get("switches", {}).get("smoke", {}),
        exporter=_exporter(recipe.data["stages"]),
    )


def _exporter(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the exporter that a method's recipe names."""
    for stage in stages:
        if "export" in stage:
            return str((stage["export"] or {}).get("mode", DEFAULT_EXPORTER))
    return DEFAULT_EXPORTER


def _title(name: str) -> str:
    """Return the first line of a packaged recipe, which says what the method does."""
    first_line = packaged_recipes()[f"{FOLDER}{name}"].read_text(encoding="utf-8").splitlines()[0]
    return first_line.removeprefix("#").strip()


def stage_name(stage: Mapping[str, Any]) -> str:
    """Return the name of a stage as a recipe writes it.

    >>> stage_name({"train": {"save_as": "teacher"}}), stage_name({"extract": {}})
    ('teacher', 'extract')
    """
    verb, options = next(iter(stage.items()))
    options = options or {}
    return str(options.get("name") or options.get("save_as") or verb)


def layers_left(method: Method, layers: int) -> int:
    """Return how many layers a method keeps before it prunes to a share; it is all of them for most.

    Args:
        method: the method.
        layers: of the network.

    >>> layers_left(find_method("rosita"), 3), layers_left(find_method("hspg"), 3)
    (2, 3)
    """
    for stage in method.stages:
        (options,) = stage.values()
        for modifier in (options or {}).get("modifiers", ()):
            if modifier["use"] == "scheduled_prune" and "layers" in modifier:
                share = float(modifier["layers"].removesuffix("%")) / 100
                return max(1, int(layers * share + 0.5))  # as the modifier rounds
    return layers


BITS = ("bits", "encoder_bits")


def refuse_unfit(methods: Sequence[Method], budgets: Sequence[Budget]) -> None:
    """Refuse methods that cannot bound a cost that is asked for.

    Raises:
        UsageError: some methods cannot; names them with those that can.
    """
    problems = []
    for method in methods:
        for budget in budgets:
            fault = _fault(method, budget)
            if fault:
                problems.append(f"--methods {method.name}: {fault}")
    if problems:
        raise UsageError("\n".join(problems))


def _fault(method: Method, budget: Budget) -> str:
    """Say why a method cannot meet a budget; nothing if it may."""
    asks_bits = [cost for cost in budget if cost in BITS]
    if method.has_budgets:
        if not asks_bits:
            return ""
        return (
            f"it leaves the bits of each weight as they are, so it cannot meet --budget {budget_text(budget)!r}. "
            "Expected nxmiformer for bits."
        )
    if len(asks_bits) == len(budget):
        return ""
    others = [name for name in method_names() if find_method(name).has_budgets]
    return (
        f"it changes the bits of weights and no other cost, so it cannot meet --budget {budget_text(budget)!r}. "
        f"Expected --budget 'encoder_bits<=50%' for it, or another method: {', '.join(others)}."
    )
