"""Opens any model of a run as a network again, from what the run's directory or its cache has; nothing is trained.

A model is looked for in this order: in its own folder, if it was saved or exported there in a form that can be read
back; in the states of a run that is not finished; in the cache, which keeps the networks that each stage left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError, UsageError, in_shell, listing, suggestion
from nasframe.folders import model_folder
from nasframe.records import Arch
from nasframe.running.cache import Cache
from nasframe.running.cache_keys import digest
from nasframe.running.reopen import kept_plan
from nasframe.store import RunStore, load_state

if TYPE_CHECKING:
    from types import TracebackType

    from torch import nn

    from nasframe.plan import Plan
    from nasframe.stages.inputs import RunInputs

READABLE = ("stock", "hetero")
"""Exporters whose directories hold the network itself."""
KEEPING = ("evaluate", "export", "search", "extract")
"""Verbs that leave the models of earlier stages as they are."""

StateReader = Callable[[str], dict[str, Any]]
"""Takes the name of a file among a run's states, and returns its content."""


@dataclass(frozen=True)
class KeptModel:
    """A model of a run as a network.

    Args:
        name: its name.
        net: the network, in eval mode on the CPU.
        tokenizer: its tokenizer; ``None`` if the run has none.
        arch: the architecture that it was extracted at; ``None`` for a whole network.
        expected: inputs and outputs that an export must reproduce, if the run or its cache has them.
        source: where it was found: ``files``, ``states`` or ``cache``.
    """

    name: str
    net: nn.Module
    tokenizer: Any
    arch: Arch | None
    expected: Mapping[str, Any] | None
    source: str


