"""Commands and files of plugins: why a command is not there, and which command runs a file that is no recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.types import FileKind

STUDY = "studies/samplers"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


# ---- commands


def nasframe(*arguments, **environment):
    """Run the command line in a process of its own, since plugins add their commands when it starts."""
    script = "import sys; from nasframe.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(("command", "plugin"), [("ablate", "studies"), ("bench", "bench"), ("deploy", "deploy")])
def test_a_command_of_a_plugin_that_is_left_out_says_so(command, plugin):
    code, err = nasframe(command, "x", NASFRAME_PLUGINS="basics")
    assert code == 2
    assert f"no command {command!r}: the plugin {plugin!r} brings it" in err
    assert "'NASFRAME_PLUGINS=basics' leaves that plugin out" in err


def test_a_command_that_no_plugin_has_is_only_unknown():
    code, err = nasframe("rnu", NASFRAME_PLUGINS="basics")
    assert code == 2
    assert "No such command 'rnu'" in err
    assert "NASFRAME_PLUGINS" not in err


# ---- files


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["doctor"]])
def test_commands_for_recipes_name_the_one_that_runs_a_study(capsys, command):
    code, out, err = call(capsys, *command, STUDY)
    assert (code, out) == (2, "")
    assert err == f"nasframe: {STUDY} is a study, not a recipe. Run it with: nasframe ablate {STUDY}\n"


def test_a_study_in_a_file_is_known_too(capsys):
    Path("mine.yaml").write_text("study: mine\nbase: quickstart\narms: {a: {}, b: {seed: 1}}\n")
    assert "Run it with: nasframe ablate mine.yaml" in call(capsys, "run", "mine.yaml")[2]


def test_the_command_for_studies_names_the_one_that_runs_a_recipe(capsys):
    Path("mine.yaml").write_text("extends: quickstart\ndescription: mine\n")
    for recipe in ("quickstart", "mine.yaml"):
        code, out, err = call(capsys, "ablate", recipe, "+arms.a={}")
        assert (code, out) == (2, "")
        assert err.endswith(f"  a recipe, not a study. Run it with: nasframe run {recipe}\n")
        assert len(err.splitlines()) == 1


def test_a_study_without_arms_is_not_taken_for_a_recipe(capsys):
    Path("mine.yaml").write_text("base: quickstart\nseed: [0, 1]\n")
    code, _, err = call(capsys, "ablate", "mine.yaml")
    assert code == 2
    assert "seed  unknown key." in err
    assert "not a study" not in err


def test_the_list_of_recipes_says_which_command_runs_what(capsys):
    rows = {row["name"]: row["command"] for row in json.loads(call(capsys, "recipes", "--json")[1])}
    assert (rows["quickstart"], rows[STUDY]) == ("run", "ablate")
    assert f"(nasframe ablate {STUDY})" in " ".join(call(capsys, "recipes")[1].split())


def test_a_copied_study_says_which_command_runs_it(capsys):
    code, out, err = call(capsys, "recipes", "copy", STUDY, "mine")
    assert code == 0
    copied = next(line for line in out.splitlines() if line.endswith("samplers.yaml"))
    assert err == f"Run it with: nasframe ablate {copied}\n"
    assert call(capsys, "recipes", "copy", "quickstart")[2] == ""


def test_a_plugin_says_what_its_own_files_are(capsys):
    class Poet:
        @nf.hookimpl
        def file_kind(self, source):
            return FileKind("a poem", "recite") if source.endswith(".poem") else None

    registry.plugin_manager().register(Poet(), name="poet")
    assert registry.file_kind("quickstart") is None
    assert "a.poem is a poem, not a recipe. Run it with: nasframe recite a.poem" in call(capsys, "run", "a.poem")[2]


@pytest.mark.parametrize("command", [["check"], ["run"], ["run", "--dry-run"], ["doctor"]])
def test_a_file_of_a_plugin_that_is_left_out_says_so(capsys, monkeypatch, command):
    monkeypatch.setenv("NASFRAME_PLUGINS", "basics,optuna")
    code, _, err = call(capsys, *command, STUDY)
    assert code == 2
    assert f"{STUDY} is a study: the plugin 'studies' reads it, but 'NASFRAME_PLUGINS=basics,optuna' leaves" in err
    assert "unknown key" not in err


def test_a_wrong_recipe_is_only_wrong_when_plugins_are_left_out(capsys, monkeypatch):
    monkeypatch.setenv("NASFRAME_PLUGINS", "basics")
    Path("r.yaml").write_text("nasframe: 1\ntsk: glue\n")
    code, _, err = call(capsys, "check", "r.yaml")
    assert code == 2
    assert "unknown key" in err
    assert "NASFRAME_PLUGINS" not in err
