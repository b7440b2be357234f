"""The nasframe sampler hillclimb."""

from nasframe import hookimpl

PLUGIN_API = 2  # the version this was made for; nasframe does not load plugins for a later one


@hookimpl
def register_samplers(register):
    register("hillclimb", "nasframe_hillclimb.sampler:HillClimb")
