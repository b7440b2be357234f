"""A training that diverges ends its run, with the step, and leaves nothing that looks like a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasframe.cli import main
from nasframe.store import RunStore

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
SPOIL = '''
from nasframe import hookimpl
from nasframe.interfaces import Modifier

class Spoil(Modifier):
    """Makes the weights infinite in the third step."""

    def on_update(self, step):
        if step.index == 2:
            step.job.net.classifier.weight.data.fill_(float("inf"))

@hookimpl
def register_modifiers(register):
    register("spoil", Spoil)
'''
HOW = "max_steps: 30, modifiers: [spoil]"
TEACHER = f"stages=[{{train: {{save_as: teacher, {HOW}}}}}]"


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "spoil.py"
    file.write_text(SPOIL)
    return ["~budgets", f"plugins=[{RECIPE.parents[1]}/toy_plugin.py, {file}]"]


def state_of(directory):
    store = RunStore(directory, shared=True)
    state = store.stage_state("teacher")
    store.close()
    return state


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_run_whose_training_diverges_fails(keep, changes, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", str(RECIPE), *changes, TEACHER, f"stages.teacher.keep={keep}", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "stage 'teacher': training diverged at step" in error
    assert "The last finite loss is" in error
    assert "Stage 'teacher' failed. A resume would end in the same way." in error
    assert state_of(out) == "failed"
    assert not (out / "models").exists()
    assert main(["run", "--resume", str(out), "--no-progress"]) == 1
    assert not (out / "models").exists()


@pytest.mark.slow
def test_a_model_that_diverges_is_named(changes, tmp_path, capsys):
    tune = f"{{train: {{name: tune, models: [small], {HOW}}}}}"
    stages = "stages=[{extract: {archs: {small: {layers: 1, heads: 1, ffn: 8}}}}, " + tune + "]"
    assert main(["run", str(RECIPE), *changes, stages, "--out", str(tmp_path / "run"), "--no-progress"]) == 1
    error = capsys.readouterr().err
    assert "stage 'tune': training diverged" in error
    assert "It happened to model 'small'." in error


@pytest.mark.slow
def test_all_processes_of_a_diverged_run_end(changes, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nasframe"]
    command = [*launch, "run", str(RECIPE), *changes, TEACHER, "--out", str(tmp_path / "run"), "--no-progress"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"ACCELERATE_USE_CPU": "true"}
    )
    assert done.returncode == 1
    assert "training diverged" in done.stderr
    assert state_of(tmp_path / "run") == "failed"
    assert not (tmp_path / "run" / "models").exists()
