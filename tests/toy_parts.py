"""A one-file plugin: the toy task with a loss, measured part by part."""

from nasframe import hookimpl
from nasframe.measures import measures
from nasframe.testing.toy import PartialToyTask


@measures(lambda options, space=None: PartialToyTask.metrics)
def toy_parts(seed: int = 0, train: int = 512) -> PartialToyTask:
    return PartialToyTask(seed=seed % 1000, train=train)


@hookimpl
def register_tasks(register):
    register("toy_parts", toy_parts)
