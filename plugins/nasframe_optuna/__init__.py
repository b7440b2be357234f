"""Optuna both ways: its samplers in nasframe's searches, and nasframe's samplers in Optuna's studies."""

from typing import Any

from nasframe import hookimpl


@hookimpl
def register_samplers(register):
    register("optuna", "nasframe_optuna.sampler:OptunaSampler", example="nasframe_optuna.examples:Optuna")


def __getattr__(name: str) -> Any:
    if name == "NasframeSampler":  # imports Optuna, which is an extra
        from nasframe_optuna.own import NasframeSampler

        return NasframeSampler
    raise AttributeError(name)
