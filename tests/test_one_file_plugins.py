"""``plugins: [./my_sampler.py]``: from the file to a run, a resume, and every way it can be wrong."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import PluginError, RecipeError, UsageError
from nasframe.recipe.resolve import check_recipe, resolve
from nasframe.recipe.schema import recipe_schema
from nasframe.running import runner
from nasframe.running.cache_keys import chains
from nasframe.store import RunStore
from nasframe_studies.file import load_study

HERE = Path(__file__).parent
CLIMB = '''
from pathlib import Path

from nasframe import hookimpl
from nasframe_hillclimb.sampler import HillClimb

PLUGIN_API = 1


class Stops(HillClimb):
    """Climb.

    Args:
        domain: injected.
        seed: injected.
        fuse: a file whose presence stops the search at the fifth ask.
    """

    def __init__(self, domain, seed: int = 0, fuse: str | None = None):
        super().__init__(domain, seed)
        self.fuse, self.asked = fuse, 0

    def ask(self, n=1, within=None):
        self.asked += 1
        if self.fuse and self.asked == 5 and Path(self.fuse).exists():
            raise RuntimeError("burnt through")
        return super().ask(n, within)


@hookimpl
def register_samplers(register):
    register("climb", Stops)
'''
STAGES = [
    {"train": {"max_steps": 1}},
    {"search": {"sampler": {"use": "climb", "fuse": "FUSE"}, "trials": 10}},
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent / "docs/examples/nasframe-hillclimb"))
    registry.plugins.cache_clear()
    (tmp_path / "climb.py").write_text(CLIMB)
    toy = yaml.safe_load((HERE / "data/toy.yaml").read_text())
    shutil.copy(HERE / "toy_plugin.py", tmp_path)
    STAGES[1]["search"]["sampler"]["fuse"] = str(tmp_path / "fuse")
    toy |= {"plugins": ["./toy_plugin.py", "./climb.py"], "stages": STAGES}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(toy))
    yield tmp_path / "r.yaml"
    registry.plugins.cache_clear()


def trials(directory):
    store = RunStore(directory, shared=True)
    found = [(trial.arch, trial.score, trial.state) for trial in store.trials("search")]
    store.close()
    return found


@pytest.mark.slow
def test_a_run_and_a_resume_use_the_file(recipe, tmp_path):
    whole = nf.run(nf.load_recipe(recipe), out=tmp_path / "whole", report=False)
    (tmp_path / "fuse").touch()
    with pytest.raises(PluginError, match=r"sampler 'climb' \(climb.py\): ask raised RuntimeError: burnt through"):
        nf.run(nf.load_recipe(recipe), out=tmp_path / "cut", report=False)
    assert 0 < len(trials(tmp_path / "cut")) < 10
    (tmp_path / "fuse").unlink()
    registry.plugins.cache_clear()  # as in another process
    cut = runner.resume(tmp_path / "cut", report=False)
    assert trials(cut.directory) == trials(whole.directory)
    assert len(trials(whole.directory)) >= 10


@pytest.mark.slow
def test_options_are_checked_and_the_schema_lets_the_recipe_pass(recipe):
    plan, problems = check_recipe(recipe, ["+stages.search.sampler.fuss=x"])
    assert plan is None
    assert "fuss" in str(problems[0])
    assert "Did you mean 'fuse'?" in str(problems[0])
    assert {"required": ["plugins"]} in recipe_schema()["anyOf"]
    registry.add_file(recipe.parent / "climb.py")
    assert "climb" in recipe_schema()["$defs"]["sampler"]["anyOf"][0]["enum"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file or folder './climb.py'"),
        ("def broken(:\n", "the plugin cannot be loaded: SyntaxError: invalid syntax (climb.py, line 1)"),
        ("import nothing_of_the_kind\n", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("class Climb: ...\n", "it registers nothing. Expected a function such as register_samplers(register)"),
        (
            "from nasframe import hookimpl\n@hookimpl\ndef register_commands(app): ...\n",
            "register_commands: a one-file plugin is loaded after nasframe has asked for this.",
        ),
        (CLIMB.replace("def register_samplers", "def register_sampler"), "Did you mean 'register_samplers'?"),
        (CLIMB.replace('"climb", Stops', '"random", Stops'), "unknown sampler 'climb'"),
        (CLIMB.replace("PLUGIN_API = 1", "PLUGIN_API = 3"), "made for plugin API 3, but this nasframe has 2; upgrade"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_at_its_line(recipe, text, words):
    path = recipe.parent / "climb.py"
    path.unlink() if text is None else path.write_text(text)
    plan, problems = check_recipe(recipe)
    assert plan is None
    assert any(words in str(problem) for problem in problems), problems
    with pytest.raises(RecipeError):
        resolve(nf.load_recipe(recipe))


def test_a_name_that_is_taken_names_both(recipe):
    (recipe.parent / "climb.py").write_text(CLIMB.replace('"climb", Stops', '"random", Stops'))
    _, problems = check_recipe(recipe, ["stages.search.sampler=random"])
    assert "sampler 'random' is registered by both" in str(problems[0])
    assert "climb.py" in str(problems[0])


def test_a_name_that_is_taken_is_told_even_if_nobody_uses_it_here(recipe):
    (recipe.parent / "climb.py").write_text(CLIMB + '    register("evolution", Stops)\n')
    _, problems = check_recipe(recipe)
    (problem,) = problems
    assert problem.path == "plugins.1"
    assert "sampler 'evolution' is registered by both" in problem.text
    assert main(["plugins", "check", str(recipe.parent / "climb.py")]) == 2


def twins(tmp_path):
    """Two recipes whose files register different samplers under one name."""
    for name, option in (("a", "left"), ("b", "right")):
        home = tmp_path / name
        home.mkdir()
        (home / "turn.py").write_text(TURN.replace("OPTION", option))
        toy = yaml.safe_load((HERE / "data/toy.yaml").read_text())
        toy |= {"plugins": [str(HERE / "toy_plugin.py"), "./turn.py"], "budgets": {}}
        toy["stages"] = [{"train": {"max_steps": 1}}, {"search": {"sampler": {"use": "turn", option: 1}, "trials": 2}}]
        toy["stages"] += [{"extract": {}}, {"evaluate": {"costs": ["params"]}}]
        (home / "r.yaml").write_text(yaml.safe_dump(toy))
    return [tmp_path / "a" / "r.yaml", tmp_path / "b" / "r.yaml"]


TURN = """
from nasframe import hookimpl
from nasframe_basics.samplers import RandomSampler


