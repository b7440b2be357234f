"""What running a sub-network in place costs, against running the same sub-network on its own.

    python benchmarks/views.py [--pairs 40] [--threads 2]

A MiniLM-L6-H384 with random weights, in the precision that a run would use, all dropout on. Each pair times the
two sides one after the other, in changing order; reported is the median of the pairs' ratios, so that a busy machine
troubles both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertForSequenceClassification

from nasframe.nn.slices import extract, view
from nasframe.training.optim import autocast, keep_freed_memory

QUARTER = {"layers": [0, 1, 2, 3, 4, 5]} | {f"heads.{i}": 3 for i in range(6)} | {f"ffn.{i}": 384 for i in range(6)}
SHAPES = [(32, 64), (32, 12)]


def minilm() -> BertForSequenceClassification:
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    return BertForSequenceClassification(config).train()


def side(forward: Callable, net: torch.nn.Module, batch: dict) -> Callable:
    """Return one side of a comparison: a step that tells the time of forward and backward, and of the optimiser."""
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> tuple[float, float]:
        for parameter in parameters:
            parameter.grad = None
        start = time.perf_counter()
        with autocast("auto", "cpu"):
            loss = forward()(**batch).loss
        loss.backward()
        middle = time.perf_counter()
        optimizer.step()
        return middle - start, time.perf_counter() - middle

    return step


def compare(ours: Callable, theirs: Callable, pairs: int) -> tuple[list[float], list[float], list, list]:
    """Time pairs in changing order; the first three are warm-up."""
    a, b = [], []
    for index in range(pairs + 3):
        first, second = (ours, theirs) if index % 2 else (theirs, ours)
        times = {first: first(), second: second()}
        if index >= 3:
            a.append(times[ours])
            b.append(times[theirs])
    work = [sum(x[:1]) / sum(y[:1]) for x, y in zip(a, b, strict=True)]
    whole = [sum(x) / sum(y) for x, y in zip(a, b, strict=True)]
    return work, whole, a, b


def median_ms(times: list, part: slice) -> float:
    return 1000 * statistics.median(sum(t[part]) for t in times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pairs", type=int, default=40)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the training loop does, for both sides
    print(f"torch {torch.__version__}, {args.threads} threads, {args.pairs} pairs, median [quartiles] of ratios")
    for batch, length in SHAPES:
        report(batch, length, args.pairs)


def quartiles(values):
    """Return the quartiles, which for a single value are that value."""
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4)


def report(batch: int, length: int, pairs: int) -> None:
    net, plain = minilm(), minilm()
    small = extract(net, QUARTER)
    ids = torch.randint(1, 30000, (batch, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    rows = [
        ("full view / plain model", lambda: view(net, {}), net, lambda: plain, plain),
        ("quarter view / extracted", lambda: view(net, QUARTER), net, lambda: small, small),
    ]
    for name, ours, our_net, theirs, their_net in rows:
        work, whole, a, b = compare(side(ours, our_net, inputs), side(theirs, their_net, inputs), pairs)
        for label, ratios, part in (("fwd+bwd", work, slice(0, 1)), ("step", whole, slice(0, 2))):
            low, middle, high = quartiles(ratios)
            times = f"{median_ms(a, part):7.1f} / {median_ms(b, part):7.1f} ms"
            print(f"{batch} x {length:3d}  {name:26s} {label:8s} {middle:.3f} [{low:.3f}, {high:.3f}]  {times}")
        share = 1 - median_ms(a, slice(0, 1)) / median_ms(a, slice(0, 2))
        print(f"{'':43s}the optimiser's share of our step: {share:.0%}")


if __name__ == "__main__":
    main()
