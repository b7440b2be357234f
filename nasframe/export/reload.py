"""Run as a script in a fresh process: loads exported directories as users without nasframe do, and writes outputs.

``python -P reload.py`` prints ``ready`` and reads the name of a JSON file of jobs; a job is ``{"directory", "code",
"arguments", "inputs", "outputs", "results", "tokenizer"}``. The file ``code`` defines ``load(directory, **arguments)``,
which returns a function from keyword inputs to outputs. nasframe is made impossible to find.
"""

from __future__ import annotations

import importlib.abc
import json
import runpy
import sys
from collections.abc import Mapping
from typing import Any


class Blocker(importlib.abc.MetaPathFinder):
    """Makes imports of nasframe fail, so that a directory that needs it does not load."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise for nasframe and its plugins; leave every other module to the other finders."""
        package = fullname.partition(".")[0]
        if package.partition("_")[0] == "nasframe":  # plugins are called nasframe_basics and the like
            raise ImportError(f"{fullname}: an exported model must load without nasframe")


def run(jobs: list[dict[str, Any]]) -> None:
    """Load each job's directory as it says, and write the outputs for its inputs."""
    import torch
    from safetensors.torch import load_file, save_file

    for job in jobs:
        load = runpy.run_path(job["code"])["load"]
        forward = load(job["directory"], **job["arguments"])
        if job["tokenizer"]:
            load_tokenizer(job["directory"])
        with torch.no_grad():
            outputs = forward(**load_file(job["inputs"]))
        results = {}
        for name in job["outputs"]:
            results[name] = torch.as_tensor(picked(outputs, name)).contiguous().clone()
        save_file(results, job["results"])


def load_tokenizer(directory: str) -> None:
    """Load the tokenizer in a directory, whose class may be named by code of the directory's own."""
    import transformers

    transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)


def picked(outputs: Any, name: str) -> Any:
    """Return the output that a dotted name stands for, as in ``hidden_states.0``; ``output`` may be the whole.

    >>> picked({"losses": (1, 2)}, "losses.1")
    2
    """
    value = outputs
    if name == "output" and not isinstance(outputs, Mapping) and not hasattr(outputs, name):
        return outputs
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit():
            value = value[int(part)]
        else:
            value = getattr(value, part)
    return value


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocker())
    # Imported before there are jobs, while the process that started this one does other work.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401

    print("ready", flush=True)
    jobs_file = sys.stdin.readline().strip()
    if jobs_file:
        with open(jobs_file, encoding="utf-8") as file:
            run(json.load(file))
    assert not any(name.partition(".")[0] == "nasframe" for name in sys.modules)
