"""Find out what the data are: a table, a folder of tables, GLUE's files, or a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nasframe import registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.options import options_of
from nasframe_compress.request import Request
from nasframe_compress.table import PEEK, READERS, Ambiguous, Columns, choose_columns, peek

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("auto", "classification", "regression", "multi_label")
DEV_NAMES = ("dev", "validation", "valid", "val", "test")
"""What the file, or the split, to report on may be called, the best first."""
SELECT_ROWS = 2000
"""Rows of a large table that choices are made on."""
DEV_ROWS = 5000
"""Rows of a large table that are set aside to report on."""
FEWEST_ROWS = 20
"""Examples of a table below which nothing can be learned, and the tenth for choices has one or none."""
LARGE = 0.8
"""Share of the largest class from which on accuracy says little."""

Ask = Callable[[Ambiguous], Sequence[str]]
"""Asks somebody which of some columns are meant."""


@dataclass(frozen=True)
class Data:
    """What the data are, as a recipe's ``task`` says it.

    Args:
        task: the task's name and options; files are absolute.
        name: a short name for them, as for a directory.
        said: what was chosen without being asked for, a sentence each.
    """

    task: dict[str, Any]
    name: str
    said: tuple[str, ...] = ()


def find_data(request: Request, ask: Ask | None = None) -> Data:
    """Find out what the data of a request are.

    Args:
        request: the request.
        ask: asks which columns are meant if that is not obvious; ``None`` refuses instead.

    Raises:
        UsageError: the data do not exist or have no known form, or an option does not fit them.
        Ambiguous: a column is not obvious, and nobody can be asked.
    """
    known = [*KINDS, *_glue_names()]
    if request.task not in known:
        raise UsageError(
            f"--task {request.task!r}: unknown. Expected one of {listing(known)}.{suggestion(request.task, known)}"
        )
    _refuse_swapped(request)
    path = Path(request.data).expanduser()
    if path.is_file():
        return _of_table(request, path, ask)
    if path.is_dir():
        return _of_folder(request, path, ask)
    if _looks_like_path(request.data):
        raise UsageError(f"{request.data}: no such file or folder.{_similar_file(path)}")
    return _of_hub(request, request.data, ask)


def _refuse_swapped(request: Request) -> None:
    """Refuse a table in the place of the model, and a model in the place of the data."""
    order = "Expected the model first, then the data"
    model = Path(request.model).expanduser()
    if model.is_file():
        raise UsageError(f"{request.model}: a file, not a model. {order}; a model is a directory or an id of the hub.")
    data = Path(request.data).expanduser()
    if any((data / name).is_file() for name in ("config.json", "model.safetensors", "pytorch_model.bin")):
        raise UsageError(f"{request.data}: a model, not data. {order}: a table, a folder of tables or a data set.")


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or Path(text).suffix in READERS or text.count("/") > 1


def _similar_file(path: Path) -> str:
    """Suggest a file beside the one that does not exist."""
    if path.exists() or not path.parent.is_dir():
        return ""
    return suggestion(path.name, [entry.name for entry in path.parent.iterdir()])


# ---- tables


def _of_table(request: Request, path: Path, ask: Ask | None) -> Data:
    """Return the task of one table, whose development set is another file or a part of it."""
    if request.task not in KINDS:
        raise UsageError(f"--task {request.task}: is for a folder of GLUE's files. Expected no file: {path}.")
    frame = peek(path)
    columns = _columns(frame, str(path), request, ask)
    if len(frame) < FEWEST_ROWS:
        raise UsageError(
            f"{path}: {len(frame)} examples. Expected at least {FEWEST_ROWS}, to train, choose and report."
        )
    files: dict[str, Any] = {"train": str(path.absolute())}
    said = list(columns.said)
    if len(frame) == PEEK:  # and there are probably more
        files |= _large(said, sets_dev_aside=request.dev is None)
    if request.dev is not None:
        dev = Path(request.dev).expanduser()
        if not dev.is_file():
            raise UsageError(f"--dev {request.dev}: no such file.{_similar_file(dev)}")
        if dev.samefile(path):
            raise UsageError(
                f"--dev {request.dev}: is the file of the data itself, so every example to report on would be trained "
                "on. Expected another file, or no --dev: then a fifth of the data is set aside."
            )
        files["dev"] = str(dev.absolute())
    return Data(_text_task(request, files, columns), path.stem, tuple(said))


def _of_folder(request: Request, path: Path, ask: Ask | None) -> Data:
    """Return the task of a folder: GLUE's files, tables called train and dev, or a hub data set's layout."""
    glue = _glue_task(request, path)
    if glue is not None:
        return glue
    train = _table_called(path, ("train",))
    if train is None:
        return _of_hub(request, str(path.absolute()), ask, name=path.name)
    dev = _table_called(path, DEV_NAMES)
    said: tuple[str, ...] = ()
    if dev is not None and request.dev is None:
        request = replace(request, dev=str(dev))
        said = (f"{train.name} is for training and {dev.name} to report on",)
    data = _of_table(request, train, ask)
    return replace(data, name=path.name, said=said + data.said)


def _table_called(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the table in a folder that has the first of some names that one has."""
    for name in names:
        for suffix in READERS:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def _glue_task(request: Request, path: Path) -> Data | None:
    """Return GLUE's task in a folder; ``None`` if the folder does not hold one."""
    name = request.task
    if name == "auto" and (path / "train.tsv").is_file():
        name = path.name.casefold().replace("-", "")  # its folders are called like its tasks: SST-2, CoLA
    if name not in _glue_names():
        return None
    for option, value in (
        ("--text", request.text),
        ("--label", request.label),
        ("--separator", request.separator),
        ("--dev", request.dev),
    ):
        if value:
            raise UsageError(f"{option}: GLUE's task {name!r} knows its files and columns. Expected none.")
    task: dict[str, Any] = {"use": "glue", "name": name, "path": str(path.absolute())}
    if request.max_length is not None:
        task["max_length"] = request.max_length
    if request.positive is not None or request.metric is not None:
        raise UsageError(f"--positive, --metric: GLUE's task {name!r} has its own metric. Expected neither.")
    return Data(task, name, (f"these are the files of GLUE's task {name}",))


