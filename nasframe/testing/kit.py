"""What every contract shares: a class whose ``test_`` methods each check one promise, with or without pytest.

Subclass the contract of your plugin's kind in a test module and define how to make the plugin; pytest then runs the
checks. The command ``nasframe plugins check`` runs the same checks on registered plugins. Nothing here needs pytest.
"""

from __future__ import annotations

import functools
import json
import random
import signal
import socket
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
from nasframe.seeds import unchanged_generators

Method = Callable[..., None]
KIT_FOLDER = str(Path(__file__).parent)


class ContractError(AssertionError):
    """A promise that a plugin breaks; the message tells its author what to do."""


def require(condition: Any, message: str) -> None:
    """Fail a check with a message if a condition is false; unlike ``assert``, this also works under ``python -O``.

    Raises:
        ContractError: the condition is false.
    """
    if not condition:
        raise ContractError(message)


class DoesNotApply(Exception):
    """Raised inside a check that does not concern this plugin; the check then passes."""


class Contract:
    """The promises of one kind of plugin. Set ``use``, or override ``make``.

    Attributes:
        kind: the kind of plugin.
        use: the plugin as a recipe writes it, ``"name"`` or ``{"use": "name", "option": 1}``. It is then made through
            the registry as in a run: options are checked and arguments injected.
        seconds: how long one check may take before it is stopped.
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
        name, use_options = registry.use_of(self.use)
        contract: Any = type(self)
        use = {"use": name, **prepared(contract), **use_options}
        return registry.make(self.kind, use, inject=inject)

    @classmethod
    def checks(cls) -> list[str]:
        """Return the names of the checks in the order of their definition, the base class's first."""
        names: dict[str, None] = {}  # a dict and not a set: an overridden check keeps its place
        for base in reversed(cls.__mro__):
            for name in vars(base):
                if name.startswith("test_"):
                    names[name] = None
        return list(names)


def check(method: Method) -> Method:
    """Mark a method of a contract as a check that must end in time."""

    @functools.wraps(method)
    def limited(self: Contract, *args: Any, **kwargs: Any) -> None:
        with time_limit(self.seconds), suppress(DoesNotApply):
            method(self, *args, **kwargs)

    return limited


@functools.cache
def prepared(contract: Any) -> dict[str, Any]:
    """Return what a contract's ``options`` returns; it is called once, with a folder that lasts until the process ends.

    To write the files again for each check would be slow: some contracts save a language model.
    """
    folder = tempfile.TemporaryDirectory(prefix="nasframe-check-")
    _FOLDERS.append(folder)  # a temporary directory is deleted with its object
    return dict(contract().options(Path(folder.name)))


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop a block that takes too long, if the platform can interrupt it (in the main thread, not on Windows).

    An endless loop and a slow plugin need different advice. So the calls under way are noted after half of the time:
    if one of them is still running at the end, it hangs; if all of them have returned, the check is too slow.

    Raises:
        ContractError: the time is over; the message names the line that was running.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not is_main_thread:
        yield
        return
    calls_at_half: list[FrameType] = []
    is_past_half = False

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal is_past_half
        calls = _calls_of_plugin(frame)
        if not is_past_half:
            is_past_half = True
            calls_at_half.extend(calls)
            return
        place = _place(frame)
        if any(call in calls_at_half for call in calls):
            raise ContractError(
                f"still running after {seconds:g} s, at {place}. Make every loop end, for example by counting its "
                "attempts"
            )
        raise ContractError(
            f"too slow: not finished after {seconds:g} s, at {place}, although each call returned; do less work in a "
            "call"
        )

    previous_handler = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds / 2, seconds / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
        calls_at_half.clear()  # frames keep all their local variables alive, networks among them


def _calls_of_plugin(frame: FrameType | None) -> list[FrameType]:
    """Return the calls under way that a check has made, without the kit's own."""
    calls = []
    while frame is not None and frame.f_code.co_name != "limited":  # the wrapper that `check` puts around a check
        if not frame.f_code.co_filename.startswith(KIT_FOLDER):
            calls.append(frame)
        frame = frame.f_back
    return calls


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "its end"
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_name}"


@dataclass(frozen=True)
class Outcome:
    """The result of one check.

    Args:
        check: its name in words.
        passed: whether the plugin keeps the promise.
        seconds: how long the check took.
        message: what is wrong and what to do about it; empty if the check passed.
    """

    check: str
    passed: bool
    seconds: float
    message: str = ""


