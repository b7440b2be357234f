"""Two processes under a launcher train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parallel import WAYS, main
from safetensors.torch import load_file

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
        "--dynamo_backend=no", "--main_process_port=0",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    main(out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_equal_one(launcher: str, alone: Path, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("parallel.py"))
    # without MPI, accelerate starts several processes only where it is told of GPUs; none has to be there
    command = [sys.executable, "-m", *LAUNCHERS[launcher], script, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"ACCELERATE_USE_CPU": "true"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for way in WAYS:
        expected = load_file(alone / f"{way} 0.safetensors")
        first, second = (load_file(tmp_path / f"{way} {rank}.safetensors") for rank in (0, 1))
        assert second.pop("log").numel() == 0  # one report
        assert first.keys() == expected.keys()
        assert any(name.startswith("grad ") for name in expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
        assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
