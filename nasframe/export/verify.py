"""A fresh process that loads exported directories as a stranger would; see ``nasframe.export.reload``, which it runs.

It starts to import as soon as it is made, beside whatever its maker still has to do, and answers once.
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
    """One fresh process, offline, in which nasframe cannot be found; use it in a ``with`` statement."""

    def __enter__(self) -> Verifier:
        self._scratch = tempfile.TemporaryDirectory(prefix="nasframe-verify-")
        self.folder = Path(self._scratch.name)
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        modules = {"HF_MODULES_CACHE": str(self.folder / "modules")}
        self._errors = (self.folder / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(reload.__file__).resolve())],
            env={**os.environ, **offline, **modules}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True,
        )  # fmt: skip
        self._ready = False
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()
        self._scratch.cleanup()

    def wait(self) -> None:
        """Wait until the process has imported what it needs, and so is quiet."""
        assert self.process.stdout is not None
        self._ready = self._ready or bool(self.process.stdout.readline())

    def logits(
        self, directories: Mapping[str, Path], inputs: Mapping[str, Mapping[str, Any]], jobs: Sequence[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        """Load directories and return what their models compute; the process then ends.

        Args:
            directories: name → directory.
            inputs: name → the model's keyword inputs.
            jobs: for each, how it loads: ``auto`` (the auto class), ``remote`` (with code of its own), ``tokenizer``.

        Raises:
            VerificationError: some directory does not load.
        """
        from safetensors.torch import load_file, save_file

        written = []
        for index, ((name, directory), job) in enumerate(zip(directories.items(), jobs, strict=True)):
            given, found = self.folder / f"{index}-inputs.safetensors", self.folder / f"{index}-logits.safetensors"
            save_file({key: value.cpu().contiguous() for key, value in inputs[name].items()}, str(given))
            written.append({**job, "directory": str(directory), "inputs": str(given), "logits": str(found)})
        (self.folder / "jobs.json").write_text(json.dumps(written), encoding="utf-8")
        self.process.communicate(f"{self.folder / 'jobs.json'}\n")
        if self.process.returncode != 0:
            self._errors.seek(0)
            last = "\n".join(self._errors.read().strip().splitlines()[-5:])
            raise VerificationError(
                f"{', '.join(directories)}: the export does not load in a fresh process. Expected it to.\n{last}"
            )
        return {name: load_file(job["logits"])["logits"] for name, job in zip(directories, written, strict=True)}