def run_checks(contract: type[Contract]) -> Iterator[Outcome]:
    """Run every check of a contract on a new instance each, without pytest.

    >>> class Even(Contract):
    ...     def test_two_is_even(self):
    ...         require(2 % 2 == 0, "make two even")
    >>> [(outcome.check, outcome.passed) for outcome in run_checks(Even)]
    [('two is even', True)]
    """
    for name in contract.checks():
        # A new instance for each check in `_failure`, so that checks cannot depend on each other, as in pytest.
        start = time.monotonic()
        message = _failure(contract, name)
        seconds = time.monotonic() - start
        words = name.removeprefix("test_").replace("_", " ")
        yield Outcome(words, not message, seconds, message)


def _failure(contract: type[Contract], name: str) -> str:
    """Run one check; return the message of its failure, empty if it passed."""
    try:
        getattr(contract(), name)()
    except (ContractError, UsageError) as error:
        return str(error)
    except (Exception, SystemExit) as error:  # a plugin that exits must not end the other checks
        return described_error(error)
    return ""


def described_error(error: BaseException) -> str:
    """Return what was raised and where: at the last line outside of the kit, or at the last line if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    frames_outside = [frame for frame in frames if not frame.filename.startswith(KIT_FOLDER)]
    text = f"raised {type(error).__name__}: {error}"
    for frame in reversed(frames_outside or frames):
        return f"{text} at {frame.filename}:{frame.lineno}"
    return text


def global_states() -> list[Any]:
    """Return the states of the global random generators: Python's, numpy's, and torch's if torch is loaded."""
    import numpy as np

    numpy_state = [str(part) for part in np.random.get_state()]
    states: list[Any] = [random.getstate(), numpy_state]
    torch = sys.modules.get("torch")  # samplers are checked without importing torch
    if torch:
        states.append(torch.get_rng_state().tolist())
    return states


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global random generators inside a block, and restore their states after it."""
    import numpy as np

    torch = sys.modules.get("torch")
    with unchanged_generators():
        random.seed(seed)
        np.random.seed(seed)
        if torch:
            torch.manual_seed(seed)
        yield


def require_no_global_randomness(make: Callable[[], Any], same: Callable[[Any, Any], bool], source: str) -> None:
    """Require that a result does not depend on the global random generators, and that they are not changed.

    Args:
        make: returns the result.
        same: compares two results.
        source: what a plugin should draw from instead.
    """
    results = []
    for seed in (1, 2):  # two seeds: with one, a result that follows the global generator would look the same
        with seeded_globals(seed):
            before = global_states()
            results.append(make())
            require(global_states() == before, f"a global random generator was changed; draw from {source} instead")
    require(same(*results), f"the result depends on a global random generator; draw from {source} instead")


@contextmanager
def no_internet() -> Iterator[list[Any]]:
    """Refuse connections to other machines inside a block; yield the list of addresses that were tried."""
    addresses: list[Any] = []
    connect = socket.socket.connect

    def refuse(self: Any, address: Any) -> None:
        if self.family == getattr(socket, "AF_UNIX", None):  # stays on this machine
            return connect(self, address)
        # Noted as well as refused: a library may catch the error and try another way.
        addresses.append(address)
        raise OSError(f"connections are refused during this check: {address}")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    try:
        yield addresses
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


def stored(state: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Write a state to disk as a run does, and read it again.

    Raises:
        ContractError: the state holds something that cannot be stored without a pickle.
    """
    from nasframe.store import load_state, save_state

    # Runs store no pickles, since reading one can execute code.
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
    """Tell whether a value comes back from JSON as it was: no tuples, no numpy numbers, only text as keys."""
    try:
        copied = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return False
    # Equality alone is too weak: numpy.float64(1.0) == 1.0, and True == 1.
    return bool(copied == value) and _has_plain_types(value)


def _has_plain_types(value: Any) -> bool:
    if isinstance(value, Mapping):
        has_text_keys = all(isinstance(key, str) for key in value)
        return has_text_keys and all(_has_plain_types(item) for item in value.values())
    if isinstance(value, list):
        return all(_has_plain_types(item) for item in value)
    return type(value) in (str, int, float, bool, type(None))
