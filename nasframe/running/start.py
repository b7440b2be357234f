"""What a run starts from: data, weights, tokenizer, and all files that they were read from.

A run keeps digests of them when it begins. A resume compares these, because none may have changed, and keys of the
cache contain them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nasframe import families
from nasframe.errors import UsageError
from nasframe.plan import own_task
from nasframe.processes import leader
from nasframe.reads import NAMES, UNKNOWN
from nasframe.running.cache_keys import differences
from nasframe.running.named_files import FileNames, declared_files, file_digests
from nasframe.stages.inputs import base_facts, brief_facts, cost_facts, data_facts, same_data

if TYPE_CHECKING:
    from torch import nn

    from nasframe.plan import PlannedStage
    from nasframe.reads import Recorder
    from nasframe.stages.inputs import RunInputs
    from nasframe.store import RunStore


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Args:
        digests: of data, weights and tokenizer, and of the files that model and task declare, for keys.
        opened: the files that were opened when these were loaded, by name, with their states. They are no part of
            keys: a process that has read a file for another run need not open it again.
        opened_by_model: those of them that were opened for anything else than the recipe's task.
    """

    digests: dict[str, Any]
    opened: dict[str, str]
    opened_by_model: dict[str, str] = field(default_factory=dict)

    def differences(self, other: Start) -> list[str]:
        """Return the names of files that differ, or if no file is known, of the digests that do."""
        mine, theirs = self.digests, other.digests
        names = []
        # In the form of `FileNames`, which can turn these names into paths.
        for name, _, _ in differences(mine["files"], theirs["files"]):
            owner, slash, inside = name.partition("/")
            names.append(f"<{owner}>{slash}{inside}")
        # Only files that both opened: either process may have had some in memory already.
        for name in self.opened.keys() & other.opened.keys():
            states = (self.opened[name], other.opened[name])
            # A folder may get further files: those that are read count by themselves.
            are_folders = all(state.startswith(NAMES) for state in states)
            if states[0] != states[1] and not are_folders:
                names.append(name)
        if not names and not mine["files"]:
            # The model declares no files, so only the parts that it loaded can be named.
            for part in ("weights", "tokenizer", "teacher"):
                if mine.get(part) != theirs.get(part):
                    names.append(f"the {part}")
        return sorted(names)


def begin(inputs: RunInputs, store: RunStore) -> Start | None:
    """Load what a run starts from, and keep its digests, or compare them with those that the run began with.

    Returns:
        What the run starts from; ``None`` in all processes but the first, which does the comparing.

    Raises:
        UsageError: it is not what the run began with; names every file that changed.
    """
    task = inputs.task
    known = store.get("data")
    # Before the network is loaded: other labels would give it another head.
    if known is not None and not same_data(task, known):
        raise UsageError(f"{store.directory}: the data is not what the run began with. Expected {brief_facts(known)}.")
    if known is None and leader():
        store.put("data", data_facts(task))
    inputs.load()
    if not leader():
        return None
    if store.get("costs") is None:
        store.put("costs", cost_facts(inputs))
    if store.get("base_model") is None:
        store.put("base_model", base_facts(inputs))
    start = start_of(inputs, own_places(store))
    _check(start, inputs, store)
    return start


def _check(start: Start, inputs: RunInputs, store: RunStore) -> None:
    """Keep the digests of what the run starts from, or compare them with those that were kept."""
    known = store.get("start")
    if known is None:
        store.put("start", {"material": start.digests, "opened": start.opened})
        return
    changed = start.differences(Start(known["material"], known["opened"]))
    if not changed:
        return
    file_names = FileNames(inputs)
    places = []
    for name in changed:
        is_file = not name.startswith("the ")
        places.append(str(file_names.place(name)) if is_file else name)
    raise UsageError(
        f"{store.directory}: not what the run began with: {', '.join(places)}. Expected model and task as they were: "
        "undo the change, or start a new run."
    )


def own_places(store: RunStore) -> list[str]:
    """Return the real paths of a run's directory and cache. Files there change while it runs, and are no inputs."""
    places = [store.directory, store.get("cache")]
    return [os.path.realpath(place) for place in places if place is not None]


