"""AdaBERT (Chen et al., IJCAI 2020, arXiv 2001.04246): task-adaptive cells, searched by gradients."""

from nasframe import hookimpl

HERE = "nasframe_adabert"


@hookimpl
def register_spaces(register):
    register("adabert_cells", f"{HERE}.space:AdaBertSpace", example={"most": 2, "width": 8})


@hookimpl
def register_modifiers(register):
    register("differentiable", f"{HERE}.differentiable:Differentiable", example=f"{HERE}.examples:Searching")
    register("fit_probes", f"{HERE}.probes:FitProbes", example=f"{HERE}.examples:FittingProbes")
    register("probe_kd", f"{HERE}.probes:ProbeKD", example=f"{HERE}.examples:LearningFromProbes")


@hookimpl
def register_transforms(register):
    register("attach_probes", f"{HERE}.probes:AttachProbes")


@hookimpl
def model_facts(net):
    from nasframe_adabert.facts import facts_of

    return facts_of(net)