class KeptModels:
    """The models of one run; use it in a ``with`` statement, inside of which the recipe's own plugins are known.

    Args:
        directory: the run directory. Nothing in it is changed.

    Attributes:
        rows: name → the model's row in the run's database.

    Raises:
        UsageError: no run lies there, or its recipe was changed.
        RunError: its database is damaged.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.store = RunStore(self.directory, shared=True)
        try:
            self.store.check()
            self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in self.store.rows("model")}
            self.plan: Plan = kept_plan(self.store)
        except BaseException:
            self.store.close()
            raise
        self._scope = ExitStack()

    def __enter__(self) -> KeptModels:
        self._scope.enter_context(self.plan.file_plugins())
        self.inputs.load_plugins()  # a network of a plugin's own is known once its module is imported
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.close()
        self.store.close()

    @cached_property
    def inputs(self) -> RunInputs:
        """What the recipe names; each part is loaded when it is first asked for."""
        from nasframe.stages.inputs import RunInputs

        return RunInputs(self.plan)

    def load(self, name: str) -> KeptModel:
        """Open a model.

        Args:
            name: the model's name.

        Raises:
            UsageError: the run has no such model, or did not keep it; says what to do.
            RunError: the model's files are damaged.
        """
        if name not in self.rows:
            known = listing(self.rows)
            raise UsageError(f"{self.directory}: no model {name!r}. Models: {known}.{suggestion(name, self.rows)}")
        model = self._from_files(name) or self._from_states(name)
        if model is None:
            raise UsageError(f"{self.directory}: model {name!r} was not kept. {self._advice(name)}")
        return model

    def _from_files(self, name: str) -> KeptModel | None:
        """Open a model from its own folder; ``None`` if it was not written, or in a form that is for others alone."""
        from nasframe.export.files import read_net

        folder = model_folder(self.directory, name)
        if self.rows[name]["path"] is None or not (folder / "arch.json").is_file():
            return None
        if not _is_readable(folder):
            return None
        self.store.check_files(name)
        net = read_net(folder).eval()
        return KeptModel(name, net, self._tokenizer(folder), self.rows[name]["arch"], None, "files")

    def _from_states(self, name: str) -> KeptModel | None:
        """Open a model from the run's states, or from the cache's."""
        from nasframe import families

        for source, stage, read in self._states():
            state = read(f"work-{stage}")
            if name not in state["nets"]:
                continue
            content = read(state["nets"][name])
            description = content.get("description")
            if description is None:  # written by an earlier version
                description = {**content["blueprint"], "config": content["config"]}
            net = families.build(description, content["state"]).eval()
            try:
                expected = read(f"expected-{name}")
            except (KeyError, RunError):  # it was never extracted, but trained under its name
                expected = None
            tokenizer = self._tokenizer(None, state["vocabulary"])
            return KeptModel(name, net, tokenizer, self.rows[name]["arch"], expected, source)
        return None

    def _states(self) -> Iterator[tuple[str, str, StateReader]]:
        """Yield what the last stages left: the source, the stage, and a function that reads files of it.

        A stage that may change models of earlier ones is the last that is looked at.
        """
        states = self.store.stage_states()
        done = [stage for stage in self.plan.stages if states.get(stage.name) == "done"]
        for stage in reversed(done):
            if self.store.checkpoint(f"work-{stage.name}").path.is_file():
                yield "states", stage.name, self._read_own
            else:
                files = self._cached_files(stage.name)
                if files is not None:
                    yield "cache", stage.name, _reader_of(files)
            if stage.verb not in KEEPING:
                return

    def _read_own(self, name: str) -> dict[str, Any]:
        return load_state(self.store.checkpoint(name).path)

    def _cached_files(self, stage: str) -> dict[str, Path] | None:
        """Return the files that a stage left in the cache, by their paths in a run directory."""
        folder = self.store.get("cache")
        parts = self.store.get(f"key {stage}")
        if folder is None or parts is None:
            return None
        cache = Cache(Path(folder))
        entry = cache.read(digest(parts))
        if entry is None:
            return None
        return {path: cache.blob(content) for path, content in entry.files.items()}

    def _tokenizer(self, folder: Path | None, vocabulary: Any = None) -> Any:
        """Return a model's tokenizer: that in its folder, else that of another model of the run, else the recipe's."""
        from nasframe.nn.vocabulary import shrunk_tokenizer

        # All models of a run have one vocabulary: a transform that shrinks it writes the saved ones again.
        folders = [folder] if folder is not None else []
        folders += [model_folder(self.directory, name) for name, row in self.rows.items() if row["path"]]
        for place in folders:
            if (place / "tokenizer_config.json").is_file():
                return _read_tokenizer(place)
        tokenizer = self.inputs.tokenizer
        if vocabulary is None or tokenizer is None:
            return tokenizer
        return shrunk_tokenizer(tokenizer, vocabulary)

    def _advice(self, name: str) -> str:
        """Say how a model that was not kept can be had."""
        if not self.store.get("finished"):
            return f"The run is not finished: go on with it first: nasframe run --resume {in_shell(self.directory)}"
        again = f"nasframe run {in_shell(self.directory / 'recipe.yaml')} --out NEW"
        folder = model_folder(self.directory, name)
        if (folder / "export_report.json").is_file():
            return f"Its folder {folder} is in a form for other programs alone. Run the recipe again: {again}"
        return (
            f"It lies neither in {folder} nor in a cache ({self.store.get('cache') or 'the run had none'}). Run the"
            f" recipe again, which keeps its models: {again}"
        )


def _is_readable(folder: Path) -> bool:
    """Tell whether a model's folder holds the network itself: it was saved by a stage, or exported with its sizes."""
    path = folder / "export_report.json"
    if not path.is_file():
        return True
    return json.loads(path.read_text(encoding="utf-8")).get("mode") in READABLE


def _reader_of(files: Mapping[str, Path]) -> StateReader:
    """Return a function that reads states among the files of an entry of the cache."""

    def read(name: str) -> dict[str, Any]:
        return load_state(files[f"checkpoints/{name}.safetensors"])

    return read


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    import nasframe.hf  # noqa: F401  (transformers would ask whether to run the export's own code)

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
