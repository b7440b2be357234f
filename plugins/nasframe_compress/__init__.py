"""Compress: from a model and a table of data to compared, exported networks, in one command.

The wing looks at model and data, writes the recipe or the study that it will run, runs it and says which network to
ship. It stands above studies and exports, and does nothing that a recipe could not.
"""

from nasframe import hookimpl


@hookimpl
def register_modifiers(register):
    register("stopwatch", "nasframe_compress.stopwatch:Stopwatch")


@hookimpl
def register_commands(app):
    from nasframe_compress.commands import compress, init

    app.command()(compress)
    app.command()(init)
