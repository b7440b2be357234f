"""Passes what happens in a run on to a tracker of Accelerate's interface, whichever service it writes for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nasframe.plugin_errors import described
from nasframe.processes import processes
from nasframe.records import RunInfo, StoredModel, Trial

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Plain = bool | int | float | str


class Tracked:
    """An observer that passes numbers on to a tracker.

    Curves are named ``<stage>/<metric>`` by step, ``<stage>/trial/<score, metric or cost>`` by the trial's number, and
    ``models/<name>/<split>/<metric>`` and ``models/<name>/<cost>`` by the number of the stage.

    Args:
        open: makes the tracker of a run; it is called when the run starts or goes on.
    """

    def __init__(self, open: Callable[[RunInfo], GeneralTracker]) -> None:
        self.open = open
        self.tracker: Any = None
        self.stage = ""

    def run_started(self, run: RunInfo, resumed: bool) -> None:
        """Open the tracker, and give it the recipe of a new run."""
        processes()  # trackers ask Accelerate which process they are in, and it must not choose another device
        self.tracker = self.open(run)
        self.tracker.start()
        if not resumed:
            self.tracker.store_init_configuration(dict(plain_options(run.recipe)))

    def stage_started(self, stage: str) -> None:
        """Remember the stage, whose models come at its end."""
        self.stage = stage

    def metrics_logged(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log what a training measured."""
        self._log(stage, values, step)

    def trial_finished(self, stage: str, number: int, trial: Trial) -> None:
        """Log a trial's score, metrics and costs."""
        self._log(f"{stage}/trial", {**trial.metrics, **trial.costs, "score": trial.score}, number)

    def model_stored(self, run: RunInfo, name: str, record: StoredModel) -> None:
        """Log a model's metrics on each split, and its costs."""
        position = run.stages.index(self.stage)
        for split, metrics in record.metrics.items():
            self._log(f"models/{name}/{split}", metrics, position)
        self._log(f"models/{name}", record.costs, position)

    def run_finished(self, error: BaseException | None) -> None:
        """Close the tracker, after the reason if the run failed."""
        if error is not None:
            self.tracker.log({"error": described(error)})
        self.tracker.finish()

    def _log(self, place: str, values: Mapping[str, Any], step: int) -> None:
        """Log those values that are numbers: the score of a trial that was not evaluated is none."""
        named = {}
        for name, value in values.items():
            if isinstance(value, int | float):
                named[f"{place}/{name}"] = value
        if named:
            self.tracker.log(named, step=step)


def plain_options(value: Any, path: str = "") -> Iterator[tuple[str, Plain]]:
    """Yield the dotted path and the value of every option of a recipe; trackers take no nested ones.

    >>> list(plain_options({"seed": 0, "stages": [{"train": {"epochs": 2, "arch": None}}]}))
    [('seed', 0), ('stages.0.train.epochs', 2)]
    """
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        if value is not None:
            yield path, value if isinstance(value, Plain) else str(value)
        return
    for key, item in items:
        yield from plain_options(item, f"{path}.{key}" if path else str(key))
