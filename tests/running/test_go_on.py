"""A run that failed or was stopped says how to go on, and going on needs nothing but its directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nasframe import registry
from nasframe.cli import main
from nasframe.errors import RunError
from nasframe.report.read import finished
from nasframe.running.runner import StageRunner

TESTS = Path(__file__).parents[1]
STAGES = "stages=[{train: {save_as: teacher, max_steps: 2}}, {evaluate: {costs: [params]}}]"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a recipe and its plugin, in which commands are given by relative paths."""
    folder = tmp_path / "my project"
    folder.mkdir()
    shutil.copy(TESTS / "toy_plugin.py", folder)
    text = (TESTS / "data" / "toy.yaml").read_text().replace("../toy_plugin.py", "toy_plugin.py")
    (folder / "toy.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield folder
    registry.plugins.cache_clear()  # the command line leaves the recipe's plugin registered


@pytest.mark.parametrize("error", [RunError("the plug was pulled"), KeyboardInterrupt()])
def test_it_goes_on_from_any_folder(project, tmp_path, monkeypatch, capsys, error):
    def stop(runner, work):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(StageRunner, "_keep_models", stop)
        arguments = ["run", "my project/toy.yaml", STAGES, "--out", "my run", "--no-progress"]
        assert main(arguments) == (1 if isinstance(error, RunError) else 130)
    assert "nasframe run --resume 'my run'" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["run", "--resume", str(tmp_path / "my run"), "--no-progress"]) == 0
    assert finished(tmp_path / "my run")
