"""YOCO-BERT (arXiv 2106.02435): a distribution over sub-networks, learned together with their shared weights."""

from nasframe import hookimpl

HERE = "nasframe_yoco_bert"


@hookimpl
def register_samplers(register):
    register("sng", f"{HERE}.sng:SNG")
    register("sng_published", f"{HERE}.sng_published:PublishedSNG")
    register("banded_sng", f"{HERE}.banded:BandedSNG", example=f"{HERE}.examples:Banded")


@hookimpl
def register_modifiers(register):
    register("kd_in_place", f"{HERE}.in_place:InPlaceKD")
    register("importance_prior", f"{HERE}.evidence:ImportancePrior", example=f"{HERE}.examples:Learning")
    register("probes", f"{HERE}.evidence:Probes", example=f"{HERE}.examples:Probing")
