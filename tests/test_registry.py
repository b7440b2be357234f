"""Plugins: found, restricted, broken ones kept apart, options checked as their signatures say."""

import sys
import textwrap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest

import nasframe as nf
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.options import arguments_doc, options_of, type_name
from nasframe.records import ModifierRef, Ref, SamplerRef
from nasframe.search.domain import Choices


@dataclass(frozen=True)
class Common:
    """Options that several factories share.

    Args:
        steps: how many.
    """

    steps: int = 5
    rate: float = 0.1


class Walker:
    """Walks.

    Args:
        stride: how far,
            at once.
        mode: how.
    """

    def __init__(
        self,
        domain,
        stride: float,
        inner: SamplerRef | None = None,
        shape: tuple[int, ...] = (1,),
        mode: Literal["up", "down"] = "up",
        friends: list[ModifierRef] = (),
        parts: dict[Literal["heads", "ffn"], float] | None = None,
        seed: int = 0,
        from_: str | None = None,
    ):
        self.domain, self.stride, self.inner, self.shape, self.mode = domain, stride, inner, shape, mode
        self.friends, self.seed, self.start = friends, seed, from_


class Friend:
    def __init__(self, common: Common, name: str = "x"):
        self.common, self.name = common, name


class Toys:
    @nf.hookimpl
    def register_samplers(self, register):
        register("walker", Walker)

    @nf.hookimpl
    def register_modifiers(self, register):
        register("friend", Friend)


@pytest.fixture(autouse=True)
def fresh():
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


@pytest.fixture
def toys():
    registry.plugin_manager().register(Toys(), name="toys")


