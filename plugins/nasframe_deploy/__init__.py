"""Deploy: further networks from a finished run, for other bounds, without training."""

from nasframe import hookimpl


@hookimpl
def register_commands(app):
    from nasframe_deploy.commands import deploy

    app.command()(deploy)
