"""What every observer must do, as checks: subclass :class:`ObserverContract`, define ``make``, run pytest.

class TestMine(ObserverContract):
    def make(self):
        return MyObserver()
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasframe.errors import RunError, UsageError, suggestion
from nasframe.observers import OBSERVED, Listener, arguments_of, listener_of
from nasframe.reads import Recorder
from nasframe.records import RunInfo, StoredModel, Trial
from nasframe.testing.kit import Contract, ContractError, DoesNotApply, check, described_error, no_internet, require

ARCH = {"layers": [0, 2], "heads.0": 3}
RECIPE = {
    "name": "observed",
    "seed": 3,
    "task": {"use": "toy", "name": None},
    "stages": [{"train": {"name": "teacher", "max_steps": 4}}, {"search": {"trials": 2, "within": {"layers": [2]}}}],
}
Event = tuple[str, dict[str, Any]]
"""A hook, and the arguments that only this call has."""


class ObserverContract(Contract):
    """The checks: the observer hears runs that end in every way, as far as events show it.

    Attributes:
        network: whether the observer is meant to connect to other computers; the documentation should say so.
        elsewhere: whether it is meant to write outside the run directory; likewise.
    """

    kind = "observer"
    network: bool = False
    elsewhere: bool = False

    def make(self) -> Any:
        """Make the observer under test."""
        return self.registered()

    def listener(self) -> Listener:
        """Return a new observer as a run calls it."""
        try:
            return listener_of(self.make(), "the observer")
        except UsageError as error:
            raise ContractError(str(error)) from error

    @check
    def test_its_methods_are_hooks(self) -> None:
        """It has a method of a hook's name, asks for no unknown arguments, and misspells no hook."""
        self.listener()
        for name in dir(self.make()):
            if name.startswith("_") or name in OBSERVED:
                continue
            near = suggestion(name, OBSERVED)
            looks_like_one = name.endswith(("_started", "_logged", "_finished", "_stored"))
            require(not (near and looks_like_one), f"{name} is no hook, so that nobody calls it.{near} Rename it")

    @check
    def test_making_it_writes_nothing(self) -> None:
        """It is made when a recipe is checked, too; its work begins with ``run_started``."""
        with written_files() as written:
            self.make()
        require(not written, f"making it wrote {shown(written)}; open files in run_started")

    @check
    def test_it_hears_a_whole_run(self) -> None:
        """Nothing in a run that ends well makes it raise."""
        with new_run() as run:
            tell(self.listener(), run, whole_run(run))

    @check
    def test_it_hears_values_that_are_no_numbers(self) -> None:
        """A loss may be infinite or not a number, and a trial that was not evaluated has no score."""
        with new_run() as run:
            tell(self.listener(), run, unusual_run())

    @check
    def test_it_hears_a_run_that_fails(self) -> None:
        """A run may end with an error or an interrupt, at any time after ``run_started``."""
        for error in (RunError("the disk is full"), KeyboardInterrupt()):
            with new_run() as run:
                events = [*whole_run(run)[:4], ("run_finished", {"error": error})]
                tell(self.listener(), run, events)

    @check
    def test_it_goes_on_after_a_kill(self) -> None:
        """A process may be killed after any event; a new one goes on in the same directory and repeats some steps."""
        with new_run() as run:
            events = whole_run(run)
            for count in range(1, len(events)):
                tell(self.listener(), run, events[:count])  # and then nothing more
                tell(self.listener(), run, [("run_started", {"resumed": True}), *resumed(events[1:])])

    @check
    def test_it_hears_stages_from_the_cache(self) -> None:
        """Of a stage from the cache it hears the start, the models and the end, but neither metrics nor trials."""
        with new_run() as run:
            events = []
            for hook, facts in whole_run(run):
                if hook not in ("metrics_logged", "trial_finished"):
                    changed = {"cached": True, "seconds": 0.0} if hook == "stage_finished" else {}
                    events.append((hook, facts | changed))
            tell(self.listener(), run, events)

    @check
    def test_two_runs_do_not_mix(self) -> None:
        """A process may observe a run while another observer of the same kind observes another one."""
        with new_run() as first, new_run() as second:
            for_first, for_second = self.listener(), self.listener()
            for one, other in zip(whole_run(first), whole_run(second), strict=True):
                tell(for_first, first, [one])
                tell(for_second, second, [other])

    @check
    def test_it_writes_below_the_run_directory_only(self) -> None:
        """All files lie below the run directory, and the run's own files stay as they are."""
        with new_run() as run:
            before = own_files(run)
            with written_files() as written:
                tell(self.listener(), run, whole_run(run))
            outside = [path for path in written if not path.is_relative_to(run.directory)]
            is_allowed = self.elsewhere or not outside
            require(is_allowed, f"it wrote {shown(outside)}; write below run.directory only")
            require(own_files(run) == before, "it changed a file of the run itself; write to a file of another name")

    @check
    def test_it_connects_to_nobody(self) -> None:
        """It makes no network connection, unless its contract says ``network = True``."""
        if self.network:
            raise DoesNotApply
        with new_run() as run, no_internet() as addresses:
            try:
                tell(self.listener(), run, whole_run(run))
            except ContractError:
                if not addresses:  # else it raised because of the refused connection
                    raise
        text = f"it connects to {shown(addresses)}; work offline, or set network = True and document it"
        require(not addresses, text)


