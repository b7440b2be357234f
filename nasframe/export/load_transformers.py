"""Loads a Hugging Face directory with transformers, in the fresh process that verifies exports; needs no nasframe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def load(directory: str, auto: str, remote: bool = False, base: bool = False) -> Callable[..., Any]:
    """Return the model in a directory as a function, in eval mode and float32.

    Args:
        directory: the model's.
        auto: the auto class that loads it.
        remote: whether it is loaded with its own code.
        base: whether ``AutoModel`` has to load it too, without its head.
    """
    import torch
    import transformers

    auto_class = getattr(transformers, auto)
    model, info = auto_class.from_pretrained(
        directory, trust_remote_code=remote, output_loading_info=True, dtype=torch.float32
    )
    # transformers fills what is missing with random numbers and only warns.
    disagreements = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if disagreements:
        raise SystemExit(f"{directory}: tensors and configuration disagree: {disagreements}")
    if base:
        _load_base(directory)
    forward: Callable[..., Any] = model.eval()
    return forward


def _load_base(directory: str) -> None:
    """Load the network without its head, as users do who want embeddings or another kind of head."""
    import transformers

    _, info = transformers.AutoModel.from_pretrained(directory, trust_remote_code=True, output_loading_info=True)
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]  # some heads use no pooler
    if missing or info["mismatched_keys"]:
        raise SystemExit(f"{directory}: the encoder alone lacks tensors: {missing}")
