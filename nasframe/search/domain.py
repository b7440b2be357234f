"""Sets of architectures: draw one, change one, count them, give each one form that equal networks share.

An architecture is a flat mapping from knob to value. A knob may depend on another one: the width of a layer means
nothing where the layer is not kept, so it is absent from the canonical form, and equal networks are equal mappings.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nasframe.errors import UnsatisfiableError, UsageError, suggestion
from nasframe.records import Arch, canonical_json
from nasframe.search.restrict import Keep, both

REJECTIONS = 100  # draws before a constrained draw goes over to descending on the violation
SCAN = 20_000  # a domain of at most so many architectures is searched whole before giving up


class DomainError(UsageError):
    """An architecture, knob or value that the domain does not have."""


class Choices:
    """A domain of knobs with a list of values each, some active only at certain values of another knob.

    Draws are uniform knob by knob. Restricting and joining return new domains over the same knobs and values, so
    that encoded positions, cost tables and learned distributions stay valid.

    Args:
        knobs: knob → its values, JSON-plain, small to large. A value may be a list (the kept layers); then its
            length stands for it wherever a value is asked for, as in ``restrict({"layers": [4]})``.
        active: knob → (parent knob, values of the parent at which the knob has an effect). Parents are always active.

    Raises:
        DomainError: a knob without values, two equal values, or a rule that names an unknown or conditional parent.

    >>> domain = Choices({"layers": [[0], [0, 1]], "heads.0": [1, 2], "heads.1": [1, 2]},
    ...                  {"heads.1": ("layers", [[0, 1]])})
    >>> domain.size, domain.smallest(), domain.canonical({"layers": 1, "heads.0": 2, "heads.1": 2})
    (6, {'layers': [0], 'heads.0': 1}, {'layers': [0], 'heads.0': 2})
    """

    def __init__(
        self, knobs: Mapping[str, Sequence[Any]], active: Mapping[str, tuple[str, Sequence[Any]]] | None = None
    ) -> None:
        self.knobs = {name: tuple(_plain(name, value) for value in values) for name, values in knobs.items()}
        self.rules = {name: (parent, tuple(values)) for name, (parent, values) in (active or {}).items()}
        self.keep: Keep | None = None
        self._at = {name: k for k, name in enumerate(self.knobs)}
        self._names = list(dict.fromkeys([name.partition(".")[0] for name in self.knobs] + list(self.knobs)))
        self._plan = [
            _Knob(name, values, _lookup(name, values), any(isinstance(v, list | dict) for v in values))
            for name, values in self.knobs.items()
        ]
        for name, (parent, values) in self.rules.items():
            if parent in self.rules:
                raise DomainError(f"knob {name!r} depends on {parent!r}, which is itself conditional")
            k, p = self._position(name), self._position(parent)
            self._plan[k] = self._plan[k]._replace(parent=p, on=frozenset(self._index(p, value) for value in values))
        self._free = [k for k, knob in enumerate(self._plan) if knob.parent < 0]
        self._bound = [k for k, knob in enumerate(self._plan) if knob.parent >= 0]
        self._order = [(k, self._plan[k]) for k in self._free + self._bound]  # parents before what depends on them
        self._allow([tuple(range(len(values))) for values in self.knobs.values()])
        self._join({name: (name,) for name in self.knobs})

    def canonical(self, arch: Arch) -> dict[str, Any]:
        """Return the one form that equal networks share: the domain's own values, inactive knobs left out.

        Raises:
            DomainError: an unknown knob or value, or an active knob that is missing.
        """
        return self._build(self._indices(arch))

    def contains(self, arch: Arch) -> bool:
        """Tell whether ``arch`` belongs to the domain, its restrictions included."""
        try:
            indices = self._indices(arch)
        except DomainError:
            return False
        inside = (not on or i in a for i, a, on in zip(indices, self._allowed, self._live(indices), strict=True))
        return all(inside) and (self.keep is None or bool(self.keep(self._build(indices))))

    def active(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)`` booleans: which dimensions have an effect in ``arch``."""
        live = self._live(self._indices(arch))
        return np.array([live[group[0]] for group in self._groups])

    def encode(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)`` integers: the position of each dimension's value, 0 where it is inactive."""
        indices = self._indices(arch)
        return np.array([sum(indices[k] * w for k, w in zip(*pair, strict=True)) for pair in self._weights])

    def decode(self, indices: Iterable[int]) -> dict[str, Any]:
        """Return the canonical architecture at a position; the inverse of :meth:`encode`."""
        plain = [0] * len(self._plan)
        for position, group in zip(indices, self._groups, strict=True):
            rest = int(position)
            for k in group:
                rest, plain[k] = divmod(rest, len(self._plan[k].values))
        return self._build(plain)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each dimension has, restricted or not: what :meth:`encode` counts in."""
        return tuple(math.prod(len(self._plan[k].values) for k in group) for group in self._groups)

    @property
    def allowed(self) -> list[np.ndarray]:
        """For each dimension the positions that :meth:`restrict` has left, ascending."""
        return [
            np.array(sorted(sum(i * w for i, w in zip(choice, weights, strict=True)) for choice in choices))
            for group, weights in self._weights
            for choices in [itertools.product(*(self._allowed[k] for k in group))]
        ]

    @property
    def size(self) -> int:
        """How many architectures there are, exactly, before ``keep``; inactive knobs do not multiply."""
        parents = {self._plan[b].parent for b in self._bound}
        total = math.prod(len(self._allowed[k]) for k in self._free if k not in parents)
        for parent in parents:
            children = [b for b in self._bound if self._plan[b].parent == parent]
            total *= sum(
                math.prod(len(self._allowed[b]) for b in children if value in self._plan[b].on)
                for value in self._allowed[parent]
            )
        return total

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield every architecture once, in a fixed order (the last knob varies fastest)."""
        indices = [0] * len(self._plan)
        for head in itertools.product(*(self._allowed[k] for k in self._free)):
            for k, i in zip(self._free, head, strict=True):
                indices[k] = i
            live = [b for b in self._bound if indices[self._plan[b].parent] in self._plan[b].on]
            for tail in itertools.product(*(self._allowed[k] for k in live)):
                for k, i in zip(live, tail, strict=True):
                    indices[k] = i
                arch = self._build(indices)
                if self.keep is None or self.keep(arch):
                    yield arch

    def smallest(self) -> dict[str, Any]:
        """Return the architecture of the first value of every knob; ``keep`` is not asked."""
        return self._build([allowed[0] for allowed in self._allowed])

    def largest(self) -> dict[str, Any]:
        """Return the architecture of the last value of every knob; ``keep`` is not asked."""
        return self._build([allowed[-1] for allowed in self._allowed])

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Keep | None = None) -> Choices:
        """Return the part of the domain with these values that ``keep`` accepts; restrictions add up.

        Args:
            only: knob, or family (``heads`` for every ``heads.0`` …) → the values to leave.
            keep: a condition on canonical architectures, see ``nasframe.search.restrict.Keep``.

        Raises:
            DomainError: an unknown knob or value, or nothing left of a knob.
        """
        allowed, other = list(self._allowed), copy.copy(self)
        for name, values in (only or {}).items():
            for k in self._family(name):
                wanted = {self._index(k, v) for v in (values if isinstance(values, list | tuple) else [values])}
                allowed[k] = tuple(i for i in allowed[k] if i in wanted)
                if not allowed[k]:
                    raise DomainError(f"{name}: {values} leaves nothing of knob {self._plan[k].name!r}")
        other._allow(allowed)
        other.keep = both(self.keep, keep)
        return other

    def joined(self, groups: str | Mapping[str, Sequence[str]]) -> Choices:
        """Return the same domain with several knobs read as one dimension, the first of them varying fastest.

        Args:
            groups: a name, ``layer``, joins all knobs with the same number at the end into ``layer.0``,
                ``layer.1`` …; or dimension → its knobs, which must be active together.

        >>> Choices({"heads.0": [1, 2, 3], "ffn.0": [8, 16]}).joined("layer").encode({"heads.0": 2, "ffn.0": 16})
        array([4])
        """
        if isinstance(groups, str):
            found: dict[str, list[str]] = {}
            for name in self.knobs:
                if number := re.search(r"\.(\d+)$", name):
                    found.setdefault(f"{groups}.{number[1]}", []).append(name)
            if not found:
                raise DomainError(f"nothing to join to {groups!r}: no knob ends in a number, as in 'heads.0'")
            groups = found
        member = {knob: name for name, knobs in groups.items() for knob in knobs}
        for name, knobs in groups.items():
            rules = {self._plan[self._position(knob)][4:] for knob in knobs}
            if len(rules) > 1 or any(member[knob] != name for knob in knobs) or name in self._at.keys() - set(knobs):
                text = f"cannot join {', '.join(knobs)} to {name!r}"
                raise DomainError(f"{text}: they must be active together, once each")
        dims = {member.get(knob, knob): tuple(groups.get(member.get(knob, knob), (knob,))) for knob in self.knobs}
        other = copy.copy(self)
        other._join(dims)
        return other

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw an architecture, each knob uniformly, until ``keep`` accepts one.

        Raises:
            UnsatisfiableError: none was found that ``keep`` accepts.
        """
        arch = self._build(self._draw(rng))
        if self.keep is None or self.keep(arch):
            return arch
        guided, drawn = hasattr(self.keep, "violation"), []
        for _ in range(REJECTIONS if guided else SCAN // 10):
            drawn.append(self._draw(rng))
            if self.keep(arch := self._build(drawn[-1])):
                return arch
        return self._descend(drawn, rng) if guided else self._scan(rng)

    def mutate(self, arch: Arch, rng: np.random.Generator) -> dict[str, Any]:
        """Return a neighbour: one dimension redrawn, more where ``keep`` accepts no near one.

        What ``arch`` has outside the domain is redrawn too. Only where there is no other, ``arch`` comes back.
        """
        start = self._indices(arch)
        before = self._build(start)
        for attempt in range(REJECTIONS):
            found = self._build(self._change(start, rng, 1 + attempt // 20))
            if found != before and (self.keep is None or self.keep(found)):
                return found
        return self.sample(rng)

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> dict[str, Any]:
        """Return a child that takes each dimension from ``a`` or ``b``; a mutant of ``a`` where ``keep`` takes none."""
        first, second = self._indices(a), self._indices(b)
        here, there = self._live(first), self._live(second)
        for _ in range(REJECTIONS):
            child = list(first)
            for group, coin in zip(self._groups, rng.random(len(self._groups)) < 0.5, strict=True):
                if there[group[0]] and (coin or not here[group[0]]):
                    for k in group:
                        child[k] = second[k]
            found = self._build(self._inside(child, rng))
            if self.keep is None or self.keep(found):
                return found
        return self.mutate(a, rng)

    def _allow(self, allowed: list[tuple[int, ...]]) -> None:
        self._allowed = allowed
        self._flat = np.array([i for indices in allowed for i in indices])
        self._count = np.array([len(indices) for indices in allowed])
        self._start = np.cumsum(self._count) - self._count

    def _join(self, dims: dict[str, tuple[str, ...]]) -> None:
        self.dims = dims
        self._groups = [tuple(self._at[knob] for knob in group) for group in dims.values()]
        sizes = [[len(self._plan[k].values) for k in group] for group in self._groups]
        self._weights = [
            (group, [math.prod(size[:i]) for i in range(len(size))])
            for group, size in zip(self._groups, sizes, strict=True)
        ]

    def _indices(self, arch: Arch) -> list[int]:
        indices = [0] * len(self._plan)
        for k, (name, _, table, listed, parent, on) in self._order:
            if parent >= 0 and indices[parent] not in on:
                continue
            try:
                value = arch[name]
                indices[k] = table[_key(value) if listed else value]
            except (KeyError, TypeError):
                if name not in arch:
                    raise DomainError(f"the architecture lacks knob {name!r}") from None
                indices[k] = self._index(k, value)
        if not arch.keys() <= self._at.keys():
            self._position(min(arch.keys() - self._at.keys()))
        return indices

    def _build(self, indices: Sequence[int]) -> dict[str, Any]:
        arch = {}
        for (name, values, _, listed, parent, on), i in zip(self._plan, indices, strict=True):
            if parent < 0 or indices[parent] in on:
                arch[name] = _fresh(values[i]) if listed else values[i]
        return arch

    def _live(self, indices: Sequence[int]) -> list[bool]:
        return [parent < 0 or indices[parent] in on for *_, parent, on in self._plan]

    def _draw(self, rng: np.random.Generator) -> list[int]:
        picks = (rng.random(len(self._count)) * self._count).astype(np.intp)
        return self._flat[self._start + picks].tolist()

    def _inside(self, indices: list[int], rng: np.random.Generator) -> list[int]:
        """Redraw the knobs that hold a value outside the domain."""
        if not all(i in allowed for i, allowed in zip(indices, self._allowed, strict=True)):
            fresh = self._draw(rng)
            indices = [i if i in a else f for i, a, f in zip(indices, self._allowed, fresh, strict=True)]
        return indices

    def _change(self, indices: Sequence[int], rng: np.random.Generator, count: int) -> list[int]:
        """Redraw ``count`` active dimensions to other values, and whatever becomes active by it."""
        live, fresh = self._live(indices), self._draw(rng)
        changed = self._inside([i if on else f for i, f, on in zip(indices, fresh, live, strict=True)], rng)
        movable = [g for g in self._groups if live[g[0]] and any(len(self._allowed[k]) > 1 for k in g)]
        for pick in rng.permutation(len(movable))[:count]:
            knobs = [k for k in movable[pick] if len(self._allowed[k]) > 1]
            before = [changed[k] for k in knobs]
            while [changed[k] for k in knobs] == before:
                for k in knobs:
                    changed[k] = self._allowed[k][int(rng.integers(len(self._allowed[k])))]
        return changed

    def _descend(self, drawn: list[list[int]], rng: np.random.Generator) -> dict[str, Any]:
        """Walk downhill on the violation, so that even what one draw in 1e9 would meet is reached."""
        keep: Any = self.keep
        corners = [[allowed[end] for allowed in self._allowed] for end in (0, -1)]
        best = sorted((keep.violation(self._build(indices)), indices) for indices in drawn)[:3]
        for excess, indices in best + [(keep.violation(self._build(indices)), indices) for indices in corners]:
            for _ in range(20 * len(self._groups)):
                arch = self._build(candidate := self._change(indices, rng, 1))
                if (reached := keep.violation(arch)) <= excess:
                    indices, excess = candidate, reached
                    if keep(arch):
                        return arch
            if keep(arch := self._build(indices)):  # a corner with no acceptable neighbour
                return arch
        return self._scan(rng)

    def _scan(self, rng: np.random.Generator) -> dict[str, Any]:
        if self.size <= SCAN:
            found = list(self.enumerate())
        else:
            drawn = (self._build(self._draw(rng)) for _ in range(SCAN))
            found = list(itertools.islice(filter(self.keep, drawn), 1))
        if not found:
            raise UnsatisfiableError(f"none of {min(self.size, SCAN)} architectures tried is acceptable")
        return found[int(rng.integers(len(found)))]

    def _position(self, name: str) -> int:
        if name in self._at:
            return self._at[name]
        hint = suggestion(name, self._names) or f" Known: {', '.join(self._names)}."
        raise DomainError(f"unknown knob {name!r}.{hint}")

    def _family(self, name: str) -> list[int]:
        found = [k for knob, k in self._at.items() if knob.startswith(f"{name}.")]
        return found if found and name not in self._at else [self._position(name)]

    def _index(self, k: int, value: Any) -> int:
        try:
            return self._plan[k].table[_key(value)]
        except (KeyError, TypeError):
            name, values = self._plan[k][:2]
            raise DomainError(f"knob {name!r} has no value {value!r}. It has {list(values)}") from None


class _Knob(NamedTuple):
    name: str
    values: tuple[Any, ...]
    table: dict[Any, int]  # value → its position
    listed: bool  # some values are lists or mappings
    parent: int = -1
    on: frozenset[int] = frozenset()  # positions of the parent's values at which this knob is active


def _plain(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=lambda number: number.item()))
    except (AttributeError, ValueError):
        raise DomainError(f"knob {name!r}: {value!r} is not a JSON value") from None


def _fresh(value: Any) -> Any:
    """Copy a JSON-plain value, so that nobody can change the domain's own."""
    if isinstance(value, list):
        return [_fresh(item) if isinstance(item, list | dict) else item for item in value]
    return copy.deepcopy(value) if isinstance(value, dict) else value


def _key(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple([_key(item) if isinstance(item, list | tuple | dict) else item for item in value])
    return canonical_json(value) if isinstance(value, Mapping) else value


def _lookup(name: str, values: Sequence[Any]) -> dict[Any, int]:
    table = {_key(value): i for i, value in enumerate(values)}
    if not values or len(table) < len(values):
        raise DomainError(f"knob {name!r} needs values, all different, but got {list(values)}")
    lengths = [len(value) if isinstance(value, list) else -1 for value in values]
    for i, length in enumerate(lengths):
        if length >= 0 and lengths.count(length) == 1:
            table.setdefault(length, i)
    return table
