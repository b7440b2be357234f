"""Deploy and export: models of finished runs and studies, for other bounds or other programs, without training."""

from nasframe import hookimpl


@hookimpl
def register_commands(app):
    from nasframe_deploy.commands import deploy, export

    app.command()(deploy)
    app.command()(export)
