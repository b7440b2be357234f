"""The nasframe estimator lookup, the evaluator snip and the observer leaderboard."""

from nasframe import hookimpl

PLUGIN_API = 2  # the version this was made for; nasframe does not load plugins for a later one


@hookimpl
def register_estimators(register):
    register("lookup", "nasframe_lookup.estimator:Lookup", example="nasframe_lookup.example:LookupContract")


@hookimpl
def register_evaluators(register):
    register("snip", "nasframe_lookup.score:Snip")


@hookimpl
def register_observers(register):
    register("leaderboard", "nasframe_lookup.observer:Leaderboard")
