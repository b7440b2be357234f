"""Search in a table: architectures whose metrics and costs were measured before, so that a trial costs microseconds."""

from nasframe import hookimpl

HERE = "nasframe_table"


@hookimpl
def register_spaces(register):
    register("table", f"{HERE}.space:TableSpace", example=f"{HERE}.examples:Space")


@hookimpl
def register_tasks(register):
    register("table", f"{HERE}.task:TableTask", example=f"{HERE}.examples:Task")
