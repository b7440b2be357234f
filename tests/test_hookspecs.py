"""Hooks are called with the arguments that are specified and documented, and so are the methods of plugins."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import hookspecs, interfaces, registry
from nasframe.errors import PluginError
from nasframe.records import Trial

ROOT = Path(__file__).parents[1]
SPECS = {name: f for name, f in vars(hookspecs).items() if hasattr(f, "nasframe_spec")}
OBSERVERS = ["run_started", "trial_finished", "stage_finished"]
REGISTERING = [f"register_{registry.plural(kind)}" for kind in registry.KINDS]
OTHERS = ["register_commands", "check_file", "model_facts", "file_kind"]


def hook_calls():
    """Find every call ``….hook.NAME(…)`` or ``….observers.NAME(…)`` in the framework: name and keywords."""
    for path in sorted((ROOT / "nasframe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                holder = getattr(node.func.value, "attr", getattr(node.func.value, "id", ""))
                if holder in ("hook", "observers") and node.func.attr in SPECS:
                    yield node.func.attr, [keyword.arg for keyword in node.keywords], len(node.args)


def test_every_hook_registers_observes_or_is_called_by_the_registry():
    assert set(SPECS) == {*REGISTERING, *OTHERS, *OBSERVERS}


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(0)])
@pytest.mark.parametrize("hook", OBSERVERS)
def test_an_observer_that_raises_is_told_of_once_and_switched_off(tmp_path, capsys, hook, error):
    calls = []

    class Observer:
        @nf.hookimpl
        def run_started(self):
            self.hear("run_started")

        @nf.hookimpl
        def trial_finished(self):
            self.hear("trial_finished")

        @nf.hookimpl
        def stage_finished(self):
            self.hear("stage_finished")

        def hear(self, name):
            calls.append(name)
            if name == hook:
                raise error

    run = observed(tmp_path, Observer())
    assert calls.count(hook) == 1
    assert calls[-1] == hook  # nothing is heard after it
    notices = [notice for notice in run.report()["notices"] if notice["place"] == "plugin watcher"]
    (notice,) = notices
    assert hook in notice["text"]
    assert type(error).__name__ in notice["text"]
    assert capsys.readouterr().err.count("plugin watcher") == 1


def test_an_interrupt_in_an_observer_ends_the_run(tmp_path):
    class Observer:
        @nf.hookimpl
        def stage_finished(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observed(tmp_path, Observer())


@pytest.mark.slow
def test_what_an_observer_did_is_not_kept_with_a_stage_for_other_runs(tmp_path):
    class Observer:
        @nf.hookimpl
        def trial_finished(self):
            raise ValueError("boom")

    observed(tmp_path, Observer(), cache=tmp_path / "cache")
    later = observed(tmp_path / "later", object(), cache=tmp_path / "cache")
    assert not [notice for notice in later.report()["notices"] if "watcher" in notice["place"]]


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


def observed(folder, observer, **options):
    """Run a short recipe under the eyes of a plugin called ``watcher``."""
    registry.plugins.cache_clear()
    registry.plugin_manager().register(observer, name="watcher")
    try:
        toy = nf.load_recipe(ROOT / "tests/data/toy.yaml")
        stages = [{"train": {"max_steps": 1}}, {"search": {"trials": 2, "within": {"layers": [3]}}}]
        recipe = nf.load_recipe({**toy.data, "stages": stages, "budgets": {}}, base=toy.base)
        return nf.run(recipe, out=folder / "run", report=False, **options)
    finally:
        registry.plugin_manager().unregister(observer)
        registry.plugins.cache_clear()


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
