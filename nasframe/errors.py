"""Errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations


class NasframeError(Exception):
    """Something a user can mend; its text says where, what is wrong and what was expected."""

    exit_code = 1


class RunError(NasframeError):
    """A run failed."""


class UsageError(NasframeError):
    """A command, an option or a value was used wrongly."""

    exit_code = 2


class UnsatisfiableError(NasframeError):
    """No architecture can meet a constraint."""

    exit_code = 3


class VerificationError(NasframeError):
    """A result is not what it claims to be."""

    exit_code = 4
