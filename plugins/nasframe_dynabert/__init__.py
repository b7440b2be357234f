"""DynaBERT (Hou et al., NeurIPS 2020, arXiv 2004.04037): one network for several widths and depths."""

from nasframe import hookimpl

HERE = "nasframe_dynabert"


@hookimpl
def register_modifiers(register):
    register("dynabert", f"{HERE}.distil:DynaBERT")
    register("augment", f"{HERE}.augment:Augment", example=f"{HERE}.examples:Augment")
