"""A space that chooses an operation for each layer, with a task and a model to try it on."""

from nasframe import hookimpl

PLUGIN_API = 2  # the version this was made for; nasframe does not load plugins for a later one


@hookimpl
def register_spaces(register):
    """Register the space of operations."""
    register("operators", "nasframe_operators.space:Operators", example="nasframe_operators.example:OperatorsExample")


@hookimpl
def register_tasks(register):
    """Register the digits, read line by line."""
    register("digit_rows", "nasframe_operators.digits:DigitRows", example="nasframe_operators.example:DigitRowsExample")


@hookimpl
def register_models(register):
    """Register the network without operations."""
    register("row_reader", "nasframe_operators.digits:RowReader", example="nasframe_operators.example:RowReaderExample")
