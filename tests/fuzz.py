"""Wrong recipes and overrides for ``nasframe check``, made from the packaged ones by chance, and what it says of them.

    python tests/fuzz.py                                            # 200 recipes and 100 overrides, a minute
    python tests/fuzz.py --recipes 1000 --overrides 500 --seed 1    # the figures of docs/results.md

Each recipe is a packaged one, or the tests' toy, with one mutation: a key misspelt, moved, taken away or added, or a
value of another type, size or form. It is checked by the command line's own function. The same seed makes the same
recipes. Three figures come out: how many checks ended in anything but a report of problems, how much longer the slowest
took than its recipe as it was, and in how many of those that were refused the mutation's line is among the places.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe.cli import main as nasframe
from nasframe.errors import shortened
from nasframe.recipe.loading import packaged_recipes, read_recipe
from nasframe.recipe.yaml import Position, dump, parse

TOY = Path(__file__).parent / "data" / "toy.yaml"
SOURCES = (
    "quickstart", "baselines/uniform-evolution", "baselines/progressive", "hspg/sst2-minilm", "nxmiformer/sst2-minilm",
    "slimming/sst2-minilm", "rosita/setting4-minilm", "yoco_bert/sst2-minilm", "dynabert/sst2-minilm",
)  # fmt: skip
GARBAGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 5, 2.5, 1e300, 10**30, -(10**12), "", " ", ".", "..", "../../up", "con", "~x",
    "/dev/zero", "x" * 5000, "\u202e", "ünïcode", "66M", "-5%", "150%", "12ms", "1e999", "best@*", "[", "{{", "%s", "*",
    [], {}, [None], [[]], {"": None}, {"use": None}, {"use": "nothing"}, [1, "a", {}], {"a": {"b": {"c": []}}}, "null",
)  # fmt: skip
PAIRS = list(zip("abcdefgh", "bcdefghi", strict=True))
LISTS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in PAIRS)
MERGES = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}\n" for a, b in PAIRS)
WHOLE = (
    LISTS, MERGES, "task: &t {use: *t}\n", "\t- x\n", "- a\n- b\n", "", "---\n---\n", "a: [" * 2000, "? " * 5000,
    "!!python/name:os.system x\n", "extends: recipe.yaml\n", "extends: /dev/zero\n", "plugins: [/dev/zero]\n",
    "k: v\n" * 60000, "k: v\n" * 1_000_000,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A check to make.

    Args:
        about: what was done to the recipe.
        source: the recipe that it was done to.
        text: the mutated recipe; ``None`` checks the source itself.
        overrides: of the check.
        lines: where the problem may be reported: the mutation's line and its holder's.
    """

    about: str
    source: str
    text: str | None
    overrides: tuple[str, ...] = ()
    lines: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """What a check said.

    Args:
        case: what was checked.
        seconds: how long it took.
        code: the command's exit code.
        places: where it reports problems.
        error: what was printed in place of problems; empty if all is as it should be.
    """

    case: Case
    seconds: float
    code: int
    places: tuple[str, ...]
    error: str

    @property
    def placed(self) -> bool:
        """Whether one of the problems stands at the mutation."""
        if self.case.overrides:
            own = [shortened(text) for word in self.case.overrides for text in (word, f"override {word!r}")]
            return not set(own).isdisjoint(self.places)
        lines = {place.rsplit(":", 2)[-2] for place in self.places if place.count(":") >= 2}
        return not self.case.lines or bool({str(line) for line in self.case.lines} & lines)


def check(arguments: Sequence[str]) -> tuple[float, int, tuple[str, ...], str]:
    """Run ``nasframe check`` in this process: seconds, exit code, places of problems, and what went wrong otherwise."""
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = nasframe(["check", *arguments, "--json"])
    seconds = time.perf_counter() - began
    try:
        rows = json.loads(out.getvalue())
    except ValueError:
        rows = []
    places = tuple(problem["place"] for row in rows for problem in row["problems"])
    expected = (code == 0 and not places) or (code == 2 and bool(places))
    return seconds, code, places, "" if expected else f"exit code {code}: {err.getvalue().strip()[-500:]}"


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside one."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, item in items:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """Return what stands at a path."""
    for key in path:
        value = value[key]
    return value


Mutation = Callable[[random.Random, Any, tuple[Any, ...]], tuple[Any, ...]]
"""Changes a recipe at a path, in place; returns the path whose line the problem should have."""


def misspelt(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Misspell a key, or a word that is a value."""
    holder, key = at(data, path[:-1]), path[-1]
    if isinstance(key, str):
        place = draw.randrange(len(key)) if key else 0
        wrong = key[:place] + draw.choice("xqz_") + key[place + 1 :]
        items = [(wrong if name == key else name, value) for name, value in holder.items()]
        holder.clear()
        holder.update(items)
        return (*path[:-1], wrong)
    if isinstance(holder[key], str):
        holder[key] = "z" + holder[key][1:]
    return path


