"""Optional members of plugins: found by their Protocols, read under their old names, and with defaults."""

import warnings
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import interfaces, registry
from nasframe.interfaces import (
    OPTIONAL,
    AdditiveEstimator,
    BoundedDomain,
    CountableDomain,
    CrossableDomain,
    DrawableDomain,
    EncodedDomain,
    EnumerableDomain,
    FeaturedDomain,
    FileBacked,
    JoinableDomain,
    KnobDomain,
    MeasuredEstimator,
    Modifier,
    RestrictableDomain,
    SizedSpace,
    SpaceTraits,
    TransformTraits,
    cost_table,
    ends_of,
    files_of,
    member,
    size_of,
    sizes_of,
    start_sampler,
    traits_of,
    written_arch,
)
from nasframe.recipe.resolve import check_recipe
from nasframe.search.domain import Choices
from nasframe.testing.toy import ToySpace, tiny_net

NEW_NAMES = sorted(interfaces.RENAMED)
OLD_MODIFIER = """
from nasframe import hookimpl
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier

class Old(Modifier):
    def on_plan(self, job):
        raise UsageError("not in this stage")

@hookimpl
def register_modifiers(register):
    register("old", Old)
"""


def test_a_sampler_hears_what_a_stage_is_for_if_it_wants_to():
    heard = []
    plain = type("Plain", (), {"start": lambda self, stage, total: heard.append((stage, total))})()
    curious = type("Curious", (), {"start": lambda self, stage, total, origin: heard.append((stage, total, origin))})()
    for sampler in (plain, curious, object()):
        start_sampler(sampler, "supernet", 10, "train")
    assert heard == [("supernet", 10), ("supernet", 10, "train")]


def test_a_domain_of_knobs_has_every_optional_member_and_another_none():
    domain = Choices({"a": [1, 2], "b": [1, 2, 3]})
    protocols = OPTIONAL["domain"]
    assert {KnobDomain, CountableDomain, EnumerableDomain, BoundedDomain, CrossableDomain} <= set(protocols)
    assert {RestrictableDomain, JoinableDomain, EncodedDomain} <= set(protocols)
    assert FeaturedDomain in protocols
    assert all(isinstance(domain, protocol) for protocol in set(protocols) - {DrawableDomain})  # knobs are no graph
    assert not any(isinstance(object(), protocol) for protocol in protocols)
    assert (size_of(domain), ends_of(domain)) == (6, [{"a": 1, "b": 1}, {"a": 2, "b": 3}])
    assert (size_of(object()), ends_of(object())) == (float("inf"), [])


def test_built_in_costs_are_additive_or_measured():
    params, latency = nf.make("estimator", "params"), nf.make("estimator", "latency")
    assert isinstance(params, AdditiveEstimator)
    assert not isinstance(params, MeasuredEstimator)
    assert isinstance(latency, MeasuredEstimator)
    assert cost_table(latency, None, None) is None
    assert cost_table(params, ToySpace(), tiny_net()) is not None


def test_a_space_without_sizes_has_architectures_that_are_their_own_sizes():
    space = type("Space", (), {"domain": Choices({"a": [1, 2]})})()
    assert not isinstance(space, SizedSpace)
    assert sizes_of(space, {"a": 1}) == {"a": 1}
    assert sizes_of(ToySpace(), None) is None
    assert written_arch(space, {"a": 2}) == {"a": 2}
    reader = type("Reader", (), {"domain": space.domain, "arch": lambda self, sizes: {"a": len(sizes)}})()
    assert written_arch(reader, {"x": 0, "y": 0}) == {"a": 2}


def test_files_that_do_not_exist_are_left_out(tmp_path):
    there = tmp_path / "rows.csv"
    there.write_text("text,label\n")
    task = type("Task", (), {"files": lambda self: [there, tmp_path / "gone.csv"]})()
    assert isinstance(task, FileBacked)
    assert files_of(task) == [there]
    assert files_of(object()) == []


def test_traits_have_defaults():
    assert traits_of(SpaceTraits, object()) == SpaceTraits(needs_net=True)
    assert traits_of(TransformTraits, registry.find("transform", "rewire").load()).reshapes is False


@pytest.mark.parametrize("new", NEW_NAMES)
def test_a_member_is_read_under_its_old_name_with_a_warning(new):
    old = interfaces.RENAMED[new]
    modifier = type("Old", (Modifier,), {old: True})
    for plugin in (modifier, modifier(), type("Heir", (modifier,), {})()):
        with pytest.warns(DeprecationWarning, match=rf"{old!r} is called {new!r} now.*until nasframe 0\.\d"):
            assert member(plugin, new, False) is True


def test_check_asks_a_modifier_under_its_old_name(tmp_path):
    (tmp_path / "old.py").write_text(OLD_MODIFIER, encoding="utf-8")
    here = Path(__file__).parent
    toy, plugin = (here / "data/toy.yaml").as_posix(), (here / "toy_plugin.py").as_posix()
    text = f"extends: {toy}\nplugins: [{plugin}, ./old.py]\nset: {{stages.supernet.modifiers: [{{use: old}}]}}\n"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.warns(DeprecationWarning, match="'on_plan' is called 'validate' now"):
        problems = check_recipe(recipe)
    assert "not in this stage" in str(problems)


@pytest.mark.parametrize("new", NEW_NAMES)
def test_the_name_of_today_wins_and_does_not_warn(new):
    old = interfaces.RENAMED[new]
    both = type("Both", (Modifier,), {old: False, new: True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert member(both(), new, False) is True
        assert not member(Modifier(), new, None)  # ``validate`` is not a member of every modifier
        assert member(object(), new, "default") == "default"


def test_every_optional_member_is_described():
    for kind, protocols in OPTIONAL.items():
        for protocol in protocols:
            assert protocol.__doc__, f"{kind}: {protocol.__name__}"
            names = [field.name for field in fields(protocol)] if is_dataclass(protocol) else []
            for name in names:
                assert f"    {name}: " in protocol.__doc__, f"{kind}: {protocol.__name__}.{name}"


def test_the_old_names_are_in_the_documents():
    text = (Path(__file__).parents[1] / "docs/hooks.md").read_text(encoding="utf-8")
    for new, old in interfaces.RENAMED.items():
        assert f"`{old}` is now `{new}`" in text
    assert f"up to nasframe {interfaces.LAST_RELEASE_WITH_OLD_NAMES}" in text
