"""Named random streams: the import path that documents name."""

from nasframe.seeds import generator, stream_seed

__all__ = [
    "generator",
    "stream_seed",
]
