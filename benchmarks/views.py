"""What running a sub-network in place costs, against running the same sub-network on its own.

    python benchmarks/views.py [--pairs 40] [--threads 2] [--family bert vit llama] [--processor-time]

A network of MiniLM-L6-H384's sizes with random weights, in the precision that a run would use, all dropout on. Images
have 64 patches, and Llama has 4 heads of keys and values for 12 of queries. Each pair times the two sides one after the
other, in changing order; reported is the median of the pairs' ratios, so that a busy machine troubles both alike. With
``--threads 1 --processor-time``, the time that other programs take does not count at all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from nasframe.nn.slices import extract, view
from nasframe.training.optim import autocast, keep_freed_memory

QUARTER = {"layers": [0, 1, 2, 3, 4, 5]} | {f"heads.{i}": 3 for i in range(6)} | {f"ffn.{i}": 384 for i in range(6)}
SHAPES = [(32, 64), (32, 12)]

FAMILIES = ("bert", "vit", "llama")
WORDS = 30522
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SPECIAL_TOKENS = {"pad_token_id": 0, "cls_token_id": 101, "bos_token_id": 101, "sep_token_id": 102, "eos_token_id": 102}
"""The ids in BERT's vocabulary, for families whose own are beyond it."""
SPECIAL = {
    "vit": {"image_size": 64, "patch_size": 8},
    "llama": {"num_key_value_heads": 4, "vocab_size": WORDS, "pad_token_id": 0},
    "gpt2": {"n_inner": 1536, "vocab_size": WORDS} | SPECIAL_TOKENS,
    "modernbert": {"vocab_size": WORDS} | SPECIAL_TOKENS,
}
"""Family → fields of its configuration besides the sizes."""


def network(family: str) -> torch.nn.Module:
    """Return a network of a family in training mode."""
    sizes = {key: value for key, value in SIZES.items() if family != "gpt2" or key != "intermediate_size"}
    config = AutoConfig.for_model(family, **sizes, **SPECIAL.get(family, {}))
    auto = AutoModelForImageClassification if family == "vit" else AutoModelForSequenceClassification
    torch.manual_seed(0)
    return auto.from_config(config).train()


def batch_of(family: str, batch: int, length: int) -> dict:
    """Return inputs with labels: images, or token ids of a length."""
    ids = torch.randint(1, 30000, (batch, length))
    labels = ids[:, 0] % 2
    if family == "vit":
        return {"pixel_values": torch.randn(batch, 3, 64, 64), "labels": labels}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def side(forward: Callable, net: torch.nn.Module, batch: dict, now: Callable[[], float]) -> Callable:
    """Return one side of a comparison: a step that tells the time of forward and backward, and of the optimiser."""
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> tuple[float, float]:
        for parameter in parameters:
            parameter.grad = None
        start = now()
        with autocast("auto", "cpu"):
            loss = forward()(**batch).loss
        loss.backward()
        middle = now()
        optimizer.step()
        return middle - start, now() - middle

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
    options.add_argument("--processor-time", action="store_true", help="of all threads together")
    options.add_argument("--family", nargs="+", default=FAMILIES, help="also gpt2 and modernbert")
    args = options.parse_args()
    now = time.process_time if args.processor_time else time.perf_counter
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the training loop does, for both sides
    print(f"torch {torch.__version__}, {args.threads} threads, {args.pairs} pairs, median [quartiles] of ratios")
    for family in args.family:
        for batch, length in SHAPES:
            if family != "vit" or (batch, length) == SHAPES[0]:  # images have one length
                report(family, batch, length, args.pairs, now)


def quartiles(values):
    """Return the quartiles, which for a single value are that value."""
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4)


def report(family: str, batch: int, length: int, pairs: int, now: Callable[[], float]) -> None:
    net, plain = network(family), network(family)
    small = extract(net, QUARTER)
    inputs = batch_of(family, batch, length)
    rows = [
        ("full view / plain model", lambda: view(net, {}), net, lambda: plain, plain),
        ("quarter view / extracted", lambda: view(net, QUARTER), net, lambda: small, small),
    ]
    for name, ours, our_net, theirs, their_net in rows:
        our_side, their_side = side(ours, our_net, inputs, now), side(theirs, their_net, inputs, now)
        work, whole, a, b = compare(our_side, their_side, pairs)
        for label, ratios, part in (("fwd+bwd", work, slice(0, 1)), ("step", whole, slice(0, 2))):
            low, middle, high = quartiles(ratios)
            times = f"{median_ms(a, part):7.1f} / {median_ms(b, part):7.1f} ms"
            place = f"{family:10s} {batch} x {length:3d}  {name:26s} {label:8s}"
            print(f"{place} {middle:.3f} [{low:.3f}, {high:.3f}]  {times}")
        share = 1 - median_ms(a, slice(0, 1)) / median_ms(a, slice(0, 2))
        print(f"{'':54s}the optimiser's share of our step: {share:.0%}")


if __name__ == "__main__":
    main()
