"""An error that a plugin raises names the plugin and its moment, wherever the framework calls it."""

import shutil
from pathlib import Path

import pytest
import yaml

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import PluginError, RecipeError, RunError, UsageError
from nasframe.plugin_errors import naming_plugins
from nasframe.recipe.resolve import check_recipe
from nasframe.running import runner
from nasframe.running.dry_run import dry_run
from nasframe.store import RunStore

HERE = Path(__file__).parent
PLACES = {
    "model": "model",
    "task": "task",
    "space": "space",
    "trainer": "trainer",
    "estimator": "estimators.faulty",
    "sampler": "stages.search.sampler",
    "modifier": "stages.supernet.modifiers.0",
    "transform": "stages.transform",
}
MOMENTS = [
    "model.tokenizer", "model.load", "task.train_batches", "task.__getitem__", "task.loss", "task.evaluate",
    "space.view", "space.extract", "trainer.fit", "estimator.estimate", "sampler.ask", "sampler.tell",
    "modifier.on_start", "modifier.on_loss", "modifier.on_gradients", "modifier.on_update", "modifier.on_finish",
    "transform.__call__",
]  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    """A recipe that uses one faulty plugin of each kind, all of them in order."""
    shutil.copy(HERE / "faulty_plugin.py", tmp_path / "faulty.py")
    stages = [
        {"transform": {"use": "faulty"}},
        {"train": {"save_as": "supernet", "max_steps": 1, "batch_size": 8, "modifiers": [{"use": "faulty"}]}},
        {"search": {"sampler": {"use": "faulty"}, "trials": 6, "examples": 8, "finalists": 1}},
        {"extract": {}},
        {"evaluate": {"costs": ["params"]}},
    ]
    faulty = {"use": "faulty"}
    data = {"name": "r", "plugins": ["./faulty.py"], "model": faulty, "task": faulty, "space": faulty}
    data |= {"trainer": faulty, "estimators": {"faulty": {}}, "constraints": {"faulty": "<= 2"}, "stages": stages}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "r.yaml"


def broken(recipe, moment, raises="ValueError"):
    """Load the recipe with one of its plugins raising at a moment."""
    kind, _, at = moment.partition(".")
    return nf.load_recipe(recipe, [f"+{PLACES[kind]}.at={at}", f"+{PLACES[kind]}.raises={raises}"])


def test_without_a_fault_it_runs(recipe, tmp_path):
    assert nf.run(nf.load_recipe(recipe), out=tmp_path / "run", report=False).models


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_plugin_and_its_moment_are_named(recipe, tmp_path, moment):
    kind, _, at = moment.partition(".")
    with pytest.raises(RunError) as caught:
        nf.run(broken(recipe, moment), out=tmp_path / "run", report=False)
    named = "a plugin of faulty.py" if moment == "task.__getitem__" else f"{kind} 'faulty' (faulty.py)"
    if moment in ("space.view", "task.evaluate"):  # a search counts failed evaluations first
        assert str(caught.value).endswith(f"{named}: {at} raised ValueError: boom")
    else:
        assert isinstance(caught.value, PluginError)
        assert str(caught.value) == f"{named}: {at} raised ValueError: boom"
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.exit_code == 1


def test_what_is_raised_in_making_is_a_problem_of_the_recipe_where_making_is_cheap(recipe):
    for moment, at in (("modifier.making", "making it"), ("modifier.validate", "validate")):
        with pytest.raises(RecipeError) as caught:
            nf.resolve(broken(recipe, moment))
        (problem,) = caught.value.problems
        assert problem.path == "stages.supernet.modifiers.0"
        assert problem.text == f"modifier 'faulty' (faulty.py): {at} raised ValueError: boom"


