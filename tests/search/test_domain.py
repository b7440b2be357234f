import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import Choices, DomainError
from nasframe.search.restrict import restrict
from nasframe.testing.samplers import Words


def elastic(layers=4, depths=(1, 2, 4), heads=(1, 2, 4), ffn=(8, 16)):
    knobs = {"layers": [list(range(n)) for n in depths]}
    knobs |= {f"heads.{i}": list(heads) for i in range(layers)} | {f"ffn.{i}": list(ffn) for i in range(layers)}
    active = {
        name: ("layers", [kept for kept in knobs["layers"] if int(name.split(".")[1]) in kept])
        for name in knobs
        if "." in name
    }
    return Choices(knobs, active)


class AtMost:
    """Accepts archs of at most ``cap`` neurons."""

    def __init__(self, cap):
        self.cap = cap

    def __call__(self, arch):
        return self.violation(arch) == 0

    def violation(self, arch):
        return max(0, sum(v for k, v in arch.items() if k.startswith(("ffn", "b."))) - self.cap)


@st.composite
def domains(draw):
    """Flat and conditional domains, restricted and joined or not, small enough to enumerate."""
    count = draw(st.integers(1, 4))
    knobs = {f"{'ab'[i % 2]}.{i // 2}": list(range(1, draw(st.integers(1, 3)) + 1)) for i in range(count)}
    knobs["deep"] = [list(range(n + 1)) for n in range(draw(st.integers(1, 3)))]
    active = {}
    if draw(st.booleans()):
        active = {k: ("deep", [v for v in knobs["deep"] if int(k[2]) in v]) for k in knobs if k != "deep"}
        parent, depth = "deep", draw(st.integers(0, 3))  # and a chain of knobs below it, each below the one before
        for level in range(depth):
            name = f"nested{level}"
            knobs[name] = list(range(draw(st.integers(1, 3))))
            values = draw(st.lists(st.sampled_from(knobs[parent]), min_size=1, max_size=2))
            active[name] = (parent, values)
            parent = draw(st.sampled_from([parent, name]))
    domain = Choices(knobs, active)
    if draw(st.booleans()):
        domain = domain.joined("layer")
    if draw(st.booleans()):
        name = draw(st.sampled_from(list(knobs)))
        domain = domain.restrict({name: draw(st.lists(st.sampled_from(knobs[name]), min_size=1, max_size=2))})
    return domain


@settings(deadline=None, max_examples=60)
@given(domains(), st.integers(0, 2**32))
def test_every_operation_stays_inside_and_canonical(domain, seed):
    rng = np.random.default_rng(seed)
    everything = list(domain.enumerate())
    assert len(everything) == domain.size
    assert all(a != b for a, b in itertools.combinations(everything[:60], 2))
    arch, other = domain.sample(rng), domain.sample(rng)
    before = json.dumps([arch, other])
    mutant, child = domain.mutate(arch, rng), domain.crossover(arch, other, rng)
    assert json.dumps([arch, other]) == before
    assert mutant != arch or domain.size == 1
    for found in (arch, mutant, child, domain.smallest(), domain.largest()):
        assert found in everything
        assert domain.contains(found)
        assert domain.canonical(found) == found == domain.decode(domain.encode(found))
        code, live = domain.encode(found), domain.active(found)
        assert all(i in allowed or not on for i, allowed, on in zip(code, domain.allowed, live, strict=True))
        assert not code[~live].any()


@settings(deadline=None, max_examples=40)
@given(domains())
def test_restricting_is_filtering(domain):
    for name, value in domain.largest().items():
        narrow = domain.restrict({name: [value]}, keep=AtMost(3))
        same = [a for a in domain.enumerate() if a.get(name, value) == value and AtMost(3)(a)]
        assert list(narrow.enumerate()) == same


def brute_force(knobs, active):
    """Return every canonical architecture from the definition alone: drop a knob as long as its condition fails."""
    found = {}
    for values in itertools.product(*knobs.values()):
        arch = dict(zip(knobs, values, strict=True))
        while True:
            dead = [k for k in arch if k in active and arch.get(active[k][0]) not in active[k][1]]
            if not dead:
                break
            for knob in dead:
                del arch[knob]
        found[json.dumps(arch)] = arch
    return found


