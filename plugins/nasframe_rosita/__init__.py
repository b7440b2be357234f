"""ROSITA (Liu, Lin, Yuan, AAAI 2021, arXiv 2103.11367): iterative pruning of depth and width between distillations."""

from nasframe import hookimpl

HERE = "nasframe_rosita"


@hookimpl
def register_modifiers(register):
    register("scheduled_prune", f"{HERE}.prune:ScheduledPrune", example=f"{HERE}.examples:Pruning")
