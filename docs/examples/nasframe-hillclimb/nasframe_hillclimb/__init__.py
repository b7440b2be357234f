"""The nasframe sampler hillclimb."""

from nasframe import hookimpl

PLUGIN_API = 1  # the version this was made for; nasframe does not load plugins for another one


@hookimpl
def register_samplers(register):
    register("hillclimb", "nasframe_hillclimb.sampler:HillClimb")