class Turn(RandomSampler):
    def __init__(self, domain, seed: int = 0, OPTION: int = 0):
        super().__init__(domain, seed)


@hookimpl
def register_samplers(register):
    register("turn", Turn)


@hookimpl
def run_started(directory, recipe):
    (directory / "OPTION").touch()
"""


@pytest.mark.slow
def test_recipes_of_one_process_have_each_their_own_files(tmp_path):
    first, second = twins(tmp_path)
    for path in (first, second, first):
        assert check_recipe(path)[1] == []
    for path, seen, unseen in ((first, "left", "right"), (second, "right", "left")):
        directory = nf.run(nf.load_recipe(path), out=tmp_path / f"run-{seen}", report=False).directory
        assert (directory / seen).exists()
        assert not (directory / unseen).exists()  # nor do they observe others' runs
    _, problems = check_recipe(first, ["plugins=[" + str(HERE / "toy_plugin.py") + "]"])
    assert "'plugins:' does not name that file here" in str(problems[0])


def test_a_recipe_with_both_files_is_told_of_both(tmp_path):
    first, second = twins(tmp_path)
    both = [str(HERE / "toy_plugin.py"), str(first.parent / "turn.py"), str(second.parent / "turn.py")]
    _, problems = check_recipe(first, [f"plugins={both}"])
    assert str(both[1]) in str(problems[0])
    assert str(both[2]) in str(problems[0])


def test_outside_of_recipes_a_name_of_two_files_is_no_ones(tmp_path):
    first, second = (nf.resolve(nf.load_recipe(path)) for path in twins(tmp_path))
    with pytest.raises(UsageError, match="registered by both"):
        nf.make("sampler", "turn", domain=None)
    for plan, option in ((first, "left"), (second, "right")):
        with plan.file_plugins():
            assert nf.make("sampler", {"use": "turn", option: 1}, domain=None)


def test_threads_have_each_their_own_files(tmp_path):
    plans = [nf.resolve(nf.load_recipe(path)) for path in twins(tmp_path)]
    meet = threading.Barrier(2)

    def make(plan, option):
        with plan.file_plugins():
            meet.wait(10)
            made = nf.make("sampler", {"use": "turn", option: 1}, domain=None)
            meet.wait(10)
            return type(made).__module__

    with ThreadPoolExecutor(2) as pool:
        modules = list(pool.map(make, plans, ["left", "right"]))
    assert modules[0] != modules[1]


def test_arms_of_a_study_have_each_their_own_files_and_share_no_stage_that_uses_them(tmp_path):
    first, second = twins(tmp_path)
    arms = {"a": {"base": str(first)}, "b": {"base": str(second)}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"study": "s", "arms": arms, "seeds": [0]}))
    study = load_study(tmp_path / "s.yaml")
    left, right = (chains(plan) for plan in study.plans.values())
    assert left["search"] != right["search"]


def test_a_changed_file_is_loaded_again(recipe):
    file = recipe.parent / "climb.py"
    registry.add_file(file)
    first = registry.find("sampler", "climb").target
    registry.add_file(file)
    assert registry.find("sampler", "climb").target is first
    file.write_text(CLIMB.replace('"climb", Stops', '"climber", Stops'))
    registry.add_file(file)
    assert registry.find("sampler", "climber").target is not first
    assert "climb" not in registry.factories("sampler")


def test_a_change_of_the_same_size_within_the_same_second_is_seen(recipe):
    file = recipe.parent / "climb.py"
    registry.add_file(file)
    stat = file.stat()
    file.write_text(CLIMB.replace('"climb", Stops', '"clamb", Stops'))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    registry.plugins.cache_clear()
    registry.add_file(file)
    assert "clamb" in registry.factories("sampler")


@pytest.mark.slow
def test_a_file_can_be_checked_from_the_command_line(recipe, capsys, monkeypatch):
    monkeypatch.setattr("nasframe.testing.samplers.SamplerContract.trials", 300)
    assert main(["plugins", "check", str(recipe.parent / "climb.py")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sampler/climb  climb.py (")
    assert out.count("  ok  ") == 15
    with pytest.raises(UsageError, match="cannot be loaded"):
        registry.add_file(recipe.parent / "gone.py")


def test_a_file_that_imports_the_file_beside_it_is_told_what_to_do(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n", encoding="utf-8")
    path = tmp_path / "imports_beside.py"
    path.write_text("from beside import WIDTH\n", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"it imports beside\.py, the file beside it, .* Expected one file, or an installed"
    ):
        registry.add_file(path)


def test_a_file_that_registers_itself_by_name_is_told_what_to_do(tmp_path):
    path = tmp_path / "names_itself.py"
    path.write_text(
        "from nasframe import hookimpl\n\n\nclass Mine:\n    pass\n\n\n@hookimpl\ndef register_samplers(register):\n"
        "    register('mine', 'names_itself:Mine')\n",
        encoding="utf-8",
    )
    with registry.file_plugins([path]):
        entry = registry.find("sampler", "mine")
        with pytest.raises(UsageError, match=r"registers the object itself: register\('mine', Mine\)"):
            entry.load()
