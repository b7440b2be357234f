"""Two processes under torchrun make one run: one directory, one report, the single process's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
