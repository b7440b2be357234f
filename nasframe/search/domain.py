"""Sets of architectures: draw one, change one, count them, and write equal networks in one form.

An architecture is a flat mapping from knob to value. A knob may depend on another one: the width of a layer means
nothing if the layer is not kept. That one may depend on a third, to any depth. The canonical form leaves out knobs
without an effect, so that equal networks are equal mappings.

Inside, an architecture is a list of positions, one for each knob in the order of ``knobs``, the inactive ones included:
integers are quicker to draw, change and compare than values.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nasframe.errors import UnsatisfiableError, UsageError, suggestion
from nasframe.interfaces import GradedCondition, ends_of
from nasframe.records import Arch, canonical_json
from nasframe.search.restrict import Predicate, both
from nasframe.units import is_percent, share

METHODS = ("sample", "mutate", "contains", "canonical")
"""What every domain has."""
REJECTIONS = 100  # draws before a constrained draw goes over to descending on the violation
SCAN = 20_000  # up to this size a domain is searched whole before giving up; that takes a second or so
STARTS = 3  # rejected draws from which a descent begins
MUTATIONS_PER_SIZE = 20  # mutations that fail before one more dimension is changed at once
STEPS_PER_DIMENSION = 20  # steps of a descent for each dimension, enough to try most values of each
LEAST_STEPS = 400  # steps of a descent through few dimensions, which may have thousands of values each


class DomainError(UsageError):
    """An architecture, knob or value that the domain does not have."""


class Choices:
    """A domain of knobs with a list of values each, some active only at certain values of another knob.

    Draws are uniform knob by knob. Restricting and joining return new domains over the same knobs and values, so
    that encoded positions, cost tables and learned distributions remain valid.

    Args:
        knobs: knob → its values, JSON-plain, from small to large. A value may be a list (the kept layers). If no
            other value has its length, the length may be given in its place, as in ``restrict({"layers": [4]})``.
        active: knob → (parent knob, values of the parent at which the knob has an effect). A parent may depend on
            another knob itself; a knob has an effect only if its parent has one.

    Raises:
        DomainError: a knob without values, two equal values, a rule that names an unknown parent or value, or knobs
            that depend on each other in a circle.

    >>> domain = Choices({"layers": [[0], [0, 1]], "heads.0": [1, 2], "heads.1": [1, 2]},
    ...                  {"heads.1": ("layers", [[0, 1]])})
    >>> domain.size, domain.smallest(), domain.canonical({"layers": 1, "heads.0": 2, "heads.1": 2})
    (6, {'layers': [0], 'heads.0': 1}, {'layers': [0], 'heads.0': 2})

    The kernel of a convolution means something only if the layer is one, and its dilation only if the kernel is wide:

    >>> nested = Choices(
    ...     {"op": ["skip", "conv"], "kernel": [1, 3], "dilation": [1, 2]},
    ...     {"kernel": ("op", ["conv"]), "dilation": ("kernel", [3])},
    ... )
    >>> nested.size, nested.canonical({"op": "skip", "kernel": 3, "dilation": 2})
    (4, {'op': 'skip'})
    """

    def __init__(
        self, knobs: Mapping[str, Sequence[Any]], active: Mapping[str, tuple[str, Sequence[Any]]] | None = None
    ) -> None:
        self.knobs = {}
        same: dict[int, tuple[Any, ...]] = {}  # knobs may share one list of very many values
        for name, values in knobs.items():
            if id(values) not in same:
                same[id(values)] = tuple(_plain(name, value) for value in values)
            self.knobs[name] = same[id(values)]
        self.rules = {}
        for name, (parent, values) in (active or {}).items():
            self.rules[name] = (parent, tuple(values))
        self.keep: Predicate | None = None
        self._violation: Callable[[Arch], float] | None = None  # of ``keep``, if it is graded
        self._number = {name: k for k, name in enumerate(self.knobs)}
        self._specs: list[_Knob] = []
        for name, values in self.knobs.items():
            twin = next((knob for knob in self._specs if knob.values is values), None)
            self._specs.append(_knob(name, values) if twin is None else twin._replace(name=name))
        self._apply_rules()
        self._sort_knobs()
        everything = [tuple(range(len(values))) for values in self.knobs.values()]
        self._allow(everything)
        self._join({name: (name,) for name in self.knobs})

    def _apply_rules(self) -> None:
        """Note for each conditional knob on which values of which other knobs its effect depends."""
        own_conditions: dict[int, _Condition] = {}
        for name, (parent, values) in self.rules.items():
            p = self._position(parent)
            active_at = frozenset(self._index(p, value) for value in values)
            own_conditions[self._position(name)] = _Condition(p, active_at)
        for k in own_conditions:
            conditions = self._chain(k, own_conditions)
            self._specs[k] = self._specs[k]._replace(conditions=conditions)

    def _chain(self, k: int, own_conditions: Mapping[int, _Condition]) -> tuple[_Condition, ...]:
        """Return a knob's condition, its parent's, and so on up to a knob that always has an effect.

        Raises:
            DomainError: the chain comes back to a knob that it has passed.
        """
        chain: list[_Condition] = []
        passed = [k]
        while passed[-1] in own_conditions:
            condition = own_conditions[passed[-1]]
            if condition.parent in passed:
                names = [self._specs[knob].name for knob in [*passed, condition.parent]]
                raise DomainError(f"knobs depend on each other in a circle: {' on '.join(map(repr, names))}")
            chain.append(condition)
            passed.append(condition.parent)
        return tuple(chain)

    def _sort_knobs(self) -> None:
        """Sort the knobs by how many others their effect depends on, and list those that depend on each one."""
        depths = [len(knob.conditions) for knob in self._specs]
        # The knobs of each depth: 0 always have an effect, 1 depend on one of those, 2 on one of depth 1 …
        self._levels: list[list[int]] = [[] for _ in range(max(depths, default=0) + 1)]
        for k, depth in enumerate(depths):
            self._levels[depth].append(k)
        self._children: list[list[int]] = [[] for _ in self._specs]
        for k, knob in enumerate(self._specs):
            if knob.conditions:
                self._children[knob.conditions[0].parent].append(k)
        # Parents come first, because whether a knob is read at all depends on the position of its parent.
        parents_first = itertools.chain.from_iterable(self._levels)
        self._reading_order = [(k, self._specs[k]) for k in parents_first]

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
        live = self._live(indices)
        for index, allowed, is_live in zip(indices, self._allowed, live, strict=True):
            if is_live and index not in allowed:
                return False
        return self.keep is None or self._accepts(self._build(indices))

    def active(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)`` booleans: which dimensions have an effect in ``arch``."""
        live = self._live(self._indices(arch))
        return np.array([live[dimension.leader] for dimension in self._dimensions])

    def encode(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)`` integers: the position of each dimension's value, 0 where it is inactive."""
        indices = self._indices(arch)
        positions = []
        for dimension in self._dimensions:
            own_indices = [indices[k] for k in dimension.knobs]
            positions.append(dimension.position(own_indices))
        return np.array(positions)

    def decode(self, indices: Iterable[int]) -> dict[str, Any]:
        """Return the canonical architecture at a position; the inverse of :meth:`encode`."""
        plain = [0] * len(self._specs)
        for position, dimension in zip(indices, self._dimensions, strict=True):
            rest = int(position)
            for k in dimension.knobs:
                values = self._specs[k].values
                rest, plain[k] = divmod(rest, len(values))
        return self._build(plain)

    def features(self, arch: Arch) -> list[float]:
        """Return a number for each dimension: where its value lies from 0 to 1, and −1 if it has no effect.

        >>> domain = Choices({"kernel": [1, 3], "op": ["skip", "conv"]}, {"kernel": ("op", ["conv"])})
        >>> domain.features({"op": "skip"})
        [-1.0, 0.0]
        """
        features = []
        for position, size, is_active in zip(self.encode(arch), self.shape, self.active(arch), strict=True):
            place = float(position) / max(size - 1, 1)
            features.append(place if is_active else -1.0)
        return features

    def conditions(self) -> list[tuple[int, np.ndarray] | None]:
        """Say for each dimension when it has an effect.

        Returns:
            The dimension that it depends on and, for each position of that one, whether this one may have an effect;
            ``None`` for a dimension that always has one. A dimension has an effect only if the one that it depends on
            has one.

        >>> domain = Choices({"kernel": [1, 3], "op": ["skip", "conv"]}, {"kernel": ("op", ["conv"])})
        >>> parent, active_at = domain.conditions()[0]
        >>> parent, active_at.tolist()
        (1, [False, True])
        """
        dimension_of = {}
        for number, dimension in enumerate(self._dimensions):
            for k in dimension.knobs:
                dimension_of[k] = number
        conditions: list[tuple[int, np.ndarray] | None] = []
        for dimension in self._dimensions:
            own = self._specs[dimension.leader].conditions
            if not own:
                conditions.append(None)
                continue
            parent, active_at = own[0]
            number = dimension_of[parent]
            whole = self._dimensions[number]
            # A joined parent counts in combinations of its knobs; the position of the one that decides is taken out.
            weight = whole.weights[whole.knobs.index(parent)]
            positions = np.arange(whole.size) // weight % len(self._specs[parent].values)
            conditions.append((number, np.isin(positions, list(active_at))))
        return conditions

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each dimension has, before any restriction: what :meth:`encode` counts in."""
        return tuple(dimension.size for dimension in self._dimensions)

    @property
    def allowed(self) -> list[np.ndarray]:
        """For each dimension, the positions that :meth:`restrict` has left, ascending."""
        columns = []
        for dimension in self._dimensions:
            combinations = self._combinations(dimension.knobs)
            positions = sorted(map(dimension.position, combinations))
            columns.append(np.array(positions))
        return columns

    @property
    def size(self) -> int:
        """The exact number of architectures, ``keep`` left aside; inactive knobs do not multiply it."""
        return math.prod(self._combinations_below(k) for k in self._levels[0])

    def _combinations_below(self, k: int) -> int:
        """Return the number of combinations of a knob and all that depend on it."""
        # Knobs multiply, except below a parent: each of its values allows another number of combinations, and they add.
        if not self._children[k]:
            return len(self._allowed[k])
        total = 0
        for index in self._allowed[k]:
            combinations = 1
            for child in self._children[k]:
                if index in self._specs[child].conditions[0].active_at:
                    combinations *= self._combinations_below(child)
            total += combinations
        return total

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield every architecture once, in a fixed order (the last knob varies fastest)."""
        indices = [0] * len(self._specs)  # written in place: a new list for each of many architectures takes longer
        for _ in self._combined(0, indices):
            arch = self._build(indices)
            if self._accepts(arch):
                yield arch

    def _combined(self, depth: int, indices: list[int]) -> Iterator[None]:
        """Write every combination of the knobs of a depth, and of those below them, into ``indices``."""
        if depth == len(self._levels):
            yield
            return
        live = [k for k in self._levels[depth] if self._specs[k].is_active(indices)]
        for _ in self._products(live, indices):
            yield from self._combined(depth + 1, indices)

    def _products(self, knobs: Sequence[int], indices: list[int]) -> Iterator[None]:
        """Write every combination of some knobs' values into ``indices``, one after the other."""
        for combination in self._combinations(knobs):
            for k, index in zip(knobs, combination, strict=True):
                indices[k] = index
            yield

    def _combinations(self, knobs: Iterable[int]) -> Iterator[tuple[int, ...]]:
        """Yield every combination of the allowed positions of some knobs; the last varies fastest."""
        return itertools.product(*[self._allowed[k] for k in knobs])

    def _accepts(self, arch: dict[str, Any]) -> bool:
        """Tell whether ``keep``, if there is one, accepts an architecture."""
        return self.keep is None or bool(self.keep(arch))

    def smallest(self) -> dict[str, Any]:
        """Return the architecture with the first value of every knob; ``keep`` is not asked."""
        return self._build(self._corner(0))

    def largest(self) -> dict[str, Any]:
        """Return the architecture with the last value of every knob; ``keep`` is not asked."""
        return self._build(self._corner(-1))

    def _corner(self, end: Literal[0, -1]) -> list[int]:
        """Return the first or the last allowed position of every knob."""
        return [allowed[end] for allowed in self._allowed]

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Predicate | None = None) -> Choices:
        """Return the part of the domain with these values that ``keep`` accepts; restrictions add up.

        Args:
            only: knob, or family of knobs (``heads`` for ``heads.0``, ``heads.1`` …) → the values to leave. A share
                (``"50%"``) is of the knob's largest number, or of the length of its longest list, rounded.
            keep: a condition on canonical architectures, see ``nasframe.search.restrict.Predicate``.

        Raises:
            DomainError: an unknown knob or value, or nothing left of a knob.
        """
        allowed = list(self._allowed)
        for name, values in (only or {}).items():
            listed = values if isinstance(values, list | tuple) else [values]
            for k in self._family(name):
                wanted = [self._index(k, self._of_share(k, value)) for value in listed]
                allowed[k] = tuple(index for index in allowed[k] if index in wanted)
                if not allowed[k]:
                    raise DomainError(f"{name}: {values} leaves nothing of knob {self._specs[k].name!r}")
        other = copy.copy(self)
        other._allow(allowed)
        other.keep = both(self.keep, keep)
        other._violation = None
        if isinstance(other.keep, GradedCondition):  # checked here, not at each draw: checking a protocol is slow
            other._violation = other.keep.violation
        return other

    def joined(self, groups: str | Mapping[str, Sequence[str]]) -> Choices:
        """Return the same domain with several knobs read as one dimension, the first of them varying fastest.

        Args:
            groups: a name such as ``layer``, which joins all knobs with the same number at the end into ``layer.0``,
                ``layer.1`` …; or dimension → its knobs, which must be active together.

        >>> Choices({"heads.0": [1, 2, 3], "ffn.0": [8, 16]}).joined("layer").encode({"heads.0": 2, "ffn.0": 16})
        array([4])
        """
        if isinstance(groups, str):
            groups = self._numbered(groups)
        group_of = {}
        for name, knobs in groups.items():
            for knob in knobs:
                group_of[knob] = name
        for name, knobs in groups.items():
            is_shared = any(group_of[knob] != name for knob in knobs)
            is_another_knob = name in self.knobs and name not in knobs
            if is_shared or is_another_knob or not self._are_active_together(knobs):
                text = f"cannot join {', '.join(knobs)} to {name!r}"
                raise DomainError(f"{text}: they must be active together, once each")
        dims = {}
        for knob in self.knobs:
            name = group_of.get(knob, knob)
            dims[name] = tuple(groups.get(name, (knob,)))
        other = copy.copy(self)
        other._join(dims)
        return other

    def _are_active_together(self, knobs: Sequence[str]) -> bool:
        """Tell whether knobs always have an effect at once, because a dimension is active or not as a whole."""
        conditions = set()
        for name in knobs:
            knob = self._specs[self._position(name)]
            conditions.add(knob.conditions)
        return len(conditions) <= 1

    def _numbered(self, prefix: str) -> dict[str, list[str]]:
        """Group the knobs that end in the same number: ``heads.0`` and ``ffn.0`` become ``prefix.0``."""
        groups: dict[str, list[str]] = {}
        for name in self.knobs:
            number = re.search(r"\.(\d+)$", name)
            if number:
                groups.setdefault(f"{prefix}.{number[1]}", []).append(name)
        if not groups:
            raise DomainError(f"nothing to join to {prefix!r}: no knob ends in a number, as in 'heads.0'")
        return groups

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw an architecture, each knob uniformly, until ``keep`` accepts one.

        Raises:
            UnsatisfiableError: none was found that ``keep`` accepts.
        """
        arch = self._build(self._draw(rng))
        if self._accepts(arch):
            return arch
        # A descent finds rare regions quickly. Without one only luck helps, so more draws are worth their time.
        draws = SCAN // 10 if self._violation is None else REJECTIONS
        rejected = []
        for _ in range(draws):
            indices = self._draw(rng)
            arch = self._build(indices)
            if self._accepts(arch):
                return arch
            rejected.append(indices)
        if self._violation is None:
            return self._scan(rng)
        return self._descend(rejected, self._violation, rng)

    def mutate(self, arch: Arch, rng: np.random.Generator) -> dict[str, Any]:
        """Return a neighbour: one dimension redrawn, more dimensions if ``keep`` accepts no near neighbour.

        Values of ``arch`` that are outside the domain are redrawn too. ``arch`` itself is returned only if the domain
        has no other architecture.
        """
        start = self._indices(arch)
        before = self._build(start)
        for attempt in range(REJECTIONS):
            changes = 1 + attempt // MUTATIONS_PER_SIZE
            neighbour = self._build(self._change(start, rng, changes))
            if neighbour != before and self._accepts(neighbour):
                return neighbour
        return self.sample(rng)

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> dict[str, Any]:
        """Return a child with each dimension of ``a`` or of ``b``; a mutant of ``a`` if ``keep`` accepts no child."""
        first = self._indices(a)
        second = self._indices(b)
        live_in_first = self._live(first)
        live_in_second = self._live(second)
        for _ in range(REJECTIONS):
            indices = list(first)
            coins = rng.random(len(self._dimensions)) < 0.5
            for dimension, coin in zip(self._dimensions, coins, strict=True):
                leader = dimension.leader
                # A dimension that only one parent has comes from that one: the other has nothing to pass on.
                from_second = coin or not live_in_first[leader]
                if live_in_second[leader] and from_second:
                    for k in dimension.knobs:
                        indices[k] = second[k]
            child = self._build(self._inside(indices, rng))
            if self._accepts(child):
                return child
        return self.mutate(a, rng)

    def _allow(self, allowed: list[tuple[int, ...]]) -> None:
        """Set the positions that each knob may have."""
        self._allowed = allowed
        # The same in one flat array, with the count and the start of each knob: a draw is then one numpy operation.
        self._flat = np.array(list(itertools.chain.from_iterable(allowed)))
        self._count = np.array([len(indices) for indices in allowed])
        self._start = np.cumsum(self._count) - self._count

    def _join(self, dims: dict[str, tuple[str, ...]]) -> None:
        """Set the dimensions: which knobs are read as one."""
        self.dims = dims
        self._dimensions = []
        for names in dims.values():
            knobs = tuple(self._number[name] for name in names)
            sizes = [len(self.knobs[name]) for name in names]
            self._dimensions.append(_Dimension.of(knobs, sizes))

    def _indices(self, arch: Arch) -> list[int]:
        """Return each knob's position in an architecture, 0 for inactive knobs.

        This is the hot path of every search, so that names are looked up at once, and faults only after one failed.
        """
        indices = [0] * len(self._specs)
        for k, knob in self._reading_order:
            if not knob.is_active(indices):
                continue
            try:
                value = arch[knob.name]
                key = _key(value) if knob.has_lists else value
                indices[k] = knob.positions[key]
            except (KeyError, TypeError):
                if knob.name not in arch:
                    raise DomainError(f"the architecture lacks knob {knob.name!r}") from None
                indices[k] = self._index(k, value)  # raises, with the values that there are
        unknown = arch.keys() - self._number.keys()
        if unknown:
            self._position(min(unknown))  # raises, with a suggestion
        return indices

    def _build(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the canonical architecture of some positions."""
        arch = {}
        for knob, index in zip(self._specs, indices, strict=True):
            if knob.is_active(indices):
                value = knob.values[index]
                arch[knob.name] = _fresh(value) if knob.has_lists else value
        return arch

    def _live(self, indices: Sequence[int]) -> list[bool]:
        """Tell for each knob whether it has an effect."""
        return [knob.is_active(indices) for knob in self._specs]

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """Draw a position for every knob, uniformly among those allowed."""
        shares = rng.random(len(self._count))
        picks = (shares * self._count).astype(np.intp)
        return self._flat[self._start + picks].tolist()

    def _inside(self, indices: list[int], rng: np.random.Generator) -> list[int]:
        """Redraw the knobs that hold a value outside the domain."""
        outside = [k for k, allowed in enumerate(self._allowed) if indices[k] not in allowed]
        if not outside:
            return indices
        redrawn = self._draw(rng)
        inside = list(indices)
        for k in outside:
            inside[k] = redrawn[k]
        return inside

    def _change(self, indices: Sequence[int], rng: np.random.Generator, count: int) -> list[int]:
        """Redraw ``count`` active dimensions to other values, and the knobs that become active by that."""
        live = self._live(indices)
        changed = self._draw(rng)
        for k, is_live in enumerate(live):
            if is_live:  # inactive knobs stay redrawn: a change may activate them
                changed[k] = indices[k]
        changed = self._inside(changed, rng)
        movable = []  # the knobs of each dimension that can change
        for dimension in self._dimensions:
            knobs = [k for k in dimension.knobs if len(self._allowed[k]) > 1]
            if live[dimension.leader] and knobs:
                movable.append(knobs)
        for pick in rng.permutation(len(movable))[:count]:
            knobs = movable[pick]
            before = list(changed)
            while changed == before:  # all knobs of a dimension may by chance be drawn as they were
                for k in knobs:
                    allowed = self._allowed[k]
                    changed[k] = allowed[int(rng.integers(len(allowed)))]
        return changed

    def _descend(
        self, drawn: list[list[int]], violation: Callable[[Arch], float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Walk downhill on the violation: this reaches regions that one draw in 1e9 would hit."""
        starts = []
        for indices in drawn:
            excess = violation(self._build(indices))
            starts.append((excess, indices))
        starts = sorted(starts)[:STARTS]
        # Tight bounds leave little but the neighbourhood of an end, which is far from most draws.
        for corner in (self._corner(0), self._corner(-1)):
            excess = violation(self._build(corner))
            starts.append((excess, corner))

        steps = max(STEPS_PER_DIMENSION * len(self._dimensions), LEAST_STEPS)
        for excess, indices in starts:
            for _ in range(steps):
                candidate = self._change(indices, rng, 1)
                arch = self._build(candidate)
                reached = violation(arch)
                if reached > excess:  # equal ones are taken: no single step may help on a plateau
                    continue
                indices, excess = candidate, reached
                if self._accepts(arch):
                    return arch
            arch = self._build(indices)
            if self._accepts(arch):  # a corner with no acceptable neighbour
                return arch
        return self._scan(rng)

    def _scan(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw from all acceptable architectures of a small domain; from a large one, take the first of many draws."""
        acceptable = []
        if self.size <= SCAN:
            acceptable = list(self.enumerate())
        else:
            for _ in range(SCAN):
                arch = self._build(self._draw(rng))
                if self._accepts(arch):
                    acceptable.append(arch)
                    break
        if not acceptable:
            raise UnsatisfiableError(f"none of {min(self.size, SCAN)} architectures tried is acceptable")
        return acceptable[int(rng.integers(len(acceptable)))]

    def _position(self, name: str) -> int:
        """Return a knob's number."""
        if name in self._number:
            return self._number[name]
        families = [knob.partition(".")[0] for knob in self.knobs]
        names = list(dict.fromkeys([*families, *self.knobs]))  # a recipe may name families, too
        hint = suggestion(name, names) or f" Known: {', '.join(names)}."
        raise DomainError(f"unknown knob {name!r}.{hint}")

    def _family(self, name: str) -> list[int]:
        """Return the number of a knob, or the numbers of all knobs of a family."""
        if name in self._number:
            return [self._number[name]]
        members = [k for knob, k in self._number.items() if knob.startswith(f"{name}.")]
        return members or [self._position(name)]

    def _of_share(self, k: int, value: Any) -> Any:
        """Return the number that a share of a knob's largest value stands for; any other value as it is."""
        knob = self._specs[k]
        if not isinstance(value, str) or not is_percent(value) or value in knob.values:
            return value
        largest = knob.values[-1]
        if isinstance(largest, list | tuple):
            largest = len(largest)
        if not isinstance(largest, int | float):
            return value
        number = max(1, round(share("within", value, ends=True) * largest))
        if number not in knob.positions:
            raise DomainError(
                f"knob {knob.name!r} has no value {value!r}, which is {number}. It has {list(knob.values)}"
            )
        return number

    def _index(self, k: int, value: Any) -> int:
        """Return a value's position in its knob."""
        knob = self._specs[k]
        try:
            return knob.positions[_key(value)]
        except (KeyError, TypeError):
            raise DomainError(f"knob {knob.name!r} has no value {value!r}. It has {list(knob.values)}") from None


class _Condition(NamedTuple):
    """A knob that another one depends on, and the positions at which the other one may have an effect."""

    parent: int
    active_at: frozenset[int]


class _Knob(NamedTuple):
    """A knob, as it is needed to read architectures."""

    name: str
    values: tuple[Any, ...]
    positions: dict[Any, int]  # value, or the length of a list that no other has → its position
    has_lists: bool  # some values are lists or mappings
    conditions: tuple[_Condition, ...] = ()  # all must hold for it to have an effect; that on its own parent is first

    def is_active(self, indices: Sequence[int]) -> bool:
        """Tell whether the knob has an effect at these positions of all knobs."""
        for parent, active_at in self.conditions:  # noqa: SIM110 (a generator takes twice as long on this hot path)
            if indices[parent] not in active_at:
                return False
        return True


class _Dimension(NamedTuple):
    """Knobs that are read as one number, the first of them varying fastest."""

    knobs: tuple[int, ...]
    weights: tuple[int, ...]  # by how much one step of each knob moves the number
    size: int

    @classmethod
    def of(cls, knobs: tuple[int, ...], sizes: Sequence[int]) -> _Dimension:
        weights = []
        weight = 1
        for size in sizes:
            weights.append(weight)
            weight *= size
        return cls(knobs, tuple(weights), size=weight)

    @property
    def leader(self) -> int:
        """The knob that answers for all of them: knobs of a dimension are active together."""
        return self.knobs[0]

    def position(self, indices: Iterable[int]) -> int:
        """Return the number that the positions of the knobs make."""
        return sum(map(operator.mul, indices, self.weights))


def _knob(name: str, values: tuple[Any, ...]) -> _Knob:
    has_lists = any(isinstance(value, list | dict) for value in values)
    return _Knob(name, values, _lookup(name, values), has_lists)


def _plain(name: str, value: Any) -> Any:
    """Return a value as JSON has it, so that a knob's numpy numbers and tuples equal what a stored run brings back."""
    if type(value) is str or type(value) is int:  # the way through JSON takes long for a hundred thousand values
        return value
    try:
        text = json.dumps(value, allow_nan=False, default=_plain_number)
    except (AttributeError, ValueError):
        raise DomainError(f"knob {name!r}: {value!r} is not a JSON value") from None
    return json.loads(text)


def _plain_number(number: Any) -> Any:
    return number.item()


def _fresh(value: Any) -> Any:
    """Copy a JSON-plain value, so that nobody can change the domain's own."""
    if isinstance(value, list):  # most lists hold numbers; deepcopy takes more than twice as long
        return [_fresh(item) if isinstance(item, list | dict) else item for item in value]
    if isinstance(value, dict):
        return copy.deepcopy(value)
    return value


def _key(value: Any) -> Any:
    """Return a hashable stand-in for a JSON-plain value, equal for equal values."""
    if isinstance(value, list | tuple):
        # A list and a test in place are quicker than a generator and a call for each number: this is the hot path.
        return tuple([_key(item) if isinstance(item, list | tuple | dict) else item for item in value])
    if isinstance(value, Mapping):
        return canonical_json(value)
    return value


def _lookup(name: str, values: Sequence[Any]) -> dict[Any, int]:
    """Return the position of each value, and of each length that only one of the lists has."""
    table = {_key(value): i for i, value in enumerate(values)}
    if not values or len(table) < len(values):
        raise DomainError(f"knob {name!r} needs values, all different, but got {list(values)}")
    lengths = Counter(len(value) for value in values if isinstance(value, list))
    for i, value in enumerate(values):
        if isinstance(value, list) and lengths[len(value)] == 1:
            table.setdefault(len(value), i)  # a number that is itself a value means that value
    return table


def drawn(domain: Any, count: int) -> list[Arch]:
    """Return the smallest and the largest architecture of a domain, if it knows them, and some random ones.

    They are the same ones each time, for checks before a run.

    Args:
        domain: the domain.
        count: the number of random ones.

    >>> drawn(Choices({"width": [8, 16]}), 0)
    [{'width': 8}, {'width': 16}]
    """
    rng = np.random.default_rng(0)  # not the run's: a check must not change what is drawn later
    draws = [domain.sample(rng) for _ in range(count)]
    return ends_of(domain) + draws


def domain_fault(domain: Any) -> str:
    """Say what is wrong with the architectures that a domain draws; nothing if all is well.

    The contract of domains checks far more. What is checked here would spoil a run: architectures are stored as JSON,
    and compared by their canonical form.

    Args:
        domain: the domain.

    >>> domain_fault(Choices({"width": [8, 16]}))
    ''
    """
    missing = [method for method in METHODS if not callable(getattr(domain, method, None))]
    if missing:
        return f"its domain {type(domain).__name__} lacks {', '.join(missing)}. Expected {', '.join(METHODS)}."
    arch = domain.sample(np.random.default_rng(0))
    drew = f"its domain {type(domain).__name__} drew {arch!r}"
    if not isinstance(arch, Mapping):
        return f"{drew}. Expected a mapping with names of choices, such as {{'nodes': [...]}}."
    try:
        stored = json.loads(json.dumps(arch, allow_nan=False))
    except (TypeError, ValueError) as error:
        return f"{drew}, which cannot be stored ({error}). Expected Python numbers, text, lists and mappings."
    if stored != arch:
        return f"{drew}, which is {stored!r} after it was stored. Expected lists instead of tuples, and names as text."
    if not domain.contains(arch):
        return f"{drew}, but 'contains' is false for it. Expected both to agree; see nasframe.testing.DomainContract."
    canonical = domain.canonical(arch)
    if domain.canonical(canonical) != canonical:
        return f"{drew}, whose canonical form changes when it is taken again. Expected one form."
    return ""
