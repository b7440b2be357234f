"""The models of a run: their folders below ``models/``, their rows in the database, their cards and predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nasframe import families, registry
from nasframe.digests import files_below, fresh_digest
from nasframe.errors import UsageError
from nasframe.folders import model_folder, predictions_file, shared_folder
from nasframe.processes import leader
from nasframe.stages.reference import renew_expected
from nasframe.storage import writing
from nasframe.store import write_text

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Work
    from nasframe.records import Arch
    from nasframe.stages.session import StageSession


@contextmanager
def recording_files(stage: StageSession, *names: str) -> Iterator[None]:
    """Keep digests of the files that the block writes for some models, so that a resume can find damage."""
    # Cleared first: a run that is killed inside the block must not find damage in files that are half-written.
    for name in names:
        stage.store.put_files(name, None)
    yield
    for name in names:
        folder = model_folder(stage.store.directory, name)
        digests = {inside: fresh_digest(file) for inside, file in files_below(folder)}
        stage.store.put_files(name, digests)


def save(stage: StageSession, name: str, net: nn.Module, tokenizer: Any) -> None:
    """Write a network to ``models/<name>``, as a Hugging Face directory that loads as it is."""
    describe(stage, name, net)
    _write(stage, name, net, tokenizer, card_facts(stage, [name]))


def _write(stage: StageSession, name: str, net: nn.Module, tokenizer: Any, cards: Mapping[str, Any]) -> None:
    """Write a model whose shape is in the database already.

    Args:
        stage: the stage that writes it.
        name: the model's name.
        net: the network.
        tokenizer: its tokenizer, or ``None``.
        cards: as :func:`card_facts` returns them.
    """
    from nasframe.export import write as export

    folder = model_folder(stage.store.directory, name)
    with recording_files(stage, name):
        export.write(net, tokenizer, folder, mode="auto", card=export.card_of(cards, name), replace=True)
    keep_path(stage, name)


def save_searched(stage: StageSession, net: nn.Module | None, work: Work) -> None:
    """Write the network of the run's last search if no stage saved it, so that the finished run can be deployed."""
    from nasframe.export import write as export
    from nasframe.plan import keeps_net, kept_net

    if net is None or not keeps_net(stage.plan, stage.planned):
        return
    # The model can give its own tokenizer at any time, but not one with a smaller vocabulary.
    tokenizer = None if work.vocabulary is None else work.tokenizer
    name = kept_net(stage.planned)
    folder = model_folder(stage.store.directory, name)
    with recording_files(stage, name):
        export.write(net, tokenizer, folder, mode="auto", replace=True)


def keep_models(stage: StageSession, work: Work) -> None:
    """Write the extracted models that no stage has written, unverified, as networks that a stage saves are."""
    unwritten = []
    for name, net in work.models.items():
        is_extracted = name in work.archs
        if is_extracted and not stage.store.model(name).get("path"):
            unwritten.append(name)
            describe(stage, name, net)
    if not unwritten:
        return
    cards = card_facts(stage, unwritten)  # for all at once: it reads the whole run and resamples its examples
    for name in unwritten:
        _write(stage, name, work.models[name], work.tokenizer, cards)


def renew(stage: StageSession, name: str, net: nn.Module, work: Work) -> None:
    """Bring what the run keeps of a model up to date, because its weights have changed."""
    if not leader():  # the other processes have trained the same weights, and write nothing
        return
    renew_expected(stage, name, net, work)
    if stage.store.model(name).get("path"):
        save(stage, name, net, work.tokenizer)