def entry(monkeypatch, *pairs):
    """Pretend that distributions are installed: (entry name, distribution, object or exception)."""

    def load(thing):
        def run():
            if isinstance(thing, Exception):
                raise thing
            return thing

        return run

    entries = [
        SimpleNamespace(name=name, value="x", dist=SimpleNamespace(name=package, version="1.0"), load=load(thing))
        for name, package, thing in pairs
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    registry.plugins.cache_clear()


def test_the_basics_are_found():
    assert {"random", "grid", "every", "sandwich", "evolution"} <= registry.factories("sampler").keys()
    assert registry.find("sampler", "random").package == "nasframe"
    assert registry.failures() == []


def test_every_registered_factory_loads_and_has_options_and_a_docstring():
    count = 0
    for kind in registry.KINDS:
        for name, registered in registry.factories(kind).items():
            factory = registered.load()
            assert factory.__doc__, f"{kind} {name}"
            for option in options_of(factory).values():
                assert option.doc, f"{kind} {name}: {option.name} is not documented"
                assert option.annotation is not Any, f"{kind} {name}: {option.name} has no type"
                count += 1
    assert count > 40


def test_make_checks_types_and_builds_nested_plugins(toys):
    made = nf.make(
        "sampler", "walker", domain="D", seed=3, stride=2, inner={"use": "walker", "stride": 0.5},
        shape=[1, 2], friends=["friend", {"use": "friend", "steps": 9}],
    )  # fmt: skip
    assert (made.stride, made.shape, made.seed, made.inner.stride, made.inner.domain) == (2.0, (1, 2), 3, 0.5, "D")
    assert [friend.common.steps for friend in made.friends] == [5, 9]
    assert nf.make("sampler", {"use": "walker", "stride": 1, "from": "a"}, {"domain": 1}).start == "a"
    assert nf.make("sampler", made) is made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": "3"}, ["stride", "'3'", "float"]),
        ({"stride": 1, "mode": "upp"}, ["mode", "'up' or 'down'", "Did you mean 'up'?"]),
        ({"stride": 1, "parts": {"haeds": 0.5}}, ["parts", "mapping {heads, ffn} of float", "Did you mean 'heads'?"]),
        ({"stride": 1, "sahpe": [1]}, ["sahpe", "no option 'sahpe'", "Did you mean 'shape'?"]),
        ({"stride": 1, "shape": [1.5]}, ["shape", "list of int"]),
        ({"stride": True}, ["stride", "True"]),
        ({}, ["stride", "missing", "how far, at once."]),
        ({"stride": 1, "friends": [{"use": "friend", "steps": 1.5}]}, ["friend", "steps", "int"]),
        ({"stride": 1, "friends": ["freind"]}, ["unknown modifier 'freind'", "Did you mean 'friend'?"]),
        ({"stride": 1, "friends": [{"steps": 1}]}, ["names no plugin"]),
    ],
)
def test_wrong_options_are_explained(toys, options, words):
    with pytest.raises(UsageError) as error:
        nf.make("sampler", "walker", domain=1, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_every_fault_is_told_at_once(toys):
    with pytest.raises(UsageError) as error:
        nf.make("sampler", "walker", mode="x", sahpe=1)
    assert all(word in str(error.value) for word in ("domain", "stride", "mode", "sahpe"))


def test_unknown_names_say_what_there_is():
    with pytest.raises(UsageError, match=r"unknown sampler 'randm'.*grid.*Did you mean 'random'\?"):
        nf.make("sampler", "randm")
    with pytest.raises(UsageError, match=r"unknown space 'random'.*is a sampler"):
        nf.make("space", "random")
    with pytest.raises(UsageError, match=r"unknown kind.*Did you mean 'sampler'\?"):
        nf.make("samplers", "random")


def test_join_hands_the_sampler_the_joined_domain(toys):
    domain = Choices({"heads.0": [1, 2], "ffn.0": [3, 4], "heads.1": [1, 2], "ffn.1": [3, 4]})
    made = nf.make("sampler", {"use": "walker", "stride": 1, "join": "layer"}, domain=domain)
    arch = domain.smallest()
    assert (len(made.domain.encode(arch)), len(domain.encode(arch))) == (2, 4)


def test_join_needs_a_domain_that_joins(toys):
    class Plain:
        """A domain with the required members only."""

    with pytest.raises(UsageError, match=r"sampler 'walker': join: Plain cannot join knobs\. Expected"):
        nf.make("sampler", {"use": "walker", "stride": 1, "join": "layer"}, domain=Plain())


def test_a_plugin_that_fails_is_told_and_breaks_nothing(monkeypatch):
    entry(monkeypatch, ("toys", "good", Toys()), ("bad", "broken-dist", ImportError("no module named nope")))
    assert list(registry.factories("sampler")) == ["walker"]
    (failure,) = registry.failures()
    assert (failure.plugin, failure.source.package) == ("bad", "broken-dist")
    assert "no module named nope" in failure.cause


@pytest.mark.parametrize(
    ("version", "mend"),
    [
        (3, "upgrade nasframe (pip install --upgrade nasframe), or install an older other-dist"),
        (0, "upgrade other-dist"),
    ],
)
def test_a_plugin_for_another_api_is_told_and_breaks_nothing(monkeypatch, version, mend):
    other = Toys()
    other.PLUGIN_API = version
    entry(monkeypatch, ("toys", "good", Toys()), ("other", "other-dist", other))
    assert list(registry.factories("sampler")) == ["walker"]
    (failure,) = registry.failures()
    assert failure.cause == f"made for plugin API {version}, but this nasframe has {nf.PLUGIN_API}; {mend}"


def test_a_name_that_nasframe_does_not_have_hints_at_the_version(monkeypatch):
    error = ImportError("cannot import name 'tomorrow' from 'nasframe'", name="nasframe")
    entry(monkeypatch, ("new", "new-dist", error))
    assert "Was the plugin made for another version? This is plugin API 2." in registry.failures()[0].cause


def test_a_hook_that_raises_and_a_hook_nobody_knows_are_told(monkeypatch):
    class Raises:
        @nf.hookimpl
        def register_tasks(self, register):
            raise ValueError("no task today")

    class Typo:
        @nf.hookimpl
        def register_sampler(self, register): ...

    entry(monkeypatch, ("toys", "good", Toys()), ("raises", "r", Raises()), ("typo", "t", Typo()))
    assert list(registry.factories("sampler")) == ["walker"]
    causes = {failure.plugin: failure.cause for failure in registry.failures()}
    assert "no task today" in causes["raises"]
    assert "unknown hook 'register_sampler'" in causes["typo"]
    assert "Did you mean 'register_samplers'?" in causes["typo"]


def test_a_name_claimed_twice_names_both_packages(monkeypatch):
    class Other:
        @nf.hookimpl
        def register_samplers(self, register):
            register("walker", Friend)
            register("runner", Walker)

    entry(monkeypatch, ("toys", "first-dist", Toys()), ("other", "second-dist", Other()))
    with pytest.raises(UsageError, match=r"'walker'.*first-dist.*second-dist"):
        registry.find("sampler", "walker")
    assert list(registry.factories("sampler")) == ["runner"]
    assert "second-dist" in registry.failures()[0].cause


def test_a_target_that_cannot_be_imported_names_its_package(monkeypatch):
    class Missing:
        @nf.hookimpl
        def register_tasks(self, register):
            register("gone", "nowhere.at_all:Thing")

    entry(monkeypatch, ("m", "missing-dist", Missing()))
    with pytest.raises(UsageError, match=r"task 'gone' of missing-dist 1.0 cannot be loaded: ModuleNotFoundError"):
        nf.make("task", "gone")


@pytest.mark.parametrize(("value", "kinds"), [("", 0), ("basics", 1), ("nothing", 0)])
def test_the_environment_restricts_loading(monkeypatch, value, kinds):
    monkeypatch.setenv("NASFRAME_PLUGINS", value)
    registry.plugins.cache_clear()
    assert bool(registry.factories("sampler")) is bool(kinds)
    assert bool(registry.failures()) is (value == "nothing")


def test_a_listed_plugin_that_was_merged_into_another_names_that(monkeypatch):
    monkeypatch.setenv("NASFRAME_PLUGINS", "basics,table")
    registry.plugins.cache_clear()
    (failure,) = registry.failures()
    assert failure.plugin == "table"
    assert failure.cause == "no such plugin is installed. It is now part of 'bench'."


def test_one_file_plugins(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        textwrap.dedent(
            """
            from nasframe import hookimpl

            class Mine:
                def __init__(self, domain, size: int = 1): self.size = size

            @hookimpl
            def register_samplers(register):
                register("mine", f"{__name__}:Mine")
            """
        )
    )
    registry.add_file(file)
    registry.add_file(file)
    assert nf.make("sampler", "mine", domain=1, size=4).size == 4
    assert registry.find("sampler", "mine").source.file == str(file)
    bad = tmp_path / "bad.py"
    before = set(sys.modules)
    bad.write_text("raise RuntimeError('half written')")
    with pytest.raises(UsageError, match="half written"):
        registry.add_file(bad)
    assert not any(name.startswith("bad_") for name in sys.modules.keys() - before)


def test_options_are_read_from_signatures():
    options = options_of(Walker)
    assert list(options) == ["stride", "inner", "shape", "mode", "friends", "parts", "from"]
    assert options["stride"].required
    assert options["stride"].doc == "how far, at once."
    assert options["inner"].type_name == "sampler plugin or null"
    assert {name: o.group for name, o in options_of(Friend).items()} == {
        "steps": "common",
        "rate": "common",
        "name": None,
    }
    assert options_of(Friend)["steps"].doc == "how many."


def test_annotations_of_type_checking_imports_count_as_any():
    def factory(a: "OnlyForTypeCheckers", b: int = 0): ...  # noqa: F821

    assert options_of(factory)["a"].annotation is Any
    assert options_of(factory)["b"].annotation is int


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (dict[str, int], "mapping of int"),
        (Path | None, "path or null"),
        (bool, "true or false"),
        (Annotated[Any, Ref("task")], "task plugin"),
        (list[dict[str, float]], "list of mapping of float"),
    ],
)
def test_types_read_as_a_user_of_yaml_reads_them(annotation, text):
    assert type_name(annotation) == text


def test_arguments_doc_reads_lists_of_names():
    def factory():
        """Do.

        Args:
            a, b: both.
            c (int): third: with a colon.

        Returns:
            d: not an argument.
        """

    assert arguments_doc(factory) == {"a": "both.", "b": "both.", "c": "third: with a colon."}
