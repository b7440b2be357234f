"""YOCO-BERT (arXiv 2106.02435): a distribution over sub-networks, learned together with their shared weights."""

from nasframe import hookimpl

HERE = "nasframe_yoco_bert"


@hookimpl
def register_samplers(register):
    register("sng", f"{HERE}.sng:SNG")
