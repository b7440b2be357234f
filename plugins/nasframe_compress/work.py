"""Run what was written, from the first time to the end of an interrupted one; then export and recommend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError, in_shell
from nasframe.folders import folder_name
from nasframe.recipe.loading import load_recipe
from nasframe.report.read import finished
from nasframe.store import write_text
from nasframe_compress.prepare import DEFAULT, FORMAT, RECIPE, RECORD, STUDY, Settings, resume_command
from nasframe_compress.recommend import BudgetResult, Place, recommend
from nasframe_compress.request import Budget, Request
from nasframe_deploy.ship import export_models

RUN = "run"
RUNS = "study"
MODELS = "models"
RESULT = "recommendation.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What a compression's folder says about it.

    Args:
        folder: the folder.
        request: what was asked for.
        is_study: whether several runs are compared.
        targets: method → its budgets, and the names of their networks.
        exporters: method → what writes its networks.
        settings: how it is run.
    """

    folder: Path
    request: Request
    is_study: bool
    targets: Mapping[str, Sequence[tuple[Budget, str]]]
    exporters: Mapping[str, str]
    settings: Settings = DEFAULT


def read_record(folder: Path) -> Record:
    """Read a compression's folder.

    Raises:
        UsageError: no compression was begun there, or another version of nasframe began it.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UsageError(f"{folder}: no {RECORD} here. Expected the --out folder of a compression.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: damaged ({error}). Expected it as the compression wrote it.") from None
    if content.get("format") != FORMAT:
        raise UsageError(f"{path}: format {content.get('format')!r}. Expected {FORMAT}, of this version of nasframe.")
    targets = {}
    for method, rows in content["targets"].items():
        targets[method] = [(row["budget"], row["model"]) for row in rows]
    return Record(
        folder=folder,
        request=Request.from_plain(content["request"]),
        is_study=content["is_study"],
        targets=targets,
        exporters=content["exporters"],
        settings=Settings(**content.get("settings", {})),
    )


def go_on(
    record: Record, *, cache: Path | None, jobs: int | None, progress: bool | None, say: Say
) -> list[BudgetResult]:
    """Run what is not yet done, write the recommended networks and return what was compared.

    Args:
        record: of the folder.
        cache: the folder of stage results; ``None``: a study's default, and none for a single run.
        jobs: processes of a study.
        progress: show bars; ``None``: on a terminal only.
        say: receives lines about what happens.
    """
    if record.is_study:
        places = _study(record, cache, jobs, say)
    else:
        places = [_run(record, cache, progress)]
    results = recommend(places, record.targets)
    _export(record, results, say)
    content = [result.plain() for result in results]
    write_text(record.folder / RESULT, json.dumps(content, indent=1))
    return results


def _run(record: Record, cache: Path | None, progress: bool | None) -> Place:
    """Run the only recipe, or go on with its run."""
    from nasframe.running import runner

    directory = record.folder / RUN
    (method,) = record.targets
    place = Place(method, record.request.seeds[0], directory)
    if (directory / "run.db").is_file():
        if not finished(directory):
            runner.resume(directory, progress=progress)
        return place
    runner.run(load_recipe(record.folder / RECIPE), out=directory, cache=cache, progress=progress, shows_data=False)
    return place


def _study(record: Record, cache: Path | None, jobs: int | None, say: Say) -> list[Place]:
    """Run the study, or go on with it; return the runs that are finished."""
    from nasframe_studies import study

    directory = record.folder / RUNS
    if not (directory / study.SETTINGS).is_file():
        study.begin(study.load_study(str(record.folder / STUDY)), directory, cache, jobs or 1)

    def say_ours(line: str) -> None:
        # A study names the command that goes on with it, but it is not all that is to be done.
        say(line.replace(f"nasframe ablate --resume {in_shell(directory)}", resume_command(record.folder)))

    study.go_on(directory, jobs, say_ours)
    places = []
    for run in study.settings(directory).runs:
        if finished(directory / run.run):
            places.append(Place(run.arm, run.seed, directory / run.run))
    return places


def _export(record: Record, results: Sequence[BudgetResult], say: Say) -> None:
    """Write each recommended network to ``models/NAME``, unless it is there already from an earlier time."""
    former = _shipped_before(record)
    for result in results:
        ship = result.ship
        if ship is None:
            continue
        best = ship.best
        is_written = model_folder(record.folder, best.model).is_dir()
        if is_written and result.shipped in former:
            continue
        export_models(
            best.place.directory,
            [best.model],
            out=record.folder / MODELS,
            mode=record.exporters[ship.method],
            replace=is_written,
            say=say,
        )


def advise(record: Record, error: BaseException) -> None:
    """Let an error say how to go on with the compression, in place of how to go on with its run.

    Args:
        record: of the folder.
        error: what ended it; its notes are changed.
    """
    command = resume_command(record.folder)
    of_run = f"nasframe run --resume {in_shell(record.folder / RUN)}"
    notes = [note.replace(of_run, command) for note in getattr(error, "__notes__", [])]
    if getattr(error, "resumable", True) and not any(command in note for note in notes):
        notes.append(f"Go on with: {command}")
    error.__notes__ = notes


def _shipped_before(record: Record) -> list[Any]:
    """Return what was recommended when the command ended the last time: further runs may have changed it."""
    path = record.folder / RESULT
    if not path.is_file():
        return []
    return [result["ship"] for result in json.loads(path.read_text(encoding="utf-8"))]


def model_folder(folder: Path, model: str) -> Path:
    """Return the folder of an exported network."""
    return folder / MODELS / folder_name(model)
