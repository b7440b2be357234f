"""What every contract shares: a class whose ``test_`` methods each check one promise, with or without pytest.

Subclass the contract of your plugin's kind in a test, say how to make the plugin, and pytest runs the checks. The
command ``nasframe plugins check`` runs the same ones on what is registered. Nothing here needs pytest.
"""

from __future__ import annotations

import functools
import json
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from nasframe.errors import UsageError

Method = Callable[..., None]
OWN = str(Path(__file__).parent)


class ContractError(AssertionError):
    """A promise that a plugin breaks; the text says what its author can do."""


def require(condition: Any, message: str) -> None:
    """Fail a check with a message; unlike ``assert``, under ``python -O`` too.

    Raises:
        ContractError: if the condition is false.
    """
    if not condition:
        raise ContractError(message)


class NotThere(Exception):
    """What a check is about is not there, so that the promise is kept."""


class Contract:
    """The promises of one kind of plugin. Set ``use``, or override ``make``.

    Attributes:
        kind: the kind of plugin.
        use: the plugin as a recipe writes it, ``"name"`` or ``{"use": "name", "option": 1}``; it is then made through
            the registry, options checked and arguments injected as in a run.
        seconds: how long one check may take before it counts as hanging.
    """

    kind: ClassVar[str] = ""
    use: Any = None
    seconds: float = 60.0

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Return further options; files that the plugin reads can be written to ``folder`` first."""
        return {}

    def registered(self, **inject: Any) -> Any:
        """Make the plugin named in ``use`` as a run makes it."""
        from nasframe import registry

        if self.use is None:
            name = type(self).__name__
            raise NotImplementedError(
                f"{name}: set 'use' to the plugin's name, or override 'make' to return the plugin"
            )
        name, given = registry.use_of(self.use)
        contract: Any = type(self)
        return registry.make(self.kind, {"use": name, **prepared(contract), **given}, inject=inject)

    @classmethod
    def checks(cls) -> list[str]:
        """Name the checks, in the order they are defined, the base class's first."""
        found = {name: 0 for base in reversed(cls.__mro__) for name in vars(base) if name.startswith("test_")}
        return list(found)


def check(method: Method) -> Method:
    """Mark a method of a contract as a check that must end in time."""

    @functools.wraps(method)
    def limited(self: Contract, *args: Any, **kwargs: Any) -> None:
        with time_limit(self.seconds), suppress(NotThere):
            method(self, *args, **kwargs)

    return limited


@functools.cache
def prepared(contract: Any) -> dict[str, Any]:
    """Return what a contract's ``options`` gives, once, in a folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="nasframe-check-")
    _FOLDERS.append(folder)
    return dict(contract().options(Path(folder.name)))


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what takes longer, where the platform can interrupt (the main thread, not on Windows).

    Calls that run are noted after half of the time. If one of them still runs at the end, it hangs; if all came back,
    they take too long for a check.

    Raises:
        ContractError: naming where it was stopped, and whether it hangs or is slow.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    halfway: list[FrameType] = []

    def stop(number: int, frame: FrameType | None) -> None:
        running = _calls_of_plugin(frame)
        if not halfway:
            halfway.extend(running or [sys._getframe()])
            return
        at = (
            f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}, in {frame.f_code.co_name}" if frame else "its end"
        )
        if any(call in halfway for call in running):
            raise ContractError(f"still running after {seconds:g} s, at {at}. End every loop: count the attempts")
        raise ContractError(
            f"too slow: not done after {seconds:g} s, at {at}, although every call came back; do less work in a call"
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds / 2, seconds / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        halfway.clear()


def _calls_of_plugin(frame: FrameType | None) -> list[FrameType]:
    """List the calls under way that a check of this package has made, without those of this package."""
    calls = []
    while frame is not None and frame.f_code.co_name != "limited":
        if not frame.f_code.co_filename.startswith(OWN):
            calls.append(frame)
        frame = frame.f_back
    return calls


@dataclass(frozen=True)
class Outcome:
    """How one check went.

    Args:
        check: its name in words.
        passed: whether the promise is kept.
        seconds: what it took.
        message: what is wrong and what to do about it; empty where nothing is.
    """

    check: str
    passed: bool
    seconds: float
    message: str = ""


def run_checks(contract: type[Contract]) -> Iterator[Outcome]:
    """Run every check of a contract on a fresh instance, without pytest.

    >>> class Even(Contract):
    ...     def test_two_is_even(self):
    ...         require(2 % 2 == 0, "make two even")
    >>> [(outcome.check, outcome.passed) for outcome in run_checks(Even)]
    [('two is even', True)]
    """
    for name in contract.checks():
        began, message = time.monotonic(), ""
        try:
            getattr(contract(), name)()
        except (ContractError, UsageError) as error:
            message = str(error)
        except (Exception, SystemExit) as error:
            message = raised(error)
        words = name.removeprefix("test_").replace("_", " ")
        yield Outcome(words, not message, time.monotonic() - began, message)


def raised(error: BaseException) -> str:
    """Say what was raised and where: the last line outside of nasframe's own, else the last line."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(OWN)] or frames
    at = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    return f"raised {type(error).__name__}: {error}{at}"


def global_states() -> list[Any]:
    """Return the states of the global random generators: Python's, numpy's, and torch's where it is loaded."""
    import numpy as np

    found: list[Any] = [random.getstate(), [str(part) for part in np.random.get_state()]]
    if torch := sys.modules.get("torch"):
        found.append(torch.get_rng_state().tolist())
    return found


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global random generators for a while, and put them back as they were."""
    import numpy as np

    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    try:
        random.seed(seed)
        np.random.seed(seed)
        if torch:
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.set_rng_state(before[2])


def require_no_global_randomness(make: Callable[[], Any], same: Callable[[Any, Any], bool], own: str) -> None:
    """Require that something gives the same whatever the global generators hold, and does not change them.

    Args:
        make: does the thing and returns what comes out.
        same: compares two results.
        own: what to draw from instead.
    """
    results = []
    for seed in (1, 2):
        with seeded_globals(seed):
            before = global_states()
            results.append(make())
            require(global_states() == before, f"a global random generator was changed; draw from {own} instead")
    require(same(*results), f"the result depends on a global random generator; draw from {own} instead")


def stored(state: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Write a state to disk as a run does, and read it again.

    Raises:
        ContractError: it holds something that cannot be stored without a pickle.
    """
    from nasframe.store import load_state, save_state

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        try:
            save_state(path, state)
        except (TypeError, AttributeError) as error:
            raise ContractError(
                f"the state of {what} cannot be stored without a pickle ({error}); put only numbers, text, lists, "
                "mappings, tensors and numpy arrays into state_dict"
            ) from error
        return load_state(path)


def is_plain(value: Any) -> bool:
    """Tell whether a value is what JSON makes of it: no tuples, no numpy numbers, text as keys."""
    try:
        return bool(json.loads(json.dumps(value)) == value) and _same_types(value)
    except (TypeError, ValueError):
        return False


def _same_types(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _same_types(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_same_types, value))
    return type(value) in (str, int, float, bool, type(None))
