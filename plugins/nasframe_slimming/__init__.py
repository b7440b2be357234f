"""Unified slimming after GAN Slimming (Wang et al., ECCV 2020, arXiv 2008.11062), for encoders, and the original."""

from nasframe import hookimpl

HERE = "nasframe_slimming"


@hookimpl
def register_modifiers(register):
    register("slimming", f"{HERE}.slimming:Slimming")
    register("adversary", f"{HERE}.adversary:Adversary")
