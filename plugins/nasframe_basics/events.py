"""An observer that needs nothing: what happens in a run, as lines of JSON in its directory."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nasframe.plugin_errors import described
from nasframe.records import RunInfo, StoredModel, Trial

FILE = "events.jsonl"
"""The name of the file in the run directory."""


class Events:
    """Write what happens to ``events.jsonl`` in the run directory: an object of JSON a line, which programs can follow.

    Each line has ``event`` (the name of the hook), ``time`` (seconds since 1970) and the hook's other arguments. A
    number that is infinite or not a number is written as null. A run that goes on adds to the file.

    Args:
        metrics: also write what trainings log at their steps.
    """

    def __init__(self, metrics: bool = True) -> None:
        self.metrics = metrics

    def run_started(self, run: RunInfo, resumed: bool) -> None:
        """Write the run's name and stages."""
        path = run.directory / FILE
        # A process that was killed may have left half a line.
        is_cut = path.exists() and not path.read_bytes().endswith(b"\n")
        if is_cut:
            _append(path, "\n")
        self._write(run, "run_started", name=run.name, stages=list(run.stages), resumed=resumed)

    def stage_started(self, run: RunInfo, stage: str, verb: str, resumed: bool) -> None:
        """Write that a stage begins."""
        self._write(run, "stage_started", stage=stage, verb=verb, resumed=resumed)

    def metrics_logged(self, run: RunInfo, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        if self.metrics:
            self._write(run, "metrics_logged", stage=stage, step=step, values=dict(values))

    def trial_finished(self, run: RunInfo, stage: str, number: int, trial: Trial) -> None:
        """Write a trial."""
        self._write(run, "trial_finished", stage=stage, number=number, trial=asdict(trial))

    def model_stored(self, run: RunInfo, name: str, record: StoredModel) -> None:
        """Write what the run keeps of a model; its directory is relative to the run's."""
        facts = asdict(record)
        if record.directory is not None:
            facts["directory"] = record.directory.relative_to(run.directory).as_posix()
        self._write(run, "model_stored", name=name, record=facts)

    def stage_finished(self, run: RunInfo, stage: str, seconds: float, cached: bool) -> None:
        """Write that a stage is done."""
        self._write(run, "stage_finished", stage=stage, seconds=seconds, cached=cached)

    def run_finished(self, run: RunInfo, error: BaseException | None) -> None:
        """Write how the run ended."""
        text = None if error is None else described(error)
        self._write(run, "run_finished", error=text)

    def _write(self, run: RunInfo, event: str, **facts: Any) -> None:
        line = json.dumps(finite({"event": event, "time": time.time(), **facts}))
        _append(run.directory / FILE, f"{line}\n")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def finite(value: Any) -> Any:
    """Return a value with ``None`` in place of numbers that JSON does not have.

    >>> finite({"loss": float("nan"), "steps": [1, 2.5]})
    {'loss': None, 'steps': [1, 2.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
