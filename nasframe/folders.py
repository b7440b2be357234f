"""Where a run keeps its models and their predictions: a folder for each, with a name that every program can load.

Names of models hold values, as ``best@50%``. transformers imports the code in a model's folder as a Python module that
is called like the folder, and warns if that is no identifier, so folders are called ``best-50``.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from pathlib import Path

from nasframe.errors import UsageError

MODELS = "models"
"""The folder in a run directory that holds all models."""
UNSAFE = re.compile(r"[^\w.-]+")
"""What a folder's name does not have; transformers itself replaces full stops and hyphens."""


def folder_name(name: str) -> str:
    """Return the name of a model's folder.

    Args:
        name: the model's name.

    Raises:
        UsageError: the name, which a plugin may have chosen, leads elsewhere or names nothing.

    >>> folder_name("best@50%"), folder_name("best@latency=12 ms"), folder_name("teacher")
    ('best-50', 'best-latency-12-ms', 'teacher')
    >>> folder_name("best@encoder_params=50%,latency<=12ms"), folder_name("class")
    ('best-encoder_params-50-latency-12ms', 'class-model')
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(f"{name!r} cannot name a model's folder. Expected a name without path.")
    folder = UNSAFE.sub("-", name).strip("-.")
    if not folder:
        raise UsageError(f"{name!r} cannot name a model's folder. Expected a letter or a digit in it.")
    if keyword.iskeyword(folder):  # no module can have this name
        folder += "-model"
    return folder


def model_folder(run: Path, name: str) -> Path:
    """Return the folder of a run's model; runs of earlier versions called it like the model.

    Args:
        run: the run directory.
        name: the model's name.

    Raises:
        UsageError: the name cannot name a folder.

    >>> model_folder(Path("run"), "best@50%").as_posix()
    'run/models/best-50'
    """
    folder = run / MODELS / folder_name(name)
    former = run / MODELS / name
    return former if former.is_dir() else folder


def predictions_file(split: str) -> str:
    """Name the file of a model's predictions on a split, in the model's folder."""
    # "dev" is what reports read, and comparisons by default, so its file has the plain name.
    return "predictions.csv" if split == "dev" else f"predictions-{split}.csv"


def shared_folder(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two of some models whose folders would be one, ``None`` if there are none.

    Names that can name no folder at all do not count.

    >>> shared_folder(["teacher", "best@50%", "best-50"])
    ('best@50%', 'best-50')
    """
    owners: dict[str, str] = {}
    for name in names:
        try:
            folder = folder_name(name)
        except UsageError:
            continue
        owner = owners.setdefault(folder, name)
        if owner != name:
            return owner, name
    return None