def taken_away(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take a key or an item away."""
    del at(data, path[:-1])[path[-1]]
    return path[:-1]


def garbage(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put something else in a value's place."""
    at(data, path[:-1])[path[-1]] = copy.deepcopy(draw.choice(GARBAGE))
    return path


def scaled(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make a number absurd; anything else becomes one."""
    value = at(data, path)
    factor = draw.choice([-1, 0, 1e12, 1e30, -0.5])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    at(data, path[:-1])[path[-1]] = value * factor if number else factor
    return path


def wrapped(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put a value into a list or a mapping."""
    value = at(data, path)
    at(data, path[:-1])[path[-1]] = draw.choice([[value], {"use": value}, {"a": value}, [value, value], str(value)])
    return path


def added(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add a key or an item."""
    value = at(data, path)
    if isinstance(value, dict):
        name = draw.choice(["weight", "trials", "nothing", "use", "name", "join", "epochs", "from", "seed", "a.b", ""])
        value[name] = copy.deepcopy(draw.choice(GARBAGE))
        return (*path, name)
    if isinstance(value, list):
        value.append(copy.deepcopy(draw.choice([*GARBAGE, *value])))
        return (*path, len(value) - 1)
    return garbage(draw, data, path)


def moved(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Move a key to the recipe's top."""
    value = at(data, path)
    del at(data, path[:-1])[path[-1]]
    data[str(path[-1])] = value
    return (str(path[-1]),)


def repeated(draw: random.Random, data: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Repeat the stages too often."""
    times = draw.choice([10**6, 10**30, 0, -1, "many", 501])
    data["stages"] = [{"repeat": {"times": times, "stages": data.get("stages", [])}}]
    return ("stages", 0)


MUTATIONS: tuple[Mutation, ...] = (misspelt, taken_away, garbage, garbage, scaled, wrapped, added, moved, repeated)


def recipe_case(draw: random.Random, name: str, data: Mapping[str, Any]) -> Case:
    """Mutate a recipe once, at a place drawn evenly from all its values."""
    if draw.random() < 0.03:
        return Case("whole file", name, draw.choice(WHOLE))
    changed = copy.deepcopy(dict(data))
    path = draw.choice([path for path in paths_of(changed) if path[:1] not in (("description",), ("plugins",))])
    mutation = draw.choice(MUTATIONS)
    before = copy.deepcopy(at(changed, path))
    place = mutation(draw, changed, path)
    if changed == data:
        return recipe_case(draw, name, data)
    text = dump(changed)
    node, _ = parse(text, Position("recipe", 1, 1))
    lines = set()
    while node is not None:
        lines.add(node.at.line)
        if not place:
            break
        key, place = place[0], place[1:]
        node = node.value.get(str(key)) if isinstance(node.value, dict) else node.value[key]
    own = set(sorted(lines)[-2:])  # the mutation's own line and its holder's
    if mutation is not added:  # what refers to a name or a place that is no more is wrong, too
        words = [".".join(map(str, path[-2:]))]
        words += [before] if isinstance(before, str) and len(before) > 2 else []
        words += [str(before[key]) for key in ("name", "save_as") if isinstance(before, dict) and key in before]
        own |= {number for number, line in enumerate(text.splitlines(), 1) if any(word in line for word in words)}
    return Case(f"{mutation.__name__} {'.'.join(map(str, path))}", name, text, lines=frozenset(own))


def override_case(draw: random.Random, name: str, data: Mapping[str, Any]) -> Case:
    """Make an override of a recipe that cannot be meant, most of the time."""
    path = draw.choice(list(paths_of(data)))
    words = [str(part) for part in path]
    if words[0] == "stages" and len(path) > 2:  # stages are found by number, their verb is no part of the path
        words = ["stages", words[1], *words[3:]]
    value = draw.choice(GARBAGE)
    text = value if isinstance(value, str) else json.dumps(value)
    kind = draw.randrange(7)
    key = ".".join(words)
    choices = (
        f"{key}={text}", f"+{key}={text}", f"{key}x={text}", f"~{key}x", f"{key}.x.y={text}", f"{key}", f"{key}=[{{",
    )  # fmt: skip
    deep = ".".join("a" * 3000) + "=1"
    long = draw.choice(["x" * 5000, "a=" + "y" * 5000, deep, "budgets=5", "stages=[]", "=", "~", "+"])
    override = long if draw.random() < 0.1 else choices[kind]
    return Case("override", name, None, (override,))


def cases(recipes: int, overrides: int, seed: int, sources: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of a seed."""
    draw = random.Random(seed)
    data = {name: written(name) for name in sources}
    for _ in range(recipes):
        name = draw.choice(list(sources))
        yield recipe_case(draw, name, data[name])
    for _ in range(overrides):
        name = draw.choice(list(sources))
        yield override_case(draw, name, data[name])


def written(source: str) -> dict[str, Any]:
    """Return a recipe with what it extends, in one piece."""
    path = packaged_recipes().get(source) or source
    recipe, problems = read_recipe(path)
    assert recipe is not None, problems
    return recipe.data


def run(recipes: int, overrides: int, seed: int = 0, sources: Sequence[str] = (*SOURCES, str(TOY))) -> list[Outcome]:
    """Check all cases of a seed, in a folder of their own."""
    outcomes = []
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for case in cases(recipes, overrides, seed, sources):
                plain = case.source
                if case.text is not None:
                    folder_of = Path(packaged_recipes().get(case.source) or case.source).parent
                    plain = str(Path(folder) / "recipe.yaml")
                    text = case.text.replace("../toy_plugin.py", str(folder_of.parent / "toy_plugin.py"))
                    Path(plain).write_text(text, encoding="utf-8")
                outcomes.append(Outcome(case, *check([plain, *case.overrides])))
        finally:
            os.chdir(here)
    return outcomes


def untouched(sources: Sequence[str] = (*SOURCES, str(TOY))) -> dict[str, float]:
    """Check the recipes as they are: seconds of each, once its plugins are loaded."""
    for name in sources:
        check([name])
    return {name: check([name])[0] for name in sources}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=200)
    parser.add_argument("--overrides", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print what is misplaced and what is accepted, too")
    given = parser.parse_args(arguments)
    plain = untouched()
    outcomes = run(given.recipes, given.overrides, given.seed)
    errors = [outcome for outcome in outcomes if outcome.error]
    refused = [outcome for outcome in outcomes if outcome.code == 2]
    placed = [outcome for outcome in refused if outcome.placed]
    slowest = max(outcomes, key=lambda outcome: outcome.seconds - plain[outcome.case.source])
    excess = slowest.seconds - plain[slowest.case.source]
    share = len(placed) / max(len(refused), 1)
    for outcome in errors:
        print(f"UNEXPECTED {outcome.case.source}: {outcome.case.about} {outcome.case.overrides}: {outcome.error}"[:600])
    if given.verbose:
        for outcome in refused:
            if not outcome.placed:
                case = outcome.case
                where = f"{sorted(case.lines)}: {outcome.places[:3]}"
                print(f"misplaced {case.source}: {case.about} {case.overrides} {where}"[:400])
        for outcome in outcomes:
            if outcome.code == 0:
                print(f"accepted {outcome.case.source}: {outcome.case.about} {outcome.case.overrides}"[:200])
    print(f"{given.recipes} recipes, {given.overrides} overrides, seed {given.seed}")
    print(f"unexpected errors   {len(errors)}  target 0")
    print(f"slowest             {excess:.2f} s more than untouched ({slowest.case.about[:60]})  target below 5 s")
    print(f"right line          {share:.1%} of {len(refused)} refused  target 97 %")
    return int(bool(errors) or excess >= 5 or share < 0.97)


if __name__ == "__main__":
    sys.exit(main())
