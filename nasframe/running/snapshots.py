"""The work between stages, on disk: after every stage all that the next one needs is stored, and can be read back.

A network that several stages leave as it is lies in one file, which their snapshots name.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import families
from nasframe.interfaces import CURRENT, Origin
from nasframe.processes import device
from nasframe.store import SHARED_SAMPLER, load_state, save_state

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Work
    from nasframe.stages.session import Session


class Snapshots:
    """Stores and restores the work of a run.

    Args:
        session: what the run's stages share; the shared sampler's state is part of a snapshot.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store
        # Networks by the file they lie in, so that none is written or read twice.
        self.nets: dict[str, nn.Module] = {}

    def save(self, stage: str, work: Work) -> None:
        """Store what a stage left."""
        # The networks first: a snapshot that can be read has all its files.
        files = {}
        for name, net in {**work.models, CURRENT: work.net}.items():
            if net is not None:
                files[name] = self._save_net(net)
        origins = {}
        sources = {}  # the files of the super-networks that models were extracted from
        for name, origin in work.origins.items():
            arch = None if origin.arch is None else dict(origin.arch)
            origins[name] = {"use": dict(origin.use), "arch": arch}
            if origin.net is not None:
                sources[name] = self._save_net(origin.net)
        state: dict[str, Any] = {
            "archs": {name: dict(arch) for name, arch in work.archs.items()},
            "nets": files,
            "origins": origins,
            "sources": sources,
            "sampler": None,
            "vocabulary": None,
        }
        if self.session.sampler is not None:
            state["sampler"] = self.session.sampler.state_dict()
        if work.vocabulary is not None:
            state["vocabulary"] = list(work.vocabulary)
        save_state(self._path(stage), state)

    def load(self, stage: str) -> Work:
        """Return the work that a stage left, and restore the shared sampler's state."""
        start = self.session.inputs.work  # brings the task, the tokenizer and the space
        state = load_state(self._path(stage))
        if state["sampler"] is not None:
            net = start.net
            if net is not None and start.space is not None:  # costs are those of sub-networks of the super-network
                net = self.session.inputs.supernet(start.space, None, net)
            self.session.shared_sampler(replace(start, net=net)).load_state_dict(state["sampler"])
        nets: dict[str, Any] = {name: self._load_net(file) for name, file in state["nets"].items()}
        current = nets.pop(CURRENT, None)
        work = replace(start, net=current, archs=state["archs"], models=nets, origins=self._origins(state))
        if state["vocabulary"] is None:
            return work
        return self._with_vocabulary(work, state["vocabulary"])

    def keep_sampler(self, stage: str) -> None:
        """Keep the state in which the last stage left the shared sampler, because a deployment may ask it for more.

        It is read from the disk: if stages came from the cache, this process may never have made the sampler.
        """
        snapshot = self._path(stage)
        if not snapshot.is_file():  # the run was finished before, which kept the state and removed its snapshots
            return
        state = load_state(snapshot)["sampler"]
        if state is not None:
            save_state(self.store.directory / SHARED_SAMPLER, state)

    def drop_others(self, stage: str) -> None:
        """Delete the files that a stage's snapshot does not need, because only earlier stages did."""
        snapshot = self._path(stage)
        state = load_state(snapshot)
        needed_nets = {*state["nets"].values(), *state.get("sources", {}).values()}
        for path in snapshot.parent.glob("*.safetensors"):
            is_reference = path.name.startswith("expected-")  # exports, which may come later, are compared with it
            if path != snapshot and path.stem not in needed_nets and not is_reference:
                path.unlink()
        # Dropped from memory as well, or a long run would hold every network that it ever had.
        self.nets = {name: net for name, net in self.nets.items() if name in needed_nets}

    def _origins(self, state: Mapping[str, Any]) -> dict[str, Origin]:
        """Return where the networks of a snapshot come from; snapshots of earlier versions do not say it."""
        inputs = self.session.inputs
        start = inputs.work
        origins = {}
        for name, kept in state.get("origins", {}).items():
            source = state["sources"].get(name)
            net = None if source is None else self._load_net(source)
            space: Any = start.space
            if kept["use"] != self.session.plan.space:
                # A space that changes its network was made on the model's own, and any other on the network itself.
                made_on = start.net
                if net is not None and type(net) is type(start.net):
                    made_on = net
                space = inputs.space(made_on, kept["use"])
            origins[name] = Origin(space, kept["use"], net, kept["arch"])
        return origins

    def _path(self, stage: str) -> Path:
        return self.store.checkpoint(f"work-{stage}").path

    def _save_net(self, net: nn.Module) -> str:
        """Write a network unless it is on disk already, and return its file's name."""
        for name, known in self.nets.items():
            if known is net:  # stages never change a network in place, so the file still has its weights
                return name
        # Never the name of an older file: the last complete snapshot may still need that one.
        name = f"net-{uuid.uuid4().hex}"
        state = {"description": families.describe(net), "state": net.state_dict()}
        self.store.checkpoint(name).save(state)
        self.nets[name] = net
        return name

    def _load_net(self, name: str) -> nn.Module:
        """Return a network that :meth:`_save_net` wrote."""
        if name not in self.nets:
            state = load_state(self.store.checkpoint(name).path)
            description = state.get("description")
            if description is None:  # written by an earlier version
                description = {**state["blueprint"], "config": state["config"]}
            net = families.build(description, state["state"])
            self.nets[name] = net.to(device()).eval()
        return self.nets[name]

    def _with_vocabulary(self, work: Work, kept: Sequence[int]) -> Work:
        """Return work whose tokenizer and task have only the kept tokens, as its networks have already."""
        from nasframe.nn.vocabulary import shrunk_tokenizer

        inputs = self.session.inputs
        tokenizer = shrunk_tokenizer(inputs.tokenizer, kept)
        return replace(work, tokenizer=tokenizer, task=inputs.task_for(tokenizer), vocabulary=list(kept))
