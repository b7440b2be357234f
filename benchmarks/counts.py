"""Are the counted costs exact, and how fast are they?

    python benchmarks/counts.py [--archs 1000]

A four-layer BERT with random weights: ``params`` of random architectures against the extracted model's own, ``macs``
against torch's FlopCounterMode on its forward (eager attention, which that counter sees whole), then how many
architectures of MiniLM-L6's space are counted in a second of processor time, parameters and MACs together, for every
family that can be sliced.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, BertConfig, BertForSequenceClassification

import nasframe as nf
from nasframe.nn.elastic import FAMILIES
from nasframe.nn.slices import extract
from nasframe.search.costs import cost_function


def exactness(archs: int) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=8, intermediate_size=128, attn_implementation="eager"
    )
    net, rng = BertForSequenceClassification(config).eval(), np.random.default_rng(0)
    space = nf.make("space", "width_depth", layers=[1, 2, 3, 4], heads=range(9), ffn=range(129), config=config)
    params, macs = nf.make("estimator", "params"), nf.make("estimator", "macs", batch=2, length=16)
    ids, wrong = torch.ones(2, 16, dtype=torch.long), {"params": 0, "macs": 0}
    for _ in range(archs):
        arch = space.domain.sample(rng)
        small = extract(net, arch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(input_ids=ids)
        wrong["params"] += params.estimate(space, net, arch) != sum(p.numel() for p in small.parameters())
        wrong["macs"] += macs.estimate(space, net, arch) != counter.get_total_flops() / 2
    for name, count in wrong.items():
        print(f"{name}: {archs - count} of {archs} random architectures equal")


def network(family: str) -> torch.nn.Module:
    """Return a network of a family, without a head, of MiniLM-L6-H384's sizes."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    sizes["n_inner" if family == "gpt2" else "intermediate_size"] = 1536
    if family == "distilbert":
        sizes = {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536}
    if family in ("llama", "qwen2"):
        sizes["num_key_value_heads"] = 3
    return AutoModel.from_config(AutoConfig.for_model(family, **sizes))


def rate(family: str, repeats: int = 5, archs: int = 20_000) -> None:
    with torch.device("meta"):
        net = network(family)
    space = nf.make("space", "width_depth", layers=[3, 4, 5, 6], heads=[4, 8, 12], ffn=[256, 512, 1024, 1536])
    estimators = {name: nf.make("estimator", name) for name in ("params", "macs")}
    costs, rng = cost_function(estimators, space, net), np.random.default_rng(0)
    drawn = [space.domain.sample(rng) for _ in range(archs)]
    one_by_one = lambda arch: [e.estimate(space, net, arch) for e in estimators.values()]  # noqa: E731
    for label, count in (("as the search counts", costs), ("estimate() of each", one_by_one)):
        rates = []
        for _ in range(repeats):
            start = time.process_time()
            for arch in drawn:
                count(arch)
            rates.append(archs / (time.process_time() - start))
        print(f"{family:14s} params and macs, {label}: {statistics.median(rates):,.0f} a second")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--archs", type=int, default=1000)
    exactness(options.parse_args().archs)
    for family in FAMILIES:
        rate(family)


if __name__ == "__main__":
    main()
