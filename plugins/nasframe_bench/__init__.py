"""Sampler benchmarks: searches in tables of architectures that were measured before, so that a trial is a look-up."""

from nasframe import hookimpl

HERE = "nasframe_bench"


@hookimpl
def register_spaces(register):
    register("table", f"{HERE}.table_space:TableSpace", example=f"{HERE}.examples:Space")


@hookimpl
def register_tasks(register):
    register("table", f"{HERE}.table_task:TableTask", example=f"{HERE}.examples:Task")


@hookimpl
def register_commands(app):
    from nasframe_bench.commands import bench, tabulate

    app.command()(tabulate.tabulate)
    app.add_typer(bench.app, name="bench")
