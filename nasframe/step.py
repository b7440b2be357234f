"""One optimiser step: the import path that documents name."""

from nasframe.training.step import Ledger, Passes, Step, saved_model

__all__ = [
    "Ledger",
    "Passes",
    "Step",
    "saved_model",
]
