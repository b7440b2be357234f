"""A surrogate-assisted evolutionary sampler: children of the front, chosen by expected improvement and exact cost."""

from nasframe import hookimpl


@hookimpl
def register_samplers(register):
    register("frontier", "nasframe_frontier.sampler:FrontierSampler")
