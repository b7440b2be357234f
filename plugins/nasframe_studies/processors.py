"""The kinds of processor that the runs of a comparison were made on, and the seeds whose arms differ in them.

Runs of one study may be made on several machines, as when it is extended or goes on elsewhere. Different kinds of
processor round differently, and ``precision: auto`` computes in bfloat16 on some of them only. Pairs of a seed are
then no longer like for like, if its arms were made on different kinds.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nasframe.store import RunStore
from nasframe_studies.grouping import distinct_by
from nasframe_studies.records import Comparison, Difference, PairTable, Processors, SeedProcessors
from nasframe_studies.run_facts import RunFacts, processor_kinds
from nasframe_studies.settings import StudyRun
from nasframe_studies.wording import grouped, plural

UNLIKE = "≠"
"""Stands between the marks of a seed whose arms were made on different kinds."""
UNLIKE_PAIRS = " ‡"
"""The mark of a difference with such pairs."""
CONDITIONS = ("processor", "device", "accelerator")
"""Conditions of a run that its kind of processor says already."""


def processors(runs: Sequence[RunFacts]) -> Processors:
    """Return the kinds of processor that runs were made on; empty if there is only one."""
    marks: dict[str, str] = {}
    for run in runs:
        for name in run.kinds:
            marks.setdefault(name, _mark(len(marks)))
    if len(marks) < 2:
        return Processors()
    arms_of: dict[tuple[str, int], dict[str, list[str]]] = {}
    for run in runs:
        # By task as well: arms are paired within a task, and tasks may be made on machines of their own.
        arms = arms_of.setdefault((run.task, run.seed), {})
        arms[run.arm] = [marks[name] for name in run.kinds]
    seeds = []
    for (task, seed), arms in arms_of.items():
        used = set().union(*arms.values())
        seeds.append(SeedProcessors(task=task, seed=seed, arms=arms, unlike=len(used) > 1))
    kinds = {mark: name for name, mark in marks.items()}
    return Processors(kinds=kinds, seeds=seeds)


def other_machine_note(home: Path, runs: Iterable[StudyRun]) -> str | None:
    """Say that this machine is of another kind than those that runs were made on; ``None`` if it is not.

    Args:
        home: the folder to which the runs' directories are relative.
        runs: the runs, which are finished.
    """
    kinds: dict[str, None] = {}
    for run in runs:
        store = RunStore(home / run.run, shared=True)
        environments = store.get("environments", [])
        store.close()
        kinds |= dict.fromkeys(processor_kinds(environments))
    if not kinds:  # asked first, because the answer for this machine needs torch
        return None
    here = kind_here()
    if here in kinds:
        return None
    return (
        f"This machine has another kind of processor ({here}) than the finished runs were made on ({', '.join(kinds)})."
        " The study's pages will mark the seeds."
    )


def kind_here() -> str:
    """Return the kind of processor of this machine, as :func:`processor_kinds` names it."""
    from nasframe.running.environment import environment

    facts = environment()
    device, _, name = facts["device"].partition(" ")
    part = "accelerator" if device.startswith("cuda") else "processor"
    return processor_kinds([{part: name, "bf16": facts["bf16"]}])[0]


def _mark(number: int) -> str:
    """Return a letter, or more than one beyond the alphabet.

    >>> _mark(0), _mark(27)
    ('A', 'B1')
    """
    rounds, letter = divmod(number, len(string.ascii_uppercase))
    return string.ascii_uppercase[letter] + (str(rounds) if rounds else "")


def notes(processors: Processors) -> Iterator[str]:
    """Word the warnings: which kinds there are, and at which seeds pairs are not like for like."""
    if not processors.kinds:
        return
    texts = []
    for mark, name in processors.kinds.items():
        text = f"{mark} is {name}"
        seeds = [entry.seed for entry in processors.seeds if entry.marks == [mark]]
        if seeds:  # else it is only at seeds whose arms differ, which the second note names
            text += f" ({_seeds(seeds)})"
        texts.append(text)
    yield (
        f"RUNS WERE MADE ON DIFFERENT KINDS OF PROCESSOR: {'; '.join(texts)}. They round differently, so that scores"
        " and times may depend on that."
    )
    places = _unlike_places(processors)
    if places:
        yield (
            "PAIRS ARE NOT LIKE FOR LIKE: arms were made on different kinds of processor at"
            f" {'; '.join(places)}. Differences with such pairs are marked{UNLIKE_PAIRS}: they may come from the"
            " processors."
        )


def _unlike_places(processors: Processors) -> list[str]:
    """Describe the seeds whose arms differ, those of equal tasks and kinds together."""
    unlike = [entry for entry in processors.seeds if entry.unlike]
    tasks_of = distinct_by(((entry.seed, grouped(entry.arms)), entry.task) for entry in unlike)
    seeds_of = distinct_by(((", ".join(tasks), arms), seed) for (seed, arms), tasks in tasks_of.items())
    return [f"{_seeds(seeds)} of {tasks}: {arms}" for (tasks, arms), seeds in seeds_of.items()]


def _seeds(seeds: Sequence[int]) -> str:
    distinct = sorted(set(seeds))
    return f"{plural('seed', len(distinct))} {', '.join(map(str, distinct))}"


def marked_seed(comparison: Comparison, task: str, seed: int) -> str:
    """Write a seed with the kinds of processor of its runs, if there are several in the comparison: ``3 A≠B``."""
    for entry in comparison.processors.seeds:
        if (entry.task, entry.seed) == (task, seed):
            return f"{seed} {UNLIKE.join(entry.marks)}".strip()
    return str(seed)


def has_unlike_pairs(comparison: Comparison, table: PairTable, pair: Difference) -> bool:
    """Return whether an arm and the reference were made on different kinds of processor at a seed of a difference."""
    for entry in comparison.processors.seeds:
        if entry.task not in table.tasks or entry.seed not in pair.seeds:
            continue
        # Of these two alone: a third arm elsewhere does not touch their difference.
        marks = {*entry.arms.get(pair.arm, ()), *entry.arms.get(comparison.against, ())}
        if len(marks) > 1:
            return True
    return False
