"""Hooks are called with the arguments that are specified and documented, and so are the methods of plugins."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import hookspecs, interfaces, registry
from nasframe.types import Trial

ROOT = Path(__file__).parents[1]
SPECS = {name: f for name, f in vars(hookspecs).items() if hasattr(f, "nasframe_spec")}
OBSERVERS = [name for name in SPECS if not name.startswith("register_")]


def hook_calls():
    """Find every call ``….hook.NAME(…)`` or ``….hooks.NAME(…)`` in the framework: name and keywords."""
    for path in sorted((ROOT / "nasframe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                holder = getattr(node.func.value, "attr", getattr(node.func.value, "id", ""))
                if holder in ("hook", "hooks") and node.func.attr in SPECS:
                    yield node.func.attr, [keyword.arg for keyword in node.keywords], len(node.args)


def test_observers_are_called_with_what_is_specified():
    found = list(hook_calls())
    assert {name for name, _, _ in found} == set(OBSERVERS)
    for name, keywords, positional in found:
        assert keywords == list(inspect.signature(SPECS[name]).parameters)
        assert positional == 0


def test_register_hooks_are_called_with_register_and_it_takes_what_is_documented():
    seen = {}

    class Plugin:
        pass

    def implement(name):
        @nf.hookimpl(specname=name)
        def hook(self, register):
            seen[name] = register

        return hook

    for kind in registry.KINDS:
        setattr(Plugin, f"register_{kind}s", implement(f"register_{kind}s"))
    plugin = Plugin()
    registry.plugin_manager().register(plugin)
    try:
        for kind in registry.KINDS:
            list(registry.registrations(kind))
    finally:
        registry.plugin_manager().unregister(plugin)
    assert seen.keys() == SPECS.keys() - set(OBSERVERS)
    specified = list(inspect.signature(hookspecs.Register.__call__).parameters)[1:]
    assert specified == ["name", "factory", "example"]
    for register in seen.values():
        given = inspect.signature(register).parameters.values()
        assert [p.name for p in given if p.kind is p.POSITIONAL_OR_KEYWORD] == specified
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert "`register(name, factory, example=None)`" in text


def test_the_version_is_documented():
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert f"`nasframe.PLUGIN_API`, now {nf.PLUGIN_API}." in text
    assert f"PLUGIN_API = {nf.PLUGIN_API}\n" in text


def test_an_observer_sees_a_run(tmp_path):
    seen = []

    class Observer:
        @nf.hookimpl
        def run_started(self, directory, recipe):
            seen.append(("run_started", directory, recipe["name"]))

        @nf.hookimpl
        def trial_finished(self, directory, stage, number, trial):
            assert isinstance(trial, Trial)
            seen.append(("trial_finished", directory, stage, number))

        @nf.hookimpl
        def stage_finished(self, directory, stage, seconds):
            assert isinstance(seconds, float)
            seen.append(("stage_finished", directory, stage))

    observer = Observer()
    registry.plugins.cache_clear()
    registry.plugin_manager().register(observer)
    try:
        recipe = nf.load_recipe(ROOT / "tests/data/toy.yaml")
        stages = [{"train": {"max_steps": 1}}, {"search": {"trials": 3, "within": {"layers": [3]}}}]
        recipe = nf.load_recipe({**recipe.data, "stages": stages, "budgets": {}}, base=recipe.base)
        run = nf.run(recipe, out=tmp_path / "run", report=False)
    finally:
        registry.plugin_manager().unregister(observer)
        registry.plugins.cache_clear()
    where = run.directory
    assert seen[0] == ("run_started", where, "toy")
    assert seen[1] == ("stage_finished", where, "train")
    assert seen[2:-1] == [("trial_finished", where, "search", number) for number in range(len(seen) - 3)]
    assert len(seen) >= 6
    assert seen[-1] == ("stage_finished", where, "search")


@pytest.mark.parametrize("name", ["SearchSpace", "Domain", "Sampler", "Trainer", "Estimator", "AdditiveEstimator",
                                  "Modifier", "Transform", "Task", "Model"])  # fmt: skip
def test_methods_are_documented_with_their_exact_arguments(name):
    cls = getattr(interfaces, name)
    methods = {key: value for key, value in vars(cls).items() if inspect.isfunction(value)}
    methods = {key: value for key, value in methods.items() if not key.startswith("_") or key == "__call__"}
    expected = [f"{key}({shown(value)})" for key, value in methods.items()]
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| \[`{name}`\][^|]*\| (.*) \|$", text, re.MULTILINE)[1]
    documented, _, attributes = row.partition("; the attribute")
    assert re.findall(r"`([^`]+)`", documented) == expected
    own = [key for key in vars(cls).get("__annotations__", {}) if not key.startswith("_")]
    assert re.findall(r"`(\w+)`", attributes) == own


def shown(function):
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
