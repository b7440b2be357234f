"""Run as a script in a fresh process: loads exported directories as a stranger would and writes their logits.

``python -P reload.py`` says ``ready`` and reads the name of a JSON file of jobs; a job is ``{"directory", "auto",
"remote", "inputs", "logits", "tokenizer"}``. Only transformers and what it needs may be imported: nasframe is made
impossible to find.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from typing import Any


class Blocker(importlib.abc.MetaPathFinder):
    """Refuses to import nasframe, so that a directory that needs it fails to load."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise for nasframe and its plugins; leave every other module to the other finders."""
        if fullname.partition(".")[0].partition("_")[0] == "nasframe":
            raise ImportError(f"{fullname}: an exported model must load without nasframe")


def run(jobs: list[dict[str, Any]]) -> None:
    """Load each job's directory with its auto class and write the logits of its inputs."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    for job in jobs:
        auto = getattr(transformers, job["auto"])
        model, info = auto.from_pretrained(
            job["directory"], trust_remote_code=job["remote"], output_loading_info=True, dtype=torch.float32
        )
        wrong = {key: sorted(map(str, found)) for key, found in info.items() if found}
        if wrong:
            raise SystemExit(f"{job['directory']}: tensors and configuration disagree: {wrong}")
        if job["tokenizer"]:
            transformers.AutoTokenizer.from_pretrained(job["directory"], trust_remote_code=job["remote"])
        if job["remote"]:  # whoever wants embeddings, or a head of another kind, starts from the encoder alone
            _, info = transformers.AutoModel.from_pretrained(
                job["directory"], trust_remote_code=True, output_loading_info=True
            )
            missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # some heads use none
            if missing or info["mismatched_keys"]:
                raise SystemExit(f"{job['directory']}: the encoder alone lacks tensors: {missing}")
        with torch.no_grad():
            logits = model.eval()(**load_file(job["inputs"])).logits
        save_file({"logits": logits.contiguous()}, job["logits"])


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocker())
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401  (while others work)

    print("ready", flush=True)
    if listed := sys.stdin.readline().strip():
        with open(listed, encoding="utf-8") as file:
            run(json.load(file))
    assert not any(name.partition(".")[0] == "nasframe" for name in sys.modules)
