"""States that a run goes on from: nested values with tensors, each in one safetensors file.

Nothing is pickled: tensors are written as such, and everything else as JSON in the file's header. A state is written
under a temporary name and then renamed, so that a kill leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe.errors import RunError
from nasframe.storage import removed_on_error, writing

FORMAT = "1"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state of tensors, arrays and plain values to one safetensors file.

    Args:
        path: the file; written under another name first, then renamed.
        state: dicts, lists and tuples of tensors, numpy arrays and JSON-plain values.

    Raises:
        TypeError: the state holds something else.
        RunError: the file cannot be written.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> save_state(path, {"step": 3, "moments": {0: torch.ones(2)}})
    >>> load_state(path)["moments"][0].tolist()
    [1.0, 1.0]
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    # The digest finds damage that safetensors cannot see: it checks sizes only.
    text = json.dumps(_encode(state, tensors))
    header = {"format": FORMAT, "state": text, "sha256": _digest(text, tensors)}
    temporary = path.with_name(path.name + ".tmp")
    with writing(path), removed_on_error(temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(temporary), metadata=header)
        os.replace(temporary, path)


def _digest(text: str, tensors: Mapping[str, Any]) -> str:
    """Digest a state as it is written: the text of its header, then every tensor by name."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Raises:
        RunError: the file is missing, damaged, not a state, or of another format version; the text names a remedy.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            version = header.get("format")
            if version != FORMAT:
                raise RunError(f"{path}: format {version!r}. Expected {FORMAT}: made by another version?")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = header["state"]
        written_digest = header.get("sha256")  # states of early versions have none
        if written_digest is not None and written_digest != _digest(text, tensors):
            raise RunError(_damaged(path, "its content is not what was written"))
        state: dict[str, Any] = _decode(json.loads(text), tensors)
        return state
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing. {_remedy(path)}") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(_damaged(path, str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return f"{path}: not a readable state ({reason}). {_remedy(path)}"


def _remedy(path: Path) -> str:
    """Say what can be done about a lost state: some can be made again."""
    if path.name.startswith("stage-"):
        return "Delete it and resume: the stage then starts again."
    if path.name.startswith("expected-"):
        return "Delete it and resume: it is then computed again."
    return (
        "Put a copy of it back, or run the recipe again with another --out; with a cache its stages are not run again."
    )


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    """Return a value as JSON; tensors and arrays are moved into ``tensors`` and replaced by their key there."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        key = str(len(tensors))
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        # A copy, because safetensors refuses tensors that share memory, as tied weights do.
        tensors[key] = torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
        return {"$": kind, "key": key}
    if isinstance(value, Mapping):  # as pairs, since keys of JSON objects can only be text
        pairs = [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]
        return {"$": "dict", "items": pairs}
    if isinstance(value, tuple):
        return {"$": "tuple", "items": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a state may hold tensors, arrays and plain values, not {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    """Return the value that :func:`_encode` wrote."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value["$"] == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in value["items"]}
    if value["$"] == "tuple":
        return tuple(_decode(item, tensors) for item in value["items"])
    tensor = tensors[value["key"]]
    return tensor if value["$"] == "tensor" else tensor.numpy()


class Checkpoint:
    """Keeps one stage's state across crashes: ``load`` returns the last one, ``save`` replaces it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return the last state, or ``None`` if there is none yet."""
        return load_state(self.path) if self.path.exists() else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        save_state(self.path, state)
