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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import VerificationError
from nasframe.export import reload

if TYPE_CHECKING:
    import torch


class Verifier:
    """A fresh process, offline, in which nasframe cannot be imported; use it in a ``with`` statement."""

    def __enter__(self) -> Verifier:
        self._scratch = tempfile.TemporaryDirectory(prefix="nasframe-verify-")
        self.folder = Path(self._scratch.name)
        environment = dict(os.environ)
        environment["HF_HUB_OFFLINE"] = "1"
        environment["HF_MODULES_CACHE"] = str(self.folder / "modules")
        environment["PYTHONWARNINGS"] = "ignore"
        self._errors = (self.folder / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
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

    def logits(
        self, directories: Mapping[str, Path], inputs: Mapping[str, Mapping[str, Any]], jobs: Sequence[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        """Load directories and return their models' logits; the process then ends.

        Args:
            directories: name → directory.
            inputs: name → the model's keyword inputs.
            jobs: how each is loaded, in the same order: ``auto`` (the auto class), ``remote`` (whether with its own
                code), ``tokenizer`` (whether it has one).

        Raises:
            VerificationError: a directory does not load.
        """
        from safetensors.torch import load_file, save_file

        full_jobs = []
        logits_files = {}
        for index, (name, job) in enumerate(zip(directories, jobs, strict=True)):
            inputs_file = self.folder / f"{index}-inputs.safetensors"
            logits_file = self.folder / f"{index}-logits.safetensors"
            tensors = {key: tensor.cpu().contiguous() for key, tensor in inputs[name].items()}
            save_file(tensors, str(inputs_file))
            paths = {"directory": str(directories[name]), "inputs": str(inputs_file), "logits": str(logits_file)}
            full_jobs.append({**job, **paths})
            logits_files[name] = logits_file
        jobs_file = self.folder / "jobs.json"
        jobs_file.write_text(json.dumps(full_jobs), encoding="utf-8")
        self.process.communicate(f"{jobs_file}\n")
        if self.process.returncode != 0:
            self._errors.seek(0)
            last_lines = self._errors.read().strip().splitlines()[-5:]
            raise VerificationError(
                f"{', '.join(directories)}: the export does not load in a fresh process. Expected it to.\n"
                + "\n".join(last_lines)
            )
        return {name: load_file(file)["logits"] for name, file in logits_files.items()}
