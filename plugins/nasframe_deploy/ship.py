"""Writes models of runs and studies for other programs, from what their directories or caches have; nothing is trained.

A run offers every model that it made, a study every model of every run. Without a choice those are written that the
report recommends. Each is written by an exporter and verified in a fresh process, with a card that has its values.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.declarations import matching
from nasframe.errors import UsageError, listing, suggestion
from nasframe.folders import folder_name
from nasframe.plugin_errors import naming_plugins
from nasframe.report.roles import shipped
from nasframe.storage import refuse_unwritable

if TYPE_CHECKING:
    from nasframe.export.verify import Verifier
    from nasframe.report.records import RunReport
    from nasframe.running.kept_models import KeptModel, KeptModels

FOLDER = "exported"
"""The folder, in the directory of the run or study, that models are written to by default."""
MOST_LISTED = 20
"""Names that an error lists."""


@dataclass(frozen=True)
class Choice:
    """A model to write.

    Args:
        label: what it is called among all models of the place: its name in a run, ``ARM/…/NAME`` in a study.
        run: the directory of its run.
        model: its name there.
        folder: the name of the folder that it is written to.
        why: the recommendation in plain words; empty if the model was chosen by name.
    """

    label: str
    run: Path
    model: str
    folder: str
    why: str = ""


@dataclass(frozen=True)
class WrittenModel:
    """A model that was written and verified.

    Args:
        name: its label, see :class:`Choice`.
        directory: where it is.
        mode: the exporter.
        run: the directory of its run.
        bytes: the size of all its files.
        max_abs_difference: how far its outputs are from the network's.
        source: where the network was found: ``files``, ``states`` or ``cache``.
        snippet: the lines of Python that load it.
        why: the recommendation in plain words, if it was recommended.
    """

    name: str
    directory: str
    mode: Any
    run: str
    bytes: int
    max_abs_difference: float
    source: str
    snippet: str
    why: str


@naming_plugins()
def export_models(
    place: Path | str,
    models: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    mode: Any = "hetero",
    replace: bool = False,
    verifier: Verifier | None = None,
    say: Callable[[str], None] | None = None,
) -> list[WrittenModel]:
    """Write models of a run or study, verified and with cards; nothing is trained.

    Args:
        place: the directory of a run or of a study.
        models: names or patterns, as ``best@*``. In a study a model is called ``ARM/TASK/seed-N/NAME`` (without the
            task if there is only one), and a name without ``/`` chooses among the recommended ones. Default: those that
            the report recommends.
        out: the folder for the models, each in a folder of its own; default: ``exported`` in ``place``.
        mode: the exporter: ``hetero``, ``padded``, ``stock`` or a plugin's, see :func:`nasframe.export.write.export`.
        replace: overwrite models that lie there already.
        verifier: the fresh process, if one was started already.
        say: called with a line for each step.

    Returns:
        What was written, in the order of the report.

    Raises:
        UsageError: there is no run or study, no such model, a model was not kept, or one lies in its folder already.
        VerificationError: a written model does not load, or computes something else; nothing was left behind.
    """
    from nasframe.export import write as writer

    home = Path(place)
    target = Path(out) if out is not None else home / FOLDER
    if isinstance(mode, str):
        registry.find("exporter", mode)
    refuse_unwritable(target)
    choices = choose(home, models)
    _refuse_written(choices, target, replace)
    tell = say or _silent
    nets: dict[str, Any] = {}
    tokenizers: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    archs: dict[str, Any] = {}
    cards: dict[str, Any] = {}
    sources: dict[str, str] = {}
    with ExitStack() as scope:
        opened: dict[Path, _OpenRun] = {}
        for choice in choices:
            if choice.run not in opened:
                opened[choice.run] = scope.enter_context(_OpenRun(choice.run))
            run = opened[choice.run]
            model = run.models.load(choice.model)
            tell(f"{choice.label}: from {_SOURCES[model.source]}")
            nets[choice.label] = model.net
            tokenizers[choice.label] = model.tokenizer
            expected[choice.label] = run.expected(model)
            archs[choice.label] = model.arch
            cards[choice.label] = run.card(model.name) | run.image_facts(model)
            sources[choice.label] = model.source
        directories = {choice.label: target / choice.folder for choice in choices}
        tell("write, and verify in a fresh process")
        reports = writer.export_all(
            nets,
            None,
            directories,
            mode=mode,
            expected=expected,
            card={"models": cards},
            archs=archs,
            replace=replace,
            verifier=verifier,
            tokenizers=tokenizers,
        )
    return [_written(choice, directories[choice.label], reports, sources) for choice in choices]


_SOURCES = {"files": "its folder in the run", "states": "the run's states", "cache": "the cache"}


def _silent(text: str) -> None:
    """Report nothing."""


def _written(
    choice: Choice, directory: Path, reports: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]
) -> WrittenModel:
    report = reports[choice.label]
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return WrittenModel(
        name=choice.label,
        directory=str(directory),
        mode=report["mode"],
        run=str(choice.run),
        bytes=sum(sizes),
        max_abs_difference=report["max_abs_difference"],
        source=sources[choice.label],
        snippet=snippet_of(directory),
        why=choice.why,
    )


def snippet_of(directory: Path) -> str:
    """Return the lines of Python in a model's card that load it, with its own directory."""
    card = (directory / "README.md").read_text(encoding="utf-8")
    _, _, rest = card.partition("```python\n")
    lines = rest.partition("```")[0].strip()
    return lines.replace("path/to/this/directory", directory.as_posix())


