"""Run as a script in a fresh process: loads exported directories as a user without nasframe would, writes their logits.

``python -P reload.py`` prints ``ready`` and reads the name of a JSON file of jobs; a job is ``{"directory", "auto",
"remote", "inputs", "logits", "tokenizer"}``. Only transformers and its requirements may be imported: nasframe is made
impossible to find.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from typing import Any


class Blocker(importlib.abc.MetaPathFinder):
    """Makes imports of nasframe fail, so that a directory that needs it does not load."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise for nasframe and its plugins; leave every other module to the other finders."""
        package = fullname.partition(".")[0]
        if package.partition("_")[0] == "nasframe":  # plugins are called nasframe_basics and the like
            raise ImportError(f"{fullname}: an exported model must load without nasframe")


def run(jobs: list[dict[str, Any]]) -> None:
    """Load each job's directory with its auto class and write the logits of its inputs."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    for job in jobs:
        directory = job["directory"]
        auto_class = getattr(transformers, job["auto"])
        model, info = auto_class.from_pretrained(
            directory, trust_remote_code=job["remote"], output_loading_info=True, dtype=torch.float32
        )
        # transformers fills what is missing with random numbers and only warns.
        disagreements = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
        if disagreements:
            raise SystemExit(f"{directory}: tensors and configuration disagree: {disagreements}")
        if job["tokenizer"]:
            transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=job["remote"])
        if job["remote"]:
            _load_encoder(directory)
        inputs = load_file(job["inputs"])
        model.eval()
        with torch.no_grad():
            logits = model(**inputs).logits
        save_file({"logits": logits.contiguous()}, job["logits"])


def _load_encoder(directory: str) -> None:
    """Load the encoder alone, as users do who want embeddings or another kind of head."""
    import transformers

    _, info = transformers.AutoModel.from_pretrained(directory, trust_remote_code=True, output_loading_info=True)
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]  # some heads use no pooler
    if missing or info["mismatched_keys"]:
        raise SystemExit(f"{directory}: the encoder alone lacks tensors: {missing}")


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
