"""The law of layers: a file imports its own room or lower ones, and nothing imports in a circle.

Imports count wherever they stand, in functions and for type checking too. ``docs/architecture.md`` explains the rooms.
"""

import ast
import graphlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND, FACADE, METHODS = "ground", "facade", "methods"
FLOORS = (
    {GROUND},
    {"search", "nn", "plan"},
    {"training", "hf", "outline"},
    {"weights", "report"},
    {"export"},
    {"stages"},
    {"recipe"},
    {"running"},
    {"testing", "scaffold"},
    {"cli"},
    {FACADE},
    {METHODS},
    {"nasframe_studies"},
    {"nasframe_bench"},
    {"nasframe_deploy"},
    {"nasframe_compress"},
)
"""Rooms from the lowest floor to the highest. Rooms on one floor do not import each other."""

ROOMS_OF_ONE_FILE = {"plan", "hf", "outline", "weights", "scaffold"}
FACADES = {
    "nasframe", "nasframe.types", "nasframe.domain", "nasframe.streams", "nasframe.step", "nasframe.nn.optim",
    "nasframe.nn.checkpoints", "nasframe.nn.feed", "nasframe.studies", "nasframe.bench", "nasframe.reports",
}  # fmt: skip
"""The package itself and re-exports: import paths that documents name, which no file of the core imports."""

WINGS = {"nasframe_studies", "nasframe_bench", "nasframe_deploy", "nasframe_compress"}
MOST_ARROWS = 60
"""Between the rooms of the core."""
MOST_ROOMS = 12
"""That a plugin reads from, so that another plugin adds few arrows."""
HEAVY = {"torch", "transformers"}


def modules_below(root: Path) -> dict[str, Path]:
    """Return the modules of nasframe and its plugins by their dotted names."""
    modules = {}
    for home in (root, root / "plugins"):
        for path in sorted(home.glob("nasframe*/**/*.py")):
            parts = path.relative_to(home).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            modules[name] = path
    return modules


def imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield what a file imports: modules of ours by their full names, others as they are written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            package = node.module or ""
            for alias in node.names:
                module = f"{package}.{alias.name}"
                yield module if module in modules else package
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def parents_of(module: str) -> Iterator[str]:
    """Yield a module's name and those of the packages around it."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])


def graph_of(modules: dict[str, Path], names: Iterable[str]) -> dict[str, set[str]]:
    """Return the modules of ours that each of some modules imports."""
    graph = {}
    for name in names:
        graph[name] = {other for other in imported(modules[name], modules) if other in modules and other != name}
    return graph


def room_of(module: str, modules: dict[str, Path]) -> str:
    """Return the room that a module lies in."""
    if module in FACADES:
        return FACADE
    package, _, rest = module.partition(".")
    if package != "nasframe":
        return package
    room = rest.partition(".")[0]
    if room == "__main__":
        return "cli"
    is_file = modules[module].parent.name == "nasframe" and modules[module].name != "__init__.py"
    if is_file and room not in ROOMS_OF_ONE_FILE:
        return GROUND
    return room


def floor_of(room: str) -> int:
    """Return the number of a room's floor; what is no room of the core and no wing is a method."""
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    return FLOORS.index({METHODS})


def breaches(modules: dict[str, Path], graph: dict[str, set[str]]) -> list[str]:
    """Describe every import that leads upward, or to another room on the same floor."""
    found = []
    for module, others in graph.items():
        room = room_of(module, modules)
        for other in sorted(others):
            target = room_of(other, modules)
            if room == target:
                continue
            wing_and_method = room in WINGS and floor_of(target) == FLOORS.index({METHODS})
            if floor_of(target) >= floor_of(room) or wing_and_method:
                found.append(f"{module} ({room}) imports {other} ({target})")
    return found


MODULES = modules_below(ROOT)
GRAPH = graph_of(MODULES, MODULES)


def test_there_is_something_to_look_at():
    rooms = {room_of(module, MODULES) for module in MODULES}
    named = {room for rooms_of_floor in FLOORS for room in rooms_of_floor} - {METHODS}
    assert named <= rooms
    assert "nasframe_basics" in rooms
    assert MODULES.keys() >= FACADES


def test_files_import_their_own_room_or_lower_ones():
    assert breaches(MODULES, GRAPH) == []


def test_every_import_of_ours_exists():
    """Type checkers take a module that is not there for one that is not installed."""
    packages = {package for name in MODULES for package in parents_of(name)}
    for module, path in MODULES.items():
        for name in imported(path, MODULES):
            if name.startswith("nasframe"):
                assert name in packages, f"{module} imports {name}"


def test_nothing_imports_in_a_circle():
    # Façades may lead anywhere: that nothing below imports them is another test's.
    graph = GRAPH | {facade: set() for facade in FACADES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_search_needs_neither_torch_nor_a_network():
    for module, path in MODULES.items():
        if module.startswith("nasframe.search"):
            heavy = {name for name in imported(path, MODULES) if name.partition(".")[0] in HEAVY}
            assert not heavy, f"{module} imports {sorted(heavy)}"


def test_arrows_between_rooms_stay_few():
    read_by: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        room = room_of(module, MODULES)
        rooms = {room_of(other, MODULES) for other in others}
        read_by.setdefault(room, set()).update(rooms - {room})
    plugins = {room: rooms for room, rooms in read_by.items() if room.startswith("nasframe_")}
    assert sum(len(rooms) for room, rooms in read_by.items() if room not in plugins) <= MOST_ARROWS
    for plugin, rooms in plugins.items():
        assert len(rooms) <= MOST_ROOMS, f"{plugin} reads from {sorted(rooms)}"


BREACHES = [
    ("nasframe/search/bad.py", "def f():\n    from nasframe.running import runner\n"),
    ("nasframe/nn/bad.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nasframe.stages.verbs\n"),
    ("nasframe/stages/bad.py", "from nasframe.types import Trial\n"),
    ("nasframe/cli/bad.py", "from importlib import import_module\nimport_module('nasframe_basics.kd')\n"),
    ("plugins/nasframe_hspg/bad.py", "from nasframe_basics import kd\n"),
    ("plugins/nasframe_hspg/bad.py", "from nasframe_studies import compare\n"),
    ("plugins/nasframe_studies/bad.py", "from nasframe_hspg import hspg\n"),
    ("plugins/nasframe_studies/bad.py", "from nasframe_deploy import deploy\n"),
]


@pytest.mark.parametrize(("place", "text"), BREACHES)
def test_a_breach_would_be_seen(tmp_path, place, text):
    bad = tmp_path / place
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    name = place.removeprefix("plugins/").removesuffix(".py").replace("/", ".")
    modules = {**MODULES, name: bad}
    found = breaches(modules, graph_of(modules, [name]))
    assert len(found) == 1
    assert found[0].startswith(f"{name} (")