def _refuse_written(choices: Sequence[Choice], target: Path, replace: bool) -> None:
    """Refuse folders that hold a model already, before any work."""
    if replace:
        return
    taken = [str(target / choice.folder) for choice in choices if (target / choice.folder).exists()]
    if taken:
        raise UsageError(f"{', '.join(taken)}: already there. Expected a new folder: another --out, or --replace.")


# ---- choosing


def choose(place: Path, models: Sequence[str] = ()) -> list[Choice]:
    """Return the models that names or patterns choose; see :func:`export_models`.

    Raises:
        UsageError: there is no run or study, or a name fits no model.
    """
    from nasframe_studies.settings import SETTINGS

    if (place / SETTINGS).is_file():
        return _of_study(place, models)
    if (place / "run.db").is_file():
        return _of_run(place, models)
    raise UsageError(
        f"{place}: no run and no study here. Expected a directory that 'run', 'ablate' or 'compress' made."
    )


def _of_run(place: Path, models: Sequence[str]) -> list[Choice]:
    from nasframe.report.read import read_run

    report = read_run(place, examples=False)
    why = {recommendation.model: recommendation.text for recommendation in report.recommendations}
    names = [model.name for model in report.models]
    if models:
        chosen = _matching(place, names, models)
    else:
        chosen = [model.name for model in shipped(report.models)]
    if not chosen:
        listed = listing(names)
        raise UsageError(f"{place}: the run recommends no model. Expected names of models. Models: {listed}.")
    return [Choice(name, place, name, folder_name(name), why.get(name, "")) for name in chosen]


def _of_study(place: Path, models: Sequence[str]) -> list[Choice]:
    """Choose among the recommended models of a study, or among all models of all its runs."""
    by_name = [name for name in models if "/" not in name]
    by_label = [name for name in models if "/" in name]
    chosen = []
    if by_name or not models:  # labels alone need no comparison
        chosen = _recommended(place)
    if by_name:
        names = _matching(place, [choice.model for choice in chosen], by_name)
        chosen = [choice for choice in chosen if choice.model in names]
    if by_label:
        every = _every_model(place)
        known = {choice.label for choice in chosen}
        for label in _matching(place, list(every), by_label):
            if label not in known:
                chosen.append(every[label])
    if not chosen:
        raise UsageError(f"{place}: the study recommends no model: none of its runs has results. Go on with it first.")
    return _distinct_folders(chosen)


def _recommended(place: Path) -> list[Choice]:
    from nasframe_studies.compare import analyse
    from nasframe_studies.study import collect, settings

    study = settings(place)
    comparison = analyse(place, collect(place), study)
    several = len(comparison.tasks) > 1
    choices: dict[str, Choice] = {}
    for entry in comparison.shipped:
        label = _label(entry.run, entry.model)
        name = f"{entry.task}-{entry.model}" if several else entry.model
        choices.setdefault(label, Choice(label, place / entry.run, entry.model, folder_name(name), entry.text))
    return list(choices.values())


