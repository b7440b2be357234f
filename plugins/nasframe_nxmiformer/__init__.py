"""NxMiFormer (arXiv 2206.15014): n:m sparsity by ADMM, with quantisation-aware training, matrix by matrix."""

from nasframe import hookimpl

HERE = "nasframe_nxmiformer"


@hookimpl
def register_spaces(register):
    register("nm_bits", f"{HERE}.space:NMBits", example={"formats": ["2:4 int4", "2:4 int8", "int8", "fp32"]})


@hookimpl
def register_estimators(register):
    register("bits", f"{HERE}.estimators:Bits")


@hookimpl
def register_modifiers(register):
    register("admm", f"{HERE}.admm:ADMM", example={"every": 1, "tune": 0.5})


@hookimpl
def register_transforms(register):
    register("assign_bits", f"{HERE}.assign:AssignBits", example=f"{HERE}.examples:AssignBits")


@hookimpl
def model_facts(net):
    from nasframe.nn.formats import matrices, record_of
    from nasframe.nn.storage import account, summary

    record = record_of(net)
    if not record:
        return None
    return {"stored": summary(matrices(net, record), record, account(net))}