def _glue_names() -> Sequence[str]:
    """Return the names of GLUE's tasks."""
    factory = registry.find("task", "glue").load()
    return get_args(options_of(factory)["name"].annotation)


# ---- the Hugging Face hub


def _of_hub(request: Request, source: str, ask: Ask | None, name: str | None = None) -> Data:
    """Return the task of a data set of the hub, or of a local directory that has the layout of one."""
    if request.task not in KINDS:
        raise UsageError(f"--task {request.task}: is for a folder of GLUE's files. Expected no data set: {source}.")
    try:
        table, splits = _first_rows(source)
    except ImportError:
        raise UsageError(f"{source}: hub data sets need datasets. Expected: pip install 'nasframe[hub]'.") from None
    except Exception as error:  # datasets has no base class for its errors and those of its requirements
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{source}: neither a file nor a folder of tables, and no data set of the Hugging Face hub: "
            f"{first_line}.{_similar_file(Path(source))}"
        ) from None
    frame = _with_class_names(table)
    columns = _columns(frame, source, request, ask)
    dev = request.dev or next((split for split in DEV_NAMES if split in splits), None)
    said = list(columns.said)
    files: dict[str, Any] = {"hub": source, "train": "train"}
    if len(frame) == PEEK:
        files |= _large(said, sets_dev_aside=dev is None)
    task = _text_task(request, files, columns)
    if dev is not None:
        task["dev"] = dev
        if request.dev is None:
            said.append(f"split {dev!r} is to report on")
    return Data(task, name or source.rpartition("/")[2], tuple(said))


def _first_rows(source: str) -> tuple[Any, Sequence[str]]:
    """Return the first rows of the split ``train``, and the names of all splits."""
    import datasets

    folder = Path(source)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():  # of save_to_disk
        saved = datasets.load_from_disk(source)
        splits = list(saved) if isinstance(saved, dict) else ["train"]
        whole = saved["train"] if isinstance(saved, dict) else saved
        return whole.select(range(min(PEEK, len(whole)))), splits
    return datasets.load_dataset(source, split=f"train[:{PEEK}]"), datasets.get_dataset_split_names(source)


def _with_class_names(table: Any) -> pd.DataFrame:
    """Return a data set's rows with the names of classes in place of their numbers, as the task reads them."""
    import datasets

    frame: pd.DataFrame = table.to_pandas()
    for column, kind in table.features.items():
        if isinstance(kind, datasets.ClassLabel):
            names = kind.names
            frame[column] = [names[index] if index >= 0 else None for index in frame[column]]
    return frame


# ---- the task


def _columns(frame: pd.DataFrame, place: str, request: Request, ask: Ask | None) -> Columns:
    """Choose the columns; ask for those that are not obvious, one after the other."""
    text = request.text
    label = _label_columns(frame, request.label)
    while True:
        try:
            return choose_columns(frame, place, text, label, request.task, request.separator)
        except Ambiguous as error:
            if ask is None:
                raise
            chosen = tuple(ask(error))
            if error.option == "--text":
                text = chosen
            else:
                label = chosen


def _label_columns(frame: pd.DataFrame, label: str | None) -> tuple[str, ...]:
    """Return the columns that ``--label`` names: one, or several with commas between them."""
    if label is None:
        return ()
    if label in frame.columns:  # whose own name may have a comma
        return (label,)
    return tuple(name.strip() for name in label.split(",") if name.strip()) or (label,)


def _large(said: list[str], sets_dev_aside: bool) -> dict[str, Any]:
    """Return options that keep evaluations short if there are many rows; what they do is added to ``said``.

    Scores of a few thousand examples are exact enough to choose by, and a search measures many networks.
    """
    said.append(f"there are {PEEK:,} rows or more, so {SELECT_ROWS:,} are for choices")
    options: dict[str, Any] = {"select": SELECT_ROWS}
    if sets_dev_aside:
        said.append(f"{DEV_ROWS:,} rows are set aside to report on")
        options["dev_share"] = DEV_ROWS
    return options


def _text_task(request: Request, files: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Return the use of ``text_classification`` for some columns."""
    text: str | list[str] = list(columns.text) if len(columns.text) > 1 else columns.text[0]
    label: str | list[str] = list(columns.label) if len(columns.label) > 1 else columns.label[0]
    task: dict[str, Any] = {"use": "text_classification", **files, "text": text, "label": label}
    if columns.kind == "regression":
        task["regression"] = True
    if columns.kind == "multi_label" and len(columns.label) == 1:
        task["multi_label"] = True
        if request.separator is not None:
            task["separator"] = request.separator
    for option in ("metric", "positive", "max_length"):
        value = getattr(request, option)
        if value is not None:
            task[option] = value
    return task
