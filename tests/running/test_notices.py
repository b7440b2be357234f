"""Notices: printed once, listed by a dry run, kept for the report, also by a stage that came from the cache."""

import json
from pathlib import Path

import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.notices import Notices
from nasframe.running import runner

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
TOY = Path(__file__).parents[1] / "toy_plugin.py"
PLUGIN = '''
from nasframe import hookimpl

class Chatty:
    """Says something when it is made, and when it is used."""

    reshapes = False

    def __init__(self, notify=None):
        self.notify = notify

    def __call__(self, work):
        self.notify("transform", "Nothing was changed.")
        return work

@hookimpl
def register_transforms(register):
    register("chatty", Chatty)
'''


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "chatty.py"
    file.write_text(PLUGIN)
    return [f"plugins=[{TOY}, {file}]", "~budgets", "stages=[{transform: {use: chatty}}]"]


def test_a_listener_hears_earlier_notices_too_and_each_once():
    notices, heard = Notices(), []
    notices("model", "one")
    notices.listen(heard.append)
    notices("model", "one")
    notices("task", "two")
    assert [str(notice) for notice in heard] == ["model: one", "task: two"]


def test_a_notice_is_printed_once_and_stands_in_the_report(tmp_path, overrides, capsys):
    run = nf.run(nf.load_recipe(RECIPE, overrides), out=tmp_path / "run")
    assert capsys.readouterr().err.count("transform: Nothing was changed.") == 1
    notice = {"place": "transform", "text": "Nothing was changed."}
    assert json.loads((run.directory / "report.json").read_text())["notices"] == [notice]
    for page in ("report.md", "report.html"):
        assert "Nothing was changed." in (run.directory / page).read_text()


def test_a_resumed_run_does_not_repeat_its_notices(tmp_path, overrides, capsys):
    run = nf.run(nf.load_recipe(RECIPE, overrides), out=tmp_path / "run")
    capsys.readouterr()
    runner.resume(run.directory)
    assert "Nothing was changed." not in capsys.readouterr().err


def test_a_stage_from_the_cache_brings_its_notices(tmp_path, overrides, capsys):
    recipe = nf.load_recipe(RECIPE, overrides)
    nf.run(recipe, out=tmp_path / "first", cache=tmp_path / "cache")
    capsys.readouterr()
    second = nf.run(recipe, out=tmp_path / "second", cache=tmp_path / "cache")
    assert capsys.readouterr().err.count("Nothing was changed.") == 1
    assert json.loads((second.directory / "report.json").read_text())["stages"][0]["cached"]


COUNTING = '''
from nasframe import hookimpl

class Counting:
    """Says something when it is made."""

    unit = "s"

    def __init__(self, notify=None):
        notify("counting", "Made.")

    def estimate(self, space, net, arch):
        return 1.0

@hookimpl
def register_estimators(register):
    register("counting", Counting)
'''


def test_a_dry_run_lists_notices(tmp_path, capsys):
    (tmp_path / "counting.py").write_text(COUNTING)
    overrides = [f"plugins=[{TOY}, {tmp_path}/counting.py]", "+estimators.counting={use: counting}"]
    overrides.append("stages.search.sampler={use: evolution, population: 4}")
    assert main(["run", str(RECIPE), *overrides, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notices"] == [{"place": "counting", "text": "Made."}]
    assert main(["run", str(RECIPE), *overrides, "--dry-run"]) == 0
    assert "counting: Made." in capsys.readouterr().out