@st.composite
def forests(draw):
    """Up to six knobs, each free or below any earlier one, in any order."""
    names = [f"k{i}" for i in range(draw(st.integers(1, 6)))]
    knobs = {name: list(range(draw(st.integers(1, 3)))) for name in names}
    active = {}
    for i, name in enumerate(names):
        if i and draw(st.booleans()):
            parent = draw(st.sampled_from(names[:i]))
            active[name] = (parent, draw(st.lists(st.sampled_from(knobs[parent]), min_size=1, unique=True)))
    order = draw(st.permutations(names))
    return {name: knobs[name] for name in order}, active


@settings(deadline=None, max_examples=80)
@given(forests(), st.integers(0, 2**32))
def test_nested_conditions_are_what_their_definition_says(forest, seed):
    knobs, active = forest
    domain = Choices(knobs, active)
    expected = brute_force(knobs, active)
    listed = list(domain.enumerate())
    assert {json.dumps({k: arch[k] for k in knobs if k in arch}) for arch in listed} == set(expected)
    assert len(listed) == domain.size == len(expected)
    rng = np.random.default_rng(seed)
    arch, other = domain.sample(rng), domain.sample(rng)
    for found in (domain.mutate(arch, rng), domain.crossover(arch, other, rng)):
        assert found in listed
    whole = {knob: values[int(rng.integers(len(values)))] for knob, values in knobs.items()}
    assert domain.canonical(whole) in listed  # knobs without an effect are left out
    names = list(domain.dims)
    for found in listed[:20]:
        code, live = domain.encode(found), domain.active(found)
        for number, condition in enumerate(domain.conditions()):
            if condition is not None:
                parent, active_at = condition
                assert live[number] == (live[parent] and active_at[code[parent]]), names[number]


def test_conditions_of_joined_dimensions_are_read_from_the_deciding_knob():
    knobs = {"a.0": [1, 2], "b.0": [1, 2, 3], "c.1": [5, 6]}
    domain = Choices(knobs, {"c.1": ("b.0", [2])}).joined("layer")
    parent, active_at = domain.conditions()[1]
    assert parent == 0
    assert active_at.tolist() == [False, False, True, True, False, False]  # a.0 varies fastest


