"""What compressing costs a training step: the same step with and without each compressor, in turns, in one process.

    python benchmarks/compress_step.py [hspg admm …] [--steps 60] [--threads 2] [--lengths 64 12]

A MiniLM-L6-H384 with random weights, batches of 32, AdamW, bfloat16 where native; each variant trains its own copy
through the loop. A turn is one step of each; what is shown is the median over the turns of a variant's time over the
plain step's of the same turn, so that other work on the machine hits all alike. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask
from nasframe_basics.fitting import _Fit

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "hspg, proximal": [{"use": "hspg", "prox": "100%"}],
    "hspg, half-space": [{"use": "hspg", "prox": "0%"}],
    "hspg, half-space to a target": [{"use": "hspg", "prox": "0%", "target": "50%"}],
    "dhspg": [{"use": "dhspg", "start": "0%"}],
    "hesso": [{"use": "hesso", "start": "0%", "until": "100%"}],
    "obprox_sg": [{"use": "obprox_sg", "prox": "0%"}],
    "admm": [{"use": "admm", "tune": 0}],
    "admm, frozen zeros": [{"use": "admm", "tune": 1}],
    "slimming, gates alone": [{"use": "slimming"}],
    "slimming, 8-bit weights": [{"use": "slimming"}, {"use": "fake_quant"}],
    "slimming, all at 8 bits": [{"use": "slimming"}, {"use": "fake_quant", "activations": 8}],
    "8-bit and admm": [{"use": "fake_quant", "activations": 8}, {"use": "admm", "tune": 0}],
}
TARGETS = {  # by the first word of a variant, and length
    "hspg": {64: 1.05, 12: 1.20},
    "admm": {64: 1.10, 12: 1.20},
    "slimming": {64: 1.25, 12: 1.40},
}


class Words(ToyTask):
    """Random tokens of a real vocabulary, all of one length."""

    def __init__(self, length: int) -> None:
        super().__init__(train=256, length=length)
        self.data = {name: np.random.default_rng(0).integers(5, 30000, rows.shape) for name, rows in self.data.items()}


def fit(net: torch.nn.Module, length: int, modifiers: list[dict[str, Any]], steps: int) -> _Fit:
    made = [registry.make("modifier", use) for use in modifiers]
    options = TrainOptions(max_steps=steps, batch_size=32, learning_rate=1e-4)
    copied = copy.deepcopy(net)
    return _Fit(TrainJob(copied, Words(length), None, options, 0, "bench", modifiers=made, models={"teacher": net}))


def ratios(variants: dict[str, list[dict[str, Any]]], length: int, turns: int) -> dict[str, float]:
    """Return the median time of a step over the plain step's, and the plain step's own in milliseconds."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    net = BertForSequenceClassification(config)
    fits = {name: fit(net, length, uses, 10 * turns) for name, uses in ({"plain": []} | variants).items()}
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for turn in range(turns + 3):
        for name, one in fits.items():
            batch = next(one.feed)
            began = time.perf_counter()
            one.step(batch)
            if turn >= 3:
                seconds[name].append(time.perf_counter() - began)
    found = {"plain": 1000 * statistics.median(seconds["plain"])}
    for name in variants:
        pairs = zip(seconds[name], seconds["plain"], strict=True)
        found[name] = statistics.median(mine / plain for mine, plain in pairs)
    return found


def known(uses: list[dict[str, Any]]) -> bool:
    """Tell whether the plugins of a variant are installed."""
    try:
        return all(registry.find("modifier", use["use"]) for use in uses)
    except UsageError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a training step with each compressor.")
    parser.add_argument("names", nargs="*", help="variants, by the beginning of their names; default: all")
    parser.add_argument("--steps", type=int, default=60, help="turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 12])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chosen = {
        name: uses
        for name, uses in VARIANTS.items()
        if known(uses) and (not given.names or any(name.startswith(start) for start in given.names))
    }
    missed = 0
    for length in given.lengths:
        found = ratios(chosen, length, given.steps)
        print(f"32 x {length} tokens, {given.threads} threads: plain step {found['plain']:.1f} ms")
        for name in chosen:
            target = TARGETS.get(name.split(",")[0].split()[0], {}).get(length)
            verdict = "" if target is None else f"   target {target:.2f}: {'ok' if found[name] <= target else 'MISSED'}"
            missed += verdict.endswith("MISSED")
            print(f"  {name:32s} {found[name]:.3f}{verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