def describe(stage: StageSession, name: str, net: nn.Module, arch: Arch | None = None) -> None:
    """Keep a model's shape, and the architecture that it was extracted with.

    Raises:
        UsageError: another model of the run has the same folder; a plugin may have chosen either name.
    """
    _refuse_shared_folder(stage, name)
    fields: dict[str, Any] = {"blueprint": families.summary(net)}
    # Plugins may add facts, such as the formats of quantised matrices.
    facts = registry.model_facts(net)
    if facts:
        stage.result.setdefault("facts", {})[name] = facts
    if arch is not None:
        fields["arch"] = dict(arch)
        fields["budget"] = name.partition("@")[2] or None
    if not stage.store.model(name).get("stage"):  # the first stage that describes a model is the one that made it
        fields["stage"] = stage.name
    stage.store.put_model(name, **fields)


def _refuse_shared_folder(stage: StageSession, name: str) -> None:
    others = [row["name"] for row in stage.store.rows("model")]
    clash = shared_folder([*others, name])
    if clash is not None:
        raise UsageError(f"models {clash[0]!r} and {clash[1]!r} would share a folder. Expected another name for one.")


def keep_path(stage: StageSession, name: str) -> None:
    """Keep that a model has been written to its folder."""
    run = stage.store.directory
    stage.store.put_model(name, path=model_folder(run, name).relative_to(run).as_posix())


def add_metrics(stage: StageSession, name: str, split: str, metrics: Mapping[str, float]) -> None:
    """Keep a model's metrics on a split, along with those on other splits."""
    by_split = dict(stage.store.model(name).get("metrics") or {})
    by_split[split] = dict(metrics)
    stage.store.put_model(name, metrics=by_split)


def write_predictions(stage: StageSession, name: str, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a model's predictions, one row an example, to a CSV file in its folder."""
    folder = model_folder(stage.store.directory, name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    rows = zip(*columns.values(), strict=True)
    writer.writerows(rows)
    # In memory first, so that the file is written whole or not at all.
    write_text(folder / predictions_file(split), text.getvalue())


def card_facts(stage: StageSession, names: Iterable[str]) -> dict[str, Any]:
    """Return what model cards say: the run's model, task and data, and each model's own facts."""
    from nasframe.export.files import image_processor_of
    from nasframe.report.card_facts import card_facts as facts_of_models
    from nasframe.report.read import read_run

    chosen = list(names)
    models = facts_of_models(read_run(stage.store.directory), chosen)
    for name in chosen:
        # Bounds that this stage itself has found are not in the database yet.
        models.setdefault(name, {"title": name})["over_budget"] = over_budget(stage, name)
    return {
        "model": stage.plan.teacher if stage.planned.verb == "load" else stage.plan.model,
        "task": stage.plan.task,
        "data": stage.store.get("data"),
        "base": stage.store.get("base_model"),
        "image_processor": image_processor_of(stage.inputs.task),
        "models": models,
    }


def over_budget(stage: StageSession, name: str) -> str:
    """Say which of a model's costs, as far as they are known now, are over the budget it is named after."""
    from nasframe.report import budgets
    from nasframe.report.format import cost_formats

    costs = stage.store.model(name).get("costs") or {}
    formats = cost_formats(stage.store.get("costs"))
    return budgets.over_budget(costs, bounds_of(stage, name), formats)


def bounds_of(stage: StageSession, name: str) -> dict[str, list[float | None]]:
    """Return the bounds that a model must meet by its name, as far as the stages of this run have kept them."""
    from nasframe.report import budgets

    results = [stage.store.stage_result(planned.name) for planned in stage.plan.stages]
    results.append(stage.result)  # this stage has not ended, so the store does not have its result
    return budgets.bounds_of(name, results)


def report_over_budget(stage: StageSession, names: Iterable[str]) -> None:
    """Report the models that are over budget by their final costs, also in model cards that are already written."""
    from nasframe.export.write import update_card

    for name in names:
        text = over_budget(stage, name)
        if text:
            stage.progress.say(f"{name}: over budget: {text}")
        # Cards are updated even if the text is empty: an earlier one may have warned by counted costs.
        path = stage.store.model(name).get("path")
        if path:
            update_card(stage.store.directory / path, text)
