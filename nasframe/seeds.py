"""Named random streams: the same (run seed, purpose, name) gives the same numbers, whatever else ran before.

Therefore arms of a study with the same seed share data order, initial weights and dropout noise, and a resumed run
needs no generator state for numbers that are drawn by name.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the run's seed and the names of a stream.

    >>> stream_seed(0, "data", "teacher") == stream_seed(0, "data", "teacher")
    True
    >>> stream_seed(0, "data") == stream_seed(1, "data")
    False
    """
    text = "\0".join(map(str, (seed, *names)))  # NUL is in no name, so that ("a", "b") and ("ab",) differ
    digest = hashlib.sha256(text.encode()).digest()  # not Python's hash, which differs between processes
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the numpy generator of a named stream.

    >>> int(generator(0, "sampler").integers(10)) == int(generator(0, "sampler").integers(10))
    True
    """
    import numpy as np

    return np.random.default_rng(stream_seed(seed, *names))


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Restore the global random generators after the block: Python's, and those of numpy and torch if they are loaded.

    >>> import random
    >>> before = random.getstate()
    >>> with unchanged_generators():
    ...     _ = random.random()
    >>> random.getstate() == before
    True
    """
    numpy = sys.modules.get("numpy")
    torch = sys.modules.get("torch")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    # Only of a GPU that is in use: to ask another one would start it.
    uses_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    gpu_states = torch.cuda.get_rng_state_all() if torch and uses_gpu else []
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if torch:
            torch.set_rng_state(torch_state)
        if torch and uses_gpu:
            torch.cuda.set_rng_state_all(gpu_states)
