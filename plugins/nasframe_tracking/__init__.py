"""Trackers of experiments as observers, through the interface that Accelerate has for all of them."""

from nasframe import hookimpl

HERE = "nasframe_tracking"


@hookimpl
def register_observers(register):
    register("tensorboard", f"{HERE}.trackers:tensorboard")
