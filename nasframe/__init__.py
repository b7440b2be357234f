"""Neural architecture search and model compression with pluggable strategies."""

from nasframe.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["hookimpl"]
