"""YOCO-BERT (arXiv 2106.02435): a distribution over sub-networks, learned together with their shared weights."""

from nasframe import hookimpl

HERE = "nasframe_yoco_bert"


@hookimpl
def register_samplers(register):
    register("sng", f"{HERE}.sng:SNG")
    register("sng_published", f"{HERE}.sng_published:PublishedSNG")


@hookimpl
def register_modifiers(register):
    register("kd_in_place", f"{HERE}.in_place:InPlaceKD")
