"""Two processes under torchrun make one run: one directory, one report, the single process's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nasframe import processes
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.store import RunStore

RECIPE = Path(__file__).parent / "data" / "toy.yaml"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Run the toy recipe on one process and on two."""
    found, environment = [], {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher in ([], torchrun):
        out = tmp_path_factory.mktemp("processes") / "run"
        command = [sys.executable, *launcher, "-m", "nasframe", "run", str(RECIPE), "--out", str(out), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout) == json.loads((out / "report.json").read_text())  # printed by one process alone
        found.append(out)
    return found


@pytest.mark.slow
def test_the_ledgers_agree(reports):
    rows = []
    for directory in reports:
        store = RunStore(directory, shared=True)
        frame = store.frame("ledger").drop(columns="run_seconds").set_index(["stage", "role"])
        rows.append(frame.drop(index=[key for key in frame.index if key[0] in ("search", "evaluate", "tuned")]))
        store.close()
    alone, both = rows
    assert alone.equals(both)


@pytest.mark.slow
def test_the_losses_agree(reports):
    curves = [json.loads((directory / "report.json").read_text())["curves"] for directory in reports]
    for stage in ("teacher", "supernet"):
        alone, both = (dict(map(tuple, curve[stage]["loss"])) for curve in curves)
        assert alone.keys() == both.keys()
        assert both == pytest.approx(alone, abs=0.05)  # each process draws dropout for its own part of the batch


# ---- the device


class Found:
    """A machine's accelerator, as torch tells it."""

    def __init__(self, kind):
        self.kind = kind

    def is_available(self):
        return self.kind is not None

    def current_accelerator(self):
        return torch.device(self.kind) if self.kind else None


@pytest.fixture
def machine(monkeypatch):
    """Return a function that gives this machine an accelerator; the environment is as it was afterwards."""
    monkeypatch.setenv(processes.DEVICE, "")
    return lambda kind: monkeypatch.setattr(torch, "accelerator", Found(kind))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (None, "cuda", "finds no cuda device here. Expected cpu."),
        ("mps", "cuda", "finds no cuda device here. Expected cpu or mps."),
        ("cuda", "mps", "finds no mps device here. Expected cpu or cuda."),
        ("cuda", "cude", "unknown 'cude'. Expected one of cpu, cuda, mps. Did you mean 'cuda'?"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, kind, name, words):
    machine(kind)
    with pytest.raises(UsageError) as caught:
        processes.choose_device(name)
    assert words in str(caught.value)
    assert os.environ[processes.DEVICE] == ""


@pytest.mark.parametrize(
    ("kind", "name", "cpu"),
    [("cuda", "cpu", True), ("cuda", "cuda", False), ("mps", "mps", False), ("cuda", None, False), (None, None, True)],
)
def test_the_chosen_device_is_passed_to_accelerate(machine, monkeypatch, kind, name, cpu):
    import accelerate

    asked = []
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu: asked.append(cpu))
    machine(kind)
    processes.choose_device(name)
    processes.processes()
    assert asked == [cpu]


def test_a_device_of_the_environment_is_checked_too(machine, monkeypatch):
    machine(None)
    monkeypatch.setenv(processes.DEVICE, "cuda")
    with pytest.raises(UsageError, match="finds no cuda device here"):
        processes.processes()


@pytest.mark.parametrize("command", [["run", str(RECIPE)], ["ablate", "nothing"], ["deploy", "nothing", "--out", "x"]])
def test_the_commands_refuse_a_device_before_any_work(machine, command, capsys):
    machine(None)
    assert main([*command, "--device", "cuda"]) == 2
    assert "finds no cuda device here. Expected cpu." in capsys.readouterr().err
