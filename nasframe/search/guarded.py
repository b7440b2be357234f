"""What the framework guarantees around every sampler, so that a plugin of ten lines is a whole sampler.

Architectures go to and from a sampler as copies, so that neither side can change what the other one keeps. It hears
only of architectures of its domain, with finite scores. ``UnsatisfiableError`` out of ``ask`` means that there is
nothing left, as an empty list does. And a sampler without ``state_dict`` has a state all the same: the calls that it
got. They are repeated on a new sampler, which brings it to where the old one was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import RunError, UnsatisfiableError
from nasframe.interfaces import keeps_state, start_sampler
from nasframe.records import Arch, Trial

if TYPE_CHECKING:
    from nasframe.interfaces import Sampler

Regions = Callable[[str], Sequence[Any]]
"""Stage → the parts of the domain that its asks are confined to, in the order in which they are first asked for."""

CALLS = "calls"
"""The entry of a state that holds calls to repeat, and no state of the sampler's own."""
WHOLE = -1
"""The number that stands for an ask that is not confined."""


class GuardedSampler:
    """A sampler with what the framework guarantees; its other attributes are the sampler's.

    Args:
        make: makes the sampler, always the same one.
        domain: the domain that it proposes from.
        regions: finds the parts of the domain again that a stage asked for. Needed to go on from the calls of an
            earlier process.

    >>> from nasframe.search.domain import Choices
    >>> class Nothing:
    ...     def ask(self, n=1, within=None): raise UnsatisfiableError("nothing fits")
    ...     def tell(self, trials): pass
    >>> GuardedSampler(Nothing, Choices({"k": [1, 2]})).ask()
    []
    """

    def __init__(self, make: Callable[[], Sampler], domain: Any, regions: Regions | None = None) -> None:
        self._make = make
        self._domain = domain
        self._regions = regions
        self._sampler: Any = make()
        self._forget()

    def __getattr__(self, name: str) -> Any:
        # Called for what is not defined here. Without this test a copy, which has no sampler yet, would end up here.
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    @property
    def has_state(self) -> bool:
        """Whether the sampler has a state of its own; otherwise its calls are its state."""
        return not self._notes_calls

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Tell the sampler that a stage begins, if it wants to know."""
        self._asked_for.clear()
        self._note("start", stage, total, origin)
        start_sampler(self._sampler, stage, total, origin)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return copies of the sampler's proposals; an empty list if nothing is left."""
        try:
            proposals = [copied(arch) for arch in self._sampler.ask(n, within=within)]
        except UnsatisfiableError:
            proposals = []
        if self._notes_calls:
            self._note("ask", n, self._number(within), _digest(proposals))
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        """Tell the sampler what became of architectures of its domain."""
        heard = []
        for trial in trials:
            if self._domain.contains(trial.arch):
                heard.append(_told(trial))
        if self._notes_calls:
            self._note("tell", [asdict(trial) for trial in heard])
        # Even if there is nothing to hear: samplers may count these calls.
        self._sampler.tell(heard)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, or the calls that it got if it has none."""
        if not self._notes_calls:
            return dict(self._sampler.state_dict())
        return {CALLS: list(self._calls)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            RunError: the calls cannot be repeated, or the sampler answers them in another way than it did.
        """
        if not self._notes_calls:
            self._sampler.load_state_dict(state)
            return
        self._sampler = self._make()
        self._forget()
        regions: Sequence[Any] = ()
        for method, *arguments in state[CALLS]:
            if method == "start":
                stage, total, origin = arguments
                regions = self._regions_of(stage)
                self.start(stage, total, origin)
            elif method == "ask":
                n, number, digest = arguments
                self._ask_again(n, self._region(regions, number), digest)
            else:
                self.tell([_trial(record) for record in arguments[0]])
        # What asks from now on has regions of its own, the same ones in the same order.
        self._asked_for.clear()

    # ---- calls

    def _forget(self) -> None:
        self._notes_calls = not keeps_state(self._sampler)
        self._calls: list[list[Any]] = []
        self._asked_for: list[Any] = []  # the regions of this stage, in the order in which they were first asked for

    def _note(self, method: str, *arguments: Any) -> None:
        if self._notes_calls:
            self._calls.append([method, *arguments])

    def _number(self, within: Any) -> int:
        """Return the number of a region in its stage."""
        if within is None:
            return WHOLE
        for number, region in enumerate(self._asked_for):
            if region is within:
                return number
        self._asked_for.append(within)
        return len(self._asked_for) - 1

    def _regions_of(self, stage: str) -> Sequence[Any]:
        return () if self._regions is None else self._regions(stage)

    def _region(self, regions: Sequence[Any], number: int) -> Any:
        """Return the region of a number."""
        if number == WHOLE:
            return None
        if number < len(regions):
            return regions[number]
        if self._regions is None:
            return self._domain  # outside of a run there are no stages
        raise RunError(f"{self._fault} it was asked for a part of the domain that is not known any more. {EXPECTED}")

    def _ask_again(self, n: int, within: Any, digest: str) -> None:
        if _digest(self.ask(n, within)) != digest:
            raise RunError(f"{self._fault} its proposals differ. It or what it was told has changed. {EXPECTED}")

    @property
    def _fault(self) -> str:
        name = type(self._sampler).__name__
        return f"cannot go on: sampler {name} has no state_dict, and when its calls were repeated,"


EXPECTED = "Expected a sampler with state_dict and load_state_dict, or a new run."


def copied(value: Any) -> Any:
    """Copy a JSON-plain value.

    >>> arch = {"nodes": [{"op": "conv"}]}
    >>> copied(arch) == arch, copied(arch)["nodes"] is arch["nodes"]
    (True, False)
    """
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


def _told(trial: Trial) -> Trial:
    """Return a trial as a sampler hears it: with an architecture of its own, and failed if a number is not finite."""
    own = replace(trial, arch=copied(trial.arch))
    numbers = [number for number in (trial.score, *trial.objectives) if number is not None]
    if all(map(math.isfinite, numbers)):
        return own
    return replace(own, state="failed", score=None, objectives=())


def _trial(record: Mapping[str, Any]) -> Trial:
    """Return a trial that was noted."""
    values = {**record, "objectives": tuple(record["objectives"])}  # JSON has no tuples
    return Trial(**values)


def _digest(archs: Sequence[Arch]) -> str:
    text = json.dumps(archs, sort_keys=True, default=repr)  # whether they are plain is checked elsewhere
    return hashlib.sha256(text.encode()).hexdigest()[:16]
