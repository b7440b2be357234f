"""Named random streams: the same (run seed, purpose, name) gives the same numbers, whatever else ran before.

Therefore arms of a study with the same seed share data order, initial weights and dropout noise, and a resumed run
needs no generator state for numbers that are drawn by name.
"""

from __future__ import annotations

import hashlib
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
