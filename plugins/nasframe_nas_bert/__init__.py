"""NAS-BERT (Xu et al. 2021, arXiv 2105.14444), and Puzzle (Bercovich et al. 2024, arXiv 2411.19146) with its parts."""

from nasframe import hookimpl

HERE = "nasframe_nas_bert"


@hookimpl
def register_spaces(register):
    register("operator_chains", f"{HERE}.space:OperatorChains", example=f"{HERE}.examples:Chains")


@hookimpl
def register_trainers(register):
    register("blockwise", f"{HERE}.trainer:Blockwise", example=f"{HERE}.examples:BlockByBlock")


@hookimpl
def register_estimators(register):
    register("operator_latency", f"{HERE}.estimators:OperatorLatency", example=f"{HERE}.examples:Times")
    register("block_loss", f"{HERE}.estimators:BlockLoss", example=f"{HERE}.examples:Losses")


@hookimpl
def register_transforms(register):
    register("chain_from_scratch", f"{HERE}.from_scratch:ChainFromScratch", example=f"{HERE}.examples:Scratch")