# ---- runs to hear


@contextmanager
def new_run() -> Iterator[RunInfo]:
    """Make a directory like that of a run, for the time of the block."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder).resolve() / "run"
        directory.mkdir()
        for name in ("run.db", "recipe.yaml"):
            (directory / name).write_text(f"{name} of the run\n", encoding="utf-8")
        yield RunInfo(directory, dict(RECIPE), "observed", ("teacher", "search"))


def own_files(run: RunInfo) -> dict[str, str]:
    """Return the content of the files that a run itself has written."""
    return {name: (run.directory / name).read_text(encoding="utf-8") for name in ("run.db", "recipe.yaml")}


def whole_run(run: RunInfo) -> list[Event]:
    """Return the events of a run with a training and a search, in order."""
    trial = Trial(arch=ARCH, score=0.5, objectives=(0.5,), metrics={"accuracy": 0.5}, costs={"params": 1000.0})
    bare = StoredModel("teacher", None, None, None, {}, {})
    metrics = {"dev": {"accuracy": 0.75}}
    measured = StoredModel("search", run.directory / "models" / "best-50", ARCH, "50%", metrics, {"params": 1000.0})
    return [
        ("run_started", {"resumed": False}),
        ("stage_started", {"stage": "teacher", "verb": "train", "resumed": False}),
        ("metrics_logged", {"stage": "teacher", "step": 2, "values": {"loss": 0.7, "learning_rate": 1e-3}}),
        ("metrics_logged", {"stage": "teacher", "step": 4, "values": {"loss": 0.6, "select accuracy": 0.5}}),
        ("model_stored", {"name": "teacher", "record": bare}),
        ("stage_finished", {"stage": "teacher", "seconds": 1.5, "cached": False}),
        ("stage_started", {"stage": "search", "verb": "search", "resumed": False}),
        ("trial_finished", {"stage": "search", "number": 0, "trial": trial}),
        ("trial_finished", {"stage": "search", "number": 1, "trial": trial}),
        ("model_stored", {"name": "best@50%", "record": measured}),
        ("stage_finished", {"stage": "search", "seconds": 0.5, "cached": False}),
        ("run_finished", {"error": None}),
    ]


def unusual_run() -> list[Event]:
    """Return the events of a run with values that are no usual numbers."""
    screened = Trial(arch=ARCH, score=None, costs={"params": 1000.0}, violation=0.5, state="screened")
    failed = Trial(arch=ARCH, score=None, state="failed")
    unknown = Trial(arch=ARCH, score=0.5, metrics={"accuracy": math.nan}, costs={"macs": None})  # type: ignore[dict-item]
    losses = {"loss": math.nan, "penalty": math.inf}
    events: list[Event] = [
        ("run_started", {"resumed": False}),
        ("stage_started", {"stage": "teacher", "verb": "train", "resumed": False}),
        ("metrics_logged", {"stage": "teacher", "step": 1, "values": losses}),
        ("stage_started", {"stage": "search", "verb": "search", "resumed": False}),
    ]
    for number, trial in enumerate((screened, failed, unknown)):
        events.append(("trial_finished", {"stage": "search", "number": number, "trial": trial}))
    record = StoredModel("search", None, ARCH, None, {"dev": {"f1": math.nan}}, {"macs": None})  # type: ignore[dict-item]
    events.append(("model_stored", {"name": "best", "record": record}))
    events.append(("run_finished", {"error": None}))
    return events


def resumed(events: list[Event]) -> list[Event]:
    """Return events as a run repeats them that goes on."""
    repeated = []
    for hook, facts in events:
        repeated.append((hook, facts | {"resumed": True}) if hook == "stage_started" else (hook, facts))
    return repeated


def tell(listener: Listener, run: RunInfo, events: list[Event]) -> None:
    """Tell a listener of events, as a run does.

    Raises:
        ContractError: it raised; names the event.
    """
    for hook, facts in events:
        everything: Mapping[str, Any] = {"run": run, "directory": run.directory, "recipe": run.recipe, **facts}
        arguments = {name: everything[name] for name in arguments_of(hook)}
        try:
            listener.hear(hook, arguments)
        except (Exception, SystemExit) as error:
            raise ContractError(f"{hook} with {facts} {described_error(error)}") from error


# ---- what it does to the world


@contextmanager
def written_files() -> Iterator[list[Path]]:
    """Collect the files that are written inside the block."""
    written: list[Path] = []
    with Recorder() as recorder:
        yield written
        written.extend(Path(name) for name in sorted(recorder.written) if not _is_bytecode(name))


def _is_bytecode(name: str) -> bool:
    """Tell whether Python wrote a file to import a module faster the next time."""
    return "__pycache__" in Path(name).parts or name.endswith((".pyc", ".pyo"))


def shown(places: Sequence[Any]) -> str:
    """Return the first of some paths or addresses as a text."""
    names = [str(place) for place in places[:3]]
    return ", ".join(names) + (" …" if len(places) > len(names) else "")