def test_what_a_factory_raises_when_it_is_asked_about_its_files_is_a_problem(recipe):
    with pytest.raises(RecipeError) as caught:
        nf.resolve(broken(recipe, "task.on_files"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.text) == ("task", "task 'faulty' (faulty.py): on_files raised ValueError: boom")


def test_what_is_raised_in_making_a_sampler_is_found_by_the_run(recipe, tmp_path):
    with pytest.raises(PluginError, match=r"sampler 'faulty' \(faulty.py\): making it raised ValueError: boom"):
        nf.run(broken(recipe, "sampler.making"), out=tmp_path / "run", report=False)


def test_a_dry_run_names_the_plugin_too(recipe):
    with pytest.raises(PluginError, match=r"model 'faulty' \(faulty.py\): load raised ValueError: boom"):
        dry_run(nf.resolve(broken(recipe, "model.load")))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["sampler.ask", "sampler.making", "task.loss", "model.load", "task.evaluate"])
def test_an_exit_in_a_plugin_is_an_error(recipe, tmp_path, moment):
    with pytest.raises(RunError, match="raised SystemExit: boom"):
        nf.run(broken(recipe, moment, "SystemExit"), out=tmp_path / "run", report=False)


def test_an_interrupt_in_a_plugin_stays_an_interrupt(recipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        nf.run(broken(recipe, "sampler.ask", "KeyboardInterrupt"), out=tmp_path / "run", report=False)


@pytest.mark.slow
def test_a_failed_run_says_which_stage_and_goes_on(recipe, tmp_path):
    with pytest.raises(PluginError) as caught:
        nf.run(broken(recipe, "sampler.tell", "SystemExit"), out=tmp_path / "run", report=False)
    assert any("Stage 'search' failed." in line for line in caught.value.__notes__)
    store = RunStore(tmp_path / "run", shared=True)
    assert store.stage_state("search") == "failed"
    store.close()
    with pytest.raises(PluginError, match="tell raised SystemExit"):
        runner.resume(tmp_path / "run", report=False)


@pytest.mark.slow
def test_the_command_line_ends_with_1_and_shows_the_traceback_if_asked(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NASFRAME_TRACEBACK", raising=False)
    command = ["run", str(recipe), "+stages.search.sampler.at=ask", "--no-progress", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 1
    err = capsys.readouterr().err
    assert "nasframe: sampler 'faulty' (faulty.py): ask raised ValueError: boom" in err
    assert "--traceback" in err
    monkeypatch.setenv("NASFRAME_TRACEBACK", "1")
    with pytest.raises(PluginError) as caught:
        main([*command, str(tmp_path / "two")])
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_exit_at_import_or_in_a_hook_is_a_problem_of_the_recipe(tmp_path):
    hook = "from nasframe import hookimpl\n@hookimpl\ndef register_samplers(register):\n    raise SystemExit(0)\n"
    for text, words in (
        ("raise SystemExit(0)\n", "cannot be loaded: SystemExit: 0"),
        (hook, "register_samplers: SystemExit: 0"),
    ):
        (tmp_path / "leaves.py").write_text(text)
        (tmp_path / "r.yaml").write_text("plugins: [./leaves.py]\ntask: glue\nstages: [{evaluate: {}}]\n")
        _, problems = check_recipe(tmp_path / "r.yaml")
        (problem,) = [problem for problem in problems if problem.path == "plugins.0"]
        assert words in problem.text


def test_a_plugin_whose_class_is_the_frameworks_own_is_named(recipe, tmp_path):
    toy = "from nasframe import hookimpl\nfrom nasframe.testing.toy import ToyTask\nclass Bad(ToyTask): ...\n"
    toy += "def make(seed: int = 0):\n    task = ToyTask(seed % 1000)\n    task.data['train'] = None\n    return task\n"
    toy += "@hookimpl\ndef register_tasks(register):\n    register('bad', make)\n"
    (tmp_path / "bad.py").write_text(toy)
    loaded = nf.load_recipe(recipe, ["plugins=[./faulty.py, ./bad.py]", "task=bad"], base=tmp_path)
    with pytest.raises(PluginError, match=r"^task 'bad' \(bad.py\): train_batches raised TypeError"):
        nf.run(loaded, out=tmp_path / "run", report=False)


def test_what_a_plugin_refuses_is_let_through():
    with pytest.raises(UsageError, match="no"), naming_plugins():
        raise UsageError("no")


def test_an_error_of_nobodys_is_let_through():
    with pytest.raises(ZeroDivisionError), naming_plugins():
        1 / 0  # noqa: B018
