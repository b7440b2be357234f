"""A fresh process that loads exported directories as a user without nasframe would.

It runs :mod:`nasframe.export.reload`. It starts its imports immediately, in parallel with whatever its owner still has
to do, and does one batch of jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import VerificationError
from nasframe.export import reload
from nasframe.interfaces import Loading

if TYPE_CHECKING:
    import torch


LAST_LINES = 5
"""How many lines of the process's errors are shown: the last ones say what failed."""


@dataclass(frozen=True)
class Job:
    """A directory to load, and what its model computes.

    Args:
        directory: the directory.
        loading: how it is loaded.
        inputs: the model's keyword inputs, name → tensor.
        outputs: the names of the outputs to return, as ``nasframe.nn.outputs`` gives them.
        tokenizer: whether the directory has a tokenizer, which is loaded too.
    """

    directory: Path
    loading: Loading
    inputs: Mapping[str, Any]
    outputs: Sequence[str]
    tokenizer: bool


class Verifier:
    """A fresh process, offline, in which nasframe cannot be imported; use it in a ``with`` statement."""

    def __enter__(self) -> Verifier:
        self._scratch = tempfile.TemporaryDirectory(prefix="nasframe-verify-")
        self.folder = Path(self._scratch.name)
        environment = dict(os.environ)
        environment["HF_HUB_OFFLINE"] = "1"
        # transformers copies a directory's own code there before it is imported.
        environment["HF_MODULES_CACHE"] = str(self.folder / "modules")
        environment["PYTHONWARNINGS"] = "ignore"
        # A file and not a pipe, which would stop the process once it is full: nobody reads it before the end.
        self._errors = (self.folder / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            # -P keeps the script's folder off the search path: modules such as `files` would be found in it.
            [sys.executable, "-P", str(Path(reload.__file__).resolve())],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._ready = False
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()
        self._scratch.cleanup()

    def wait(self) -> None:
        """Wait until the process has done its imports and no longer uses the processor."""
        assert self.process.stdout is not None
        if not self._ready:
            self._ready = bool(self.process.stdout.readline())

    def outputs(self, jobs: Mapping[str, Job]) -> dict[str, dict[str, torch.Tensor]]:
        """Load directories and return their models' outputs, by the names of the jobs; the process then ends.

        Raises:
            VerificationError: a directory does not load.
        """
        from safetensors.torch import load_file

        written_jobs = []
        result_files = {}
        for index, (name, job) in enumerate(jobs.items()):
            result_files[name] = self.folder / f"{index}-outputs.safetensors"
            inputs_file = self.folder / f"{index}-inputs.safetensors"
            written_jobs.append(_written(job, inputs_file, result_files[name]))
        jobs_file = self.folder / "jobs.json"
        jobs_file.write_text(json.dumps(written_jobs), encoding="utf-8")
        self.process.communicate(f"{jobs_file}\n")
        if self.process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            names = ", ".join(jobs)
            failure = f"{names}: the export does not load in a fresh process. Expected it to."
            raise VerificationError("\n".join([failure, *lines[-LAST_LINES:]]))
        return {name: load_file(file) for name, file in result_files.items()}


def _written(job: Job, inputs_file: Path, result_file: Path) -> dict[str, Any]:
    """Write a job's inputs to a file, and return the job as :mod:`nasframe.export.reload` reads it."""
    from safetensors.torch import save_file

    tensors = {key: tensor.cpu().contiguous() for key, tensor in job.inputs.items()}
    save_file(tensors, str(inputs_file))
    return {
        "directory": str(job.directory),
        "code": str(job.loading.code),
        "arguments": dict(job.loading.arguments),
        "inputs": str(inputs_file),
        "outputs": list(job.outputs),
        "results": str(result_file),
        "tokenizer": job.tokenizer,
    }
