"""Processor milliseconds of a traced estimate, the count of an architecture that no table has, and of a remembered one.

    python benchmarks/traced.py [--archs 20]

The networks: the toy generator of GAN slimming (convolutions of chosen widths), a MiniLM-L6-H384 whose sub-networks a
space returns without saying their sizes, so that they cannot be looked up, and an encoder of the same sizes of a family
that cannot be sliced (ALBERT), of which each architecture is a copy. Random weights: only shapes count. Times are of
one process, medians and maxima over the architectures.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from throughput import minilm
from torch import nn
from transformers import AutoConfig, AutoModel

from nasframe.nn import slices
from nasframe.search.domain import Choices
from nasframe_basics.estimators import macs, params
from nasframe_pictures.networks import SIDE, PicturePair
from nasframe_pictures.space import PictureChannels

LENGTH = 32
BATCH = 8


class Unsaid:
    """Slices of an encoder, without ``sizes``."""

    def __init__(self) -> None:
        self.domain = Choices({f"ffn.{i}": [96, 384, 768, 1536] for i in range(6)})

    def view(self, net: nn.Module, arch: Mapping[str, Any]) -> Any:
        return slices.view(net, arch)

    def extract(self, net: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
        return slices.extract(net, arch)


class Whole:
    """Nothing to choose: the sub-network of each architecture is a copy of the whole network."""

    def __init__(self) -> None:
        self.domain = Choices({"number": range(10_000)})

    def view(self, net: nn.Module, arch: Mapping[str, Any]) -> Any:
        return net

    def extract(self, net: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
        return copy.deepcopy(net)


def stranger() -> nn.Module:
    """Return an encoder of MiniLM-L6-H384's sizes, of a family that cannot be sliced."""
    config = AutoConfig.for_model(
        "albert", hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return AutoModel.from_config(config).eval()


def timed(space: Any, net: nn.Module, inputs: Mapping[str, torch.Tensor], count: int) -> dict[str, list[float]]:
    """Return the milliseconds of each first and each second estimate, by cost."""
    rng = np.random.default_rng(0)
    archs = [space.domain.sample(rng) for _ in range(count + 1)]
    macs(probe_inputs=lambda: inputs).estimate(space, net, archs.pop())
    estimators = {"macs": macs(probe_inputs=lambda: inputs), "params": params()}
    times: dict[str, list[float]] = {}
    for name, estimator in estimators.items():
        for arch in archs:
            for turn in ("once", "again"):
                began = time.process_time()
                cost = estimator.estimate(space, net, arch)
                times.setdefault(f"{name} {turn}", []).append(1000 * (time.process_time() - began))
                assert cost
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=20)
    count = parser.parse_args().archs
    pictures = PicturePair(stem=16, trunk=32, blocks=[32] * 4, up=16)
    encoder = minilm(30522)
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.long)
    cases = {
        "generator": (PictureChannels(pictures.config), pictures, {"pictures": torch.zeros(BATCH, 3, SIDE, SIDE)}),
        "MiniLM-L6": (Unsaid(), encoder, {encoder.main_input_name: tokens}),
        "ALBERT": (Whole(), stranger(), {"input_ids": tokens}),
    }
    for name, (space, net, inputs) in cases.items():
        for cost, milliseconds in timed(space, net, inputs, count).items():
            median = statistics.median(milliseconds)
            print(f"{name:10} {cost:13} median {median:8.3f} ms, largest {max(milliseconds):8.3f} ms")


if __name__ == "__main__":
    main()
