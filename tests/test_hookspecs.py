"""Hooks are called with the arguments that are specified and documented, and so are the methods of plugins."""

import inspect
import re
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import hookspecs, interfaces, registry
from nasframe.errors import PluginError
from nasframe.observers import OBSERVED, Observers, arguments_of

ROOT = Path(__file__).parents[1]
SPECS = {name: f for name, f in vars(hookspecs).items() if hasattr(f, "nasframe_spec")}
REGISTERING = [f"register_{registry.plural(kind)}" for kind in registry.KINDS]
OTHERS = ["register_commands", "check_file", "model_facts", "file_kind"]


def test_every_hook_registers_observes_or_is_called_by_the_registry():
    assert set(SPECS) == {*REGISTERING, *OTHERS, *OBSERVED}


def test_observers_are_told_by_methods_of_the_hooks_names():
    """The methods have the arguments of the hooks, but for those that all events share."""
    told = [name for name, f in vars(Observers).items() if name in SPECS and callable(f)]
    assert told == list(OBSERVED)
    for name in OBSERVED:
        own = list(inspect.signature(getattr(Observers, name)).parameters)[1:]
        assert own == [argument for argument in arguments_of(name) if argument not in ("run", "directory", "recipe")]


@pytest.mark.parametrize("name", OBSERVED)
def test_every_observing_hook_is_documented_with_its_exact_arguments(name):
    for page in ("docs/hooks.md", "docs/observers.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert f"{name}({', '.join(arguments_of(name))})" in text


def test_register_hooks_are_called_with_register_and_it_takes_what_is_documented():
    seen = {}

    class Plugin:
        pass

    def implement(name):
        @nf.hookimpl(specname=name)
        def hook(self, register):
            seen[name] = register

        return hook

    for hook in REGISTERING:
        setattr(Plugin, hook, implement(hook))
    plugin = Plugin()
    registry.plugin_manager().register(plugin)
    try:
        for kind in registry.KINDS:
            list(registry.registrations(kind))
    finally:
        registry.plugin_manager().unregister(plugin)
    assert list(seen) == REGISTERING
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


@pytest.fixture
def plugin():
    """Return a function that registers a plugin for the time of a test."""
    registry.plugins.cache_clear()
    yield registry.plugin_manager().register
    registry.plugins.cache_clear()


def says(facts):
    """Make a plugin that says this about every network."""

    class Plugin:
        @nf.hookimpl
        def model_facts(self, net):
            if isinstance(facts, Exception):
                raise facts
            return facts

    return Plugin()


def test_the_facts_of_all_plugins_are_gathered(plugin):
    plugin(says({"activation": "gelu", "sizes": (1, 2)}), name="first")
    plugin(says(None), name="silent")
    plugin(says({"sparse": 0.5}), name="second")
    assert registry.model_facts(None) == {"activation": "gelu", "sizes": [1, 2], "sparse": 0.5}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (ValueError("no weights"), "plugin 'mine' (mine): model_facts raised ValueError: no weights"),
        ({1: 2}, "plugin 'mine' (mine): model_facts returned {1: 2}. Expected a mapping from names"),
        (["a"], "plugin 'mine' (mine): model_facts returned ['a']. Expected a mapping from names"),
        ({"bad": float("nan")}, "plugin 'mine' (mine): model_facts: Out of range float values are not JSON compliant"),
        ({"bad": object}, "plugin 'mine' (mine): model_facts: Object of type type is not JSON serializable. Expected"),
        ({"taken": 1}, "model_facts: 'taken' is said by both other and mine; rename or remove one"),
    ],
)
def test_wrong_facts_name_the_plugin(plugin, facts, text):
    plugin(says({"taken": 0}), name="other")
    plugin(says(facts), name="mine")
    with pytest.raises(PluginError) as error:
        registry.model_facts(None)
    assert text in str(error.value)


def test_facts_are_in_reports_and_on_model_cards(plugin, tmp_path):
    plugin(says({"kind of network": "toy", "details": {"deep": [1]}}), name="mine")
    toy = nf.load_recipe(ROOT / "tests/data/toy.yaml")
    sizes = {"layers": 2, "heads": 2, "ffn": 16}
    stages = [{"train": {"max_steps": 1}}, {"extract": {"archs": {"small": sizes}}}, {"export": {}}]
    recipe = nf.load_recipe({**toy.data, "stages": stages, "budgets": {}}, base=toy.base)
    run = nf.run(recipe, out=tmp_path / "run")
    report = run.report()
    (model,) = [model for model in report["models"] if model["name"] == "small"]
    assert model["facts"] == {"kind of network": "toy", "details": {"deep": [1]}}
    assert "| small | kind of network | toy |" in (run.directory / "report.md").read_text(encoding="utf-8")
    assert "kind of network" in (run.directory / "report.html").read_text(encoding="utf-8")
    (card,) = run.directory.glob("**/README.md")
    assert "| kind of network | toy |" in card.read_text(encoding="utf-8")
    assert "details" not in card.read_text(encoding="utf-8")


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
