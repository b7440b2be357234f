"""Teachers' hidden states, kept by example for a whole stage, so that each example is run only once.

Hidden states are thousands of times larger than logits, so only those of real tokens are kept, in a format of the
user's choice, and those above a limit on a file. A checkpoint holds the batches instead: a resume runs them once more.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from nasframe.errors import RunError
from nasframe.nn.positions import real_tokens
from nasframe.records import Arch, Batch
from nasframe.storage import writing

MEMORY_LIMIT = 2**30
"""Bytes that a stage's states may take in memory; further ones go to a temporary file."""
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TeacherBatch:
    """One batch that a teacher was run on: all that it takes to run it again.

    Args:
        key: the teacher, with its architecture, as states are filed.
        teacher: the teacher's name.
        arch: its sub-network; ``None`` is the whole one.
        batch: the examples, padded as they were then.
    """

    key: str
    teacher: str
    arch: Arch | None
    batch: Batch


@dataclass(frozen=True)
class _OnFile:
    """The place of an example's states on the file.

    Args:
        offset: the first byte.
        shape: ``(tokens, states, width)``.
    """

    offset: int
    shape: tuple[int, ...]


class TeacherStates:
    """The hidden states of a stage's teachers, by example, without padding.

    Args:
        format: how each number is kept: ``fp32``, ``bf16`` or ``fp16``.
        folder: where the temporary file lies if one is needed; default: the system's folder for such files.

    >>> states = TeacherStates("fp16")
    >>> batch = Batch({"input_ids": torch.tensor([[5, 6], [7, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])},
    ...               torch.zeros(2), torch.tensor([8, 9]))
    >>> states.keep(TeacherBatch("teacher", "teacher", None, batch), [torch.ones(2, 2, 4)] * 3)
    >>> [tuple(state.shape) for state in states.of("teacher", batch)], states.bytes
    ([(2, 2, 4), (2, 2, 4), (2, 2, 4)], 72)
    """

    def __init__(self, format: str, folder: Path | None = None) -> None:
        self.format = format
        self.dtype = FORMATS[format]
        self.folder = folder
        self.bytes = 0
        self.batches: list[TeacherBatch] = []
        self._states: dict[str, dict[int, torch.Tensor | _OnFile]] = {}  # teacher → example → states
        self._file: IO[bytes] | None = None

    def keep(self, run: TeacherBatch, hidden_states: Sequence[torch.Tensor]) -> None:
        """Keep a batch's hidden states, each ``(batch, length, width)``, the embeddings' output first.

        Raises:
            RunError: they are too large for the format, or the disk is full.
        """
        is_real = real_tokens(run.batch)
        tokens = torch.stack([state[is_real] for state in hidden_states], dim=1)  # (tokens, states, width)
        kept = tokens.to(self.dtype).cpu()
        if not torch.isfinite(kept).all() and torch.isfinite(tokens).all():
            raise RunError(
                f"teacher {run.teacher!r}: a hidden state is too large for {self.format}. "
                "Expected teacher_states: bf16."
            )
        lengths = is_real.sum(1).tolist()
        by_example: Sequence[torch.Tensor | _OnFile] = kept.split(lengths)
        size = kept.numel() * kept.element_size()
        if self.bytes + size > MEMORY_LIMIT:
            by_example = self._written(kept, lengths)
        self.bytes += size
        states = self._states.setdefault(run.key, {})
        states.update(zip(run.batch.ids.tolist(), by_example, strict=True))
        self.batches.append(TeacherBatch(run.key, run.teacher, run.arch, run.batch.to("cpu")))

    def of(self, key: str, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return the hidden states of a batch whose examples were all kept, in float32 and 0 at padding."""
        is_real = real_tokens(batch)
        examples = [self._read(self._states[key][number]) for number in batch.ids.tolist()]
        tokens = torch.cat(examples).to(is_real.device).float()
        states = []
        for position in range(tokens.shape[1]):
            state = tokens.new_zeros(*is_real.shape, tokens.shape[2])
            state[is_real] = tokens[:, position]  # both in the order of examples, then tokens
            states.append(state)
        return tuple(states)

    def state_dict(self) -> dict[str, Any]:
        """Return the batches that were run; their states would make each checkpoint too large."""
        rows = []
        for run in self.batches:
            arch = None if run.arch is None else dict(run.arch)
            inputs = dict(run.batch.inputs)
            row = {"key": run.key, "teacher": run.teacher, "arch": arch, "inputs": inputs}
            rows.append({**row, "labels": run.batch.labels, "ids": run.batch.ids})
        return {"batches": rows}

    def load_state_dict(
        self, state: Mapping[str, Any], hidden_states: Callable[[TeacherBatch], Sequence[torch.Tensor]]
    ) -> None:
        """Compute the states again, with ``hidden_states``, from the same batches: other padding changes last bits."""
        self.bytes = 0
        self.batches = []
        self._states = {}
        for row in state["batches"]:
            batch = Batch(row["inputs"], row["labels"], row["ids"])
            run = TeacherBatch(row["key"], row["teacher"], row["arch"], batch)
            self.keep(run, hidden_states(run))

    def _written(self, kept: torch.Tensor, lengths: Sequence[int]) -> list[_OnFile]:
        """Append states to the file, and return the place of each example's."""
        if self._file is None:  # it has no name, so that nothing is left behind however the process ends
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (open as long as the stage)
            weakref.finalize(self, self._file.close)
        with writing(self.folder or Path(tempfile.gettempdir())):
            offset = self._file.seek(0, 2)
            self._file.write(kept.view(torch.uint8).numpy().data)
            self._file.flush()
        places = []
        for length in lengths:
            shape = (length, *kept.shape[1:])
            places.append(_OnFile(offset, shape))
            offset += length * kept[0].numel() * kept.element_size()
        return places

    def _read(self, place: torch.Tensor | _OnFile) -> torch.Tensor:
        if isinstance(place, torch.Tensor):
            return place
        assert self._file is not None
        self._file.seek(place.offset)
        values = torch.Size(place.shape).numel()
        content = bytearray(self._file.read(values * self.dtype.itemsize))
        return torch.frombuffer(content, dtype=self.dtype).view(place.shape)