def _every_model(place: Path) -> dict[str, Choice]:
    """Return label → choice for each model of each run of a study."""
    from nasframe.store import RunStore
    from nasframe_studies.settings import settings

    choices = {}
    for run in settings(place).runs:
        directory = place / run.run
        if not (directory / "run.db").is_file():
            continue
        store = RunStore(directory, shared=True)
        names = [row["name"] for row in store.rows("model")]
        store.close()
        for name in names:
            label = _label(run.run, name)
            choices[label] = Choice(label, directory, name, _folder_of_label(label))
    return choices


def _label(run: str, model: str) -> str:
    """Return what a model of a study is called.

    >>> _label("runs/sng/mrpc/seed-0", "best@50%")
    'sng/mrpc/seed-0/best@50%'
    """
    return f"{run.removeprefix('runs/')}/{model}"


def _distinct_folders(choices: Sequence[Choice]) -> list[Choice]:
    """Return choices whose folders differ: two models of one name get the names of their runs as well."""
    counts = Counter(choice.folder for choice in choices)
    distinct = []
    for choice in choices:
        if counts[choice.folder] > 1:
            choice = dataclasses.replace(choice, folder=_folder_of_label(choice.label))
        distinct.append(choice)
    return distinct


def _folder_of_label(label: str) -> str:
    return folder_name(label.replace("/", "-"))


def _matching(place: Path, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that fit some pattern, in their order.

    Raises:
        UsageError: a pattern fits none; lists all such patterns.
    """
    problems = []
    distinct = list(dict.fromkeys(names))  # in a study several tasks have models of one name
    for pattern in patterns:
        if not matching(names, [pattern]):
            listed = listing(distinct[:MOST_LISTED])
            more = f" and {len(distinct) - MOST_LISTED} more" if len(distinct) > MOST_LISTED else ""
            hint = suggestion(pattern, names)
            problems.append(f"{place}: no model {pattern!r}. Models: {listed}{more}.{hint}")
    if problems:
        raise UsageError("\n".join(problems))
    return list(matching(names, patterns))


# ---- one run


class _OpenRun:
    """A run whose models are opened, with its report, from which cards are written."""

    def __init__(self, directory: Path) -> None:
        from nasframe.running.kept_models import KeptModels

        self.directory = directory
        self.models: KeptModels = KeptModels(directory)

    def __enter__(self) -> _OpenRun:
        self.models.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.models.__exit__(*error)

    @cached_property
    def report(self) -> RunReport:
        """The run's report, read when it is first asked for."""
        from nasframe.report.read import read_run

        return read_run(self.directory)

    def card(self, name: str) -> dict[str, Any]:
        """Return the facts for a model's card."""
        from nasframe.report.card_facts import card_facts

        store = self.models.store
        facts = card_facts(self.report, [name])[name]
        plan = self.models.plan
        run = {"model": plan.model, "task": plan.task, "data": store.get("data"), "base": store.get("base_model")}
        return run | facts

    def image_facts(self, model: KeptModel) -> dict[str, Any]:
        """Return how the run's task prepares images, for a model that reads no tokens."""
        from nasframe.export.files import IMAGE_PROCESSOR, image_processor_of

        if model.tokenizer is not None:  # the data of texts need not be read
            return {}
        return {IMAGE_PROCESSOR: image_processor_of(self.models.inputs.task)}

    def expected(self, model: KeptModel) -> Mapping[str, Any] | None:
        """Return inputs and outputs that the written model must reproduce; ``None``: on invented token ids."""
        import torch

        from nasframe.export.write import invented_inputs
        from nasframe.nn.outputs import compared
        from nasframe.training.macs import probe_inputs

        if model.expected is not None:
            return model.expected
        if invented_inputs(model.net) is not None:
            return None
        inputs = probe_inputs(self.models.inputs.task)  # of networks that read no token ids
        with torch.no_grad():
            outputs = compared(model.net(**inputs))
        return {"inputs": inputs, "outputs": outputs}


def as_json(written: Sequence[WrittenModel]) -> str:
    """Return what was written as JSON."""
    return json.dumps([dataclasses.asdict(model) for model in written], indent=1)
