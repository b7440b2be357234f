"""The nasframe sampler hillclimb."""

from nasframe import hookimpl

PLUGIN_API = 1  # what this was made for; nasframe says so where it is another


@hookimpl
def register_samplers(register):
    register("hillclimb", "nasframe_hillclimb.sampler:HillClimb")
