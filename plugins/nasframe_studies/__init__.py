"""Studies: arms, tasks and seeds of recipes, run to one table, and compared with statistics."""

from nasframe import hookimpl


@hookimpl
def register_commands(app):
    from nasframe_studies.commands.ablate import ablate
    from nasframe_studies.commands.compare import compare

    app.command()(ablate)
    app.command()(compare)


@hookimpl
def check_file(source, overrides):
    from nasframe_studies.commands.check import check_study

    return check_study(source, overrides)


@hookimpl
def file_kind(source):
    from nasframe.records import FileKind
    from nasframe_studies.check import is_study

    return FileKind("a study", "ablate") if is_study(source) else None
