"""Two samplers for nasframe: local search, and a search guided by a regression."""

from nasframe import hookimpl

PLUGIN_API = 2  # the version this was made for; nasframe does not load plugins for a later one


@hookimpl
def register_samplers(register):
    register("local_search", "nasframe_two_samplers.local_search:LocalSearch")
    register("predicted", "nasframe_two_samplers.predicted:Predicted")
