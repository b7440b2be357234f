"""Networks of freely connected operations: a graph domain, its space, a sampler, and digits to try them on."""

from nasframe import hookimpl

PLUGIN_API = 2  # the version this was made for; nasframe does not load plugins for a later one


@hookimpl
def register_spaces(register):
    register("graphs", "nasframe_graphs.space:GraphSpace", example="nasframe_graphs.example:Space")


@hookimpl
def register_samplers(register):
    register("foresight", "nasframe_graphs.sampler:Foresight")


@hookimpl
def register_models(register):
    register("digit_stem", "nasframe_graphs.digits:DigitModel")


@hookimpl
def register_tasks(register):
    register("digits", "nasframe_graphs.digits:Digits")