def test_size_counts_inactive_knobs_once():
    domain = elastic(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
    assert domain.size == domain.joined("layer").size == 12**6 + 12**8 + 12**10 + 12**12


def test_joined_dimensions_count_the_first_knob_fastest():
    domain = elastic().joined("layer")
    assert list(domain.dims) == ["layers", "layer.0", "layer.1", "layer.2", "layer.3"]
    assert domain.shape == (3, 6, 6, 6, 6)
    arch = {"layers": [0], "heads.0": 4, "ffn.0": 16}
    assert domain.encode(arch).tolist() == [0, 2 + 3 * 1, 0, 0, 0]
    assert domain.active(arch).tolist() == [True, True, False, False, False]
    assert domain.restrict({"ffn": [16]}).allowed[1].tolist() == [3, 4, 5]
    explicit = elastic().joined({"layer.0": ["ffn.0", "heads.0"]})
    assert explicit.encode(arch)[1] == 1 + 2 * 2


def test_a_length_stands_for_a_list_of_that_length():
    domain = elastic()
    assert domain.canonical({"layers": 1, "heads.0": 2, "ffn.0": 8, "heads.3": 4}) == {
        "layers": [0],
        "heads.0": 2,
        "ffn.0": 8,
    }
    assert domain.restrict({"layers": [4]}).size == domain.restrict({"layers": [[0, 1, 2, 3]]}).size == 6**4
    with pytest.raises(DomainError, match="no value 2"):
        Choices({"layers": [[0, 1], [0, 2]]}).canonical({"layers": 2})


def test_archs_do_not_share_the_domains_lists():
    domain = elastic()
    domain.smallest()["layers"].append(7)
    assert domain.smallest()["layers"] == [0]


def test_numpy_values_become_plain():
    domain = Choices({"width": np.array([8, 16])})
    assert json.loads(json.dumps(domain.canonical({"width": np.int64(16)}))) == {"width": 16}


def test_rare_architectures_are_reached_by_descending():
    domain = elastic(12, range(1, 13), (1, 2, 4), range(1, 40)).restrict({"layers": [12]}, keep=AtMost(14))
    rng = np.random.default_rng(0)
    arch = domain.sample(rng)
    assert domain.contains(arch)
    assert domain.contains(domain.mutate(arch, rng))
    assert domain.contains(domain.crossover(arch, domain.sample(rng), rng))


@pytest.mark.slow
def test_nothing_acceptable_is_an_error():
    rng = np.random.default_rng(0)
    for keep in (AtMost(-1), lambda arch: False):
        with pytest.raises(UnsatisfiableError):
            elastic(2, (1, 2)).restrict(keep=keep).sample(rng)
        with pytest.raises(UnsatisfiableError):
            elastic(12, (12,)).restrict(keep=keep).sample(rng)


def test_a_single_acceptable_architecture_is_found():
    domain = elastic(2, (1, 2))
    target = domain.largest()
    only = domain.restrict(keep=lambda arch: arch == target)
    rng = np.random.default_rng(0)
    assert only.sample(rng) == target == only.mutate(target, rng) == only.crossover(domain.smallest(), target, rng)


def test_conditions_nest():
    domain = elastic().restrict(keep=AtMost(16)).restrict({"layers": [2]}, keep=lambda arch: arch["heads.0"] == 4)
    found = list(domain.enumerate())
    assert len(found) == 3
    assert all(arch["heads.0"] == 4 and arch["ffn.0"] == arch["ffn.1"] == 8 for arch in found)
    assert domain.sample(np.random.default_rng(0)) in found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.canonical({"layer": [0]}), "lacks knob 'layers'"),
        (
            lambda d: d.canonical({"layers": 1, "heads.0": 3, "ffn.0": 8}),
            r"'heads.0' has no value 3. It has \[1, 2, 4\]",
        ),
        (lambda d: d.canonical({"layers": 1, "heads.0": 1, "ffn.0": 8, "head.1": 8}), "Did you mean 'heads.1'"),
        (lambda d: d.restrict({"head": [1]}), "Did you mean 'heads'"),
        (lambda d: d.restrict({"heads": [1]}).restrict({"heads": [2]}), "leaves nothing of knob 'heads.0'"),
        (lambda d: d.joined({"x": ["layers", "heads.0"]}), "must be active together"),
        (lambda d: Choices({"a": [1]}).joined("layer"), "no knob ends in a number"),
        (lambda d: Choices({"a": []}), "needs values"),
        (lambda d: Choices({"a": [1, 1]}), "all different"),
        (lambda d: Choices({"a": [{1}]}), "not a JSON value"),
        (lambda d: Choices({"a": [1], "b": [1]}, {"b": ("c", [1])}), "unknown knob 'c'"),
        (
            lambda d: Choices({"a": [1], "b": [1], "c": [1]}, {"b": ("c", [1]), "c": ("b", [1])}),
            "in a circle: 'b' on 'c' on 'b'",
        ),
        (lambda d: Choices({"a": [1]}, {"a": ("a", [1])}), "in a circle: 'a' on 'a'"),
        (lambda d: Choices({"a": [1], "b": [1]}, {"b": ("a", [2])}), "knob 'a' has no value 2"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(DomainError, match=message):
        call(elastic())


def test_contains_is_false_for_anything_else():
    domain = elastic()
    assert not domain.contains({"layers": [9]})
    assert not domain.contains({})
    assert not domain.restrict({"heads": [1]}).contains(domain.largest())


class Bits:
    """A domain with nothing but the protocol."""

    def sample(self, rng):
        return {"bits": int(rng.integers(8))}

    def mutate(self, arch, rng):
        return {"bits": arch["bits"] ^ 1}

    def contains(self, arch):
        return 0 <= arch["bits"] < 8

    def canonical(self, arch):
        return dict(arch)


def test_any_domain_can_be_restricted():
    rng = np.random.default_rng(0)
    odd = restrict(Bits(), keep=lambda arch: arch["bits"] % 2 == 1)
    high = restrict(odd, keep=lambda arch: arch["bits"] > 4)
    assert {high.sample(rng)["bits"] for _ in range(30)} == {5, 7}
    assert not high.contains({"bits": 3})
    assert high.mutate({"bits": 5}, rng)["bits"] in (5, 7)  # it has no neighbour in this part: a draw stands in for one
    with pytest.raises(UnsatisfiableError):
        restrict(high, keep=lambda arch: arch["bits"] > 7).mutate({"bits": 5}, rng)
    with pytest.raises(UsageError, match="cannot be restricted to values of knobs"):
        restrict(Bits(), {"bits": [1]})


class Excess:
    """A graded condition on words: at least six letters, all of them ``c``, which one draw in 2,000 meets."""

    def __call__(self, arch):
        return self.violation(arch) == 0

    def violation(self, arch):
        return float(6 - arch["word"].count("c"))


def test_a_graded_condition_is_reached_downhill_in_any_domain():
    rng = np.random.default_rng(0)
    rare = restrict(Words(), keep=Excess())
    for _ in range(5):
        assert rare.sample(rng) == {"word": "cccccc"}
    assert rare.mutate({"word": "a"}, rng) == {"word": "cccccc"}
    assert not rare.contains({"word": "ccccc"})


class Crossed(Words):
    """Words that also cross, can be listed and are described by numbers."""

    def crossover(self, a, b, rng):
        return {"word": a["word"][:1] + b["word"][1:]}

    def enumerate(self):
        for size in range(1, self.longest + 1):
            for letters in itertools.product(self.letters, repeat=size):
                yield {"word": "".join(letters)}

    def features(self, arch):
        return [len(arch["word"])]


def test_a_part_can_do_what_its_domain_can():
    rng = np.random.default_rng(0)
    assert not hasattr(restrict(Words(), keep=Excess()), "crossover")
    part = restrict(Crossed(), keep=lambda arch: len(arch["word"]) == 2)
    assert [arch["word"] for arch in part.enumerate()] == ["".join(pair) for pair in itertools.product("abc", repeat=2)]
    assert part.crossover({"word": "ab"}, {"word": "cc"}, rng) == {"word": "ac"}
    assert len(part.crossover({"word": "ab"}, {"word": "c"}, rng)["word"]) == 2  # no child fits: a mutant does
    assert part.features({"word": "ab"}) == [2]


def test_a_part_may_be_named_by_shares_of_the_largest_value():
    domain = Choices({"layers": [[0, 2], [0, 1, 2], [0, 1, 2, 3]], "heads.0": [3, 6, 12], "format": ["50%", "100%"]})
    part = domain.restrict({"layers": ["100%"], "heads": ["25%", "50%"], "format": ["50%"]})
    left = [(len(arch["layers"]), arch["heads.0"], arch["format"]) for arch in part.enumerate()]
    assert left == [(4, 3, "50%"), (4, 6, "50%")]  # a text that is a value of the knob is that value
    with pytest.raises(DomainError, match=r"knob 'heads\.0' has no value '75%', which is 9"):
        domain.restrict({"heads": ["75%"]})
    assert not domain.contains({"layers": "100%", "heads.0": 3, "format": "50%"})


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_part_of_few_knobs_with_many_values_is_found(seed):
    """Blocks are such knobs: neither end is acceptable, and costs do not follow the order of the values."""
    shuffled = np.random.default_rng(1)
    costs_of_knobs = {name: shuffled.permutation(600) for name in "abc"}

    def costs(arch):
        return {name: int(values[arch[name]]) for name, values in costs_of_knobs.items()}

    bounds = {name: Bounds(low=1.0, high=8.0) for name in "abc"}
    part = Choices({name: list(range(600)) for name in "abc"}).restrict(keep=Screen(bounds, costs))
    found = part.sample(np.random.default_rng(seed))
    assert all(1 <= cost <= 8 for cost in costs(found).values())
