"""AutoBERT-Zero (Gao et al., arXiv 2107.07445): attention formulas found from primitives, mixed with convolutions."""

from nasframe import hookimpl

HERE = "nasframe_autobert_zero"


@hookimpl
def register_spaces(register):
    register("expression_graphs", f"{HERE}.space:ExpressionGraphSpace", example=f"{HERE}.examples:Graphs")


@hookimpl
def register_samplers(register):
    register("op_priority", f"{HERE}.op_priority:OpPriority", example=f"{HERE}.examples:Priorities")
    register("children", f"{HERE}.children:Children")


@hookimpl
def register_modifiers(register):
    register("biws", f"{HERE}.biws:BIWS", example=f"{HERE}.examples:Sharing")