def start_of(inputs: RunInputs, hidden: Iterable[str] = ()) -> Start:
    """Return what a run starts from; what is not loaded yet is loaded.

    Args:
        inputs: what a plan names.
        hidden: real paths of the run itself, which do not count as read.
    """
    digests = input_digests(inputs)
    opened_by_model = _opened(inputs, inputs.reads, hidden)
    opened_by_task = _opened(inputs, inputs.reads_of(inputs.plan.task), hidden)
    return Start(digests, opened_by_model | opened_by_task, opened_by_model)


def opened_by_tasks(inputs: RunInputs, hidden: Iterable[str] = ()) -> dict[str, str]:
    """Return the files that stages' own tasks have opened so far, by name, with their states."""
    opened: dict[str, str] = {}
    for stage in inputs.plan.stages:
        use = own_task(stage)
        if use is not None:
            opened |= _opened(inputs, inputs.reads_of(use), hidden)
    return opened


def _opened(inputs: RunInputs, reads: Recorder, hidden: Iterable[str]) -> dict[str, str]:
    """Return the files of a recorder by name, with their states."""
    file_names = FileNames(inputs)
    states, changed = reads.states(hidden)
    states |= dict.fromkeys(changed, UNKNOWN)
    return {file_names.name(path): state for path, state in states.items()}


def materials(inputs: RunInputs, recipes_own: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the digests of what each stage would start from if it were the first: with its own task, if it names one.

    Args:
        inputs: what a plan names.
        recipes_own: the :func:`input_digests` with the recipe's task, if they are known already.
    """
    digests = input_digests(inputs) if recipes_own is None else dict(recipes_own)
    of_stages = []
    for stage in inputs.plan.stages:
        of_stages.append(digests if own_task(stage) is None else _with_own_task(inputs, stage, digests))
    return of_stages


def _with_own_task(inputs: RunInputs, stage: PlannedStage, recipes_own: Mapping[str, Any]) -> dict[str, Any]:
    """Return digests with a stage's own task in place of the recipe's."""
    work = inputs.work_for(stage)
    digests = dict(recipes_own)
    digests["data"] = work.task.fingerprint
    digests["weights"] = net_digest(work.net)
    files = {name: digest for name, digest in recipes_own["files"].items() if not name.startswith("task")}
    digests["files"] = files | file_digests(inputs.declared_by_task(stage))
    return digests


def input_digests(inputs: RunInputs) -> dict[str, Any]:
    """Return digests of data, weights, tokenizer and teacher, and of the files that model, teacher and task declare."""
    work = inputs.work
    digests = {
        "data": work.task.fingerprint,
        "weights": net_digest(work.net),
        "tokenizer": tokenizer_digest(work.tokenizer),
        "files": declared_files(inputs),
    }
    # The model's own digest stands for a teacher that is the model.
    if inputs.teacher is not None and inputs.teacher is not inputs.model:
        digests["teacher"] = net_digest(inputs.teacher_net)
    return digests


def net_digest(net: nn.Module | None) -> str:
    """Return the digest of a network: its class, its configuration or description, and every tensor with its name."""
    import torch

    if net is None:  # the recipe's space needs none
        return ""
    config = getattr(net, "config", None)
    # A configuration says more than its family's description, such as the names of classes.
    options = families.describe(net) if config is None else config.to_dict()
    for key in ("_name_or_path", "transformers_version"):  # where it lies and who wrote it change no number
        options.pop(key, None)
    text = json.dumps([type(net).__name__, options], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    # Weights, not the checkpoint's file: the head is drawn, and another file may have the same weights.
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of a tokenizer; how it was last called does not matter."""
    if tokenizer is None:
        return ""
    # Tokenizers written in Python have no backend, and are compared by their vocabularies.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        facts = {"vocabulary": tokenizer.get_vocab()}
    else:
        facts = json.loads(backend.to_str())
    for key in ("truncation", "padding"):  # each call sets them
        facts.pop(key, None)
    facts["class"] = type(tokenizer).__name__
    facts["length"] = tokenizer.model_max_length
    facts["pad"] = tokenizer.pad_token_id
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
