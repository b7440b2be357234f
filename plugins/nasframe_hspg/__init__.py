"""Sparse optimisation: HSPG and OBProx-SG (Chen et al., arXiv 2011.04868), and their successors DHSPG and HESSO."""

from nasframe import hookimpl

HERE = "nasframe_hspg"


@hookimpl
def register_modifiers(register):
    register("hspg", f"{HERE}.hspg:HSPG")
    register("dhspg", f"{HERE}.dhspg:DHSPG")
    register("hesso", f"{HERE}.hesso:HESSO")
    register("obprox_sg", f"{HERE}.obprox_sg:OBProxSG")


@hookimpl
def register_estimators(register):
    register("encoder_nonzeros", f"{HERE}.nonzeros:EncoderNonzeros")
