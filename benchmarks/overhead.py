"""What super-network training spends outside forward, backward and optimiser, skeletons built on the way included.

    python benchmarks/overhead.py [--steps 300] [--length 12] [--threads 2]

A MiniLM-L6-H384 with random weights, 32 sentences of 12 tokens a step, one random sub-network a step, bfloat16 where
native. Nothing is warm when the clock starts: each new (layer, heads, neurons) costs a skeleton.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask
from nasframe.training import optim
from nasframe_basics.loop import Loop
from nasframe_basics.samplers import RandomSampler
from nasframe_basics.width_depth import WidthDepth

TARGET = 0.03


class Clock:
    """Adds up the time inside functions, by name; what runs inside a timed function counts for that one only."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inside = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began
                self.inside = False

        return timing


@contextmanager
def patched(clock: Clock, space: Any, task: Any) -> Iterator[None]:
    """Time the three parts that count as work, and, to say where the rest goes, the views, the data and the sampler."""
    backward, clip, adamw, view = torch.Tensor.backward, optim.clip, torch.optim.AdamW.step, space.view
    zero_grad = torch.nn.Module.zero_grad
    torch.Tensor.backward = clock.timed("backward", backward)  # type: ignore[method-assign]
    optim.clip = clock.timed("optimiser", clip)
    torch.optim.AdamW.step = clock.timed("optimiser", adamw)  # type: ignore[method-assign]
    torch.nn.Module.zero_grad = clock.timed("optimiser", zero_grad)  # type: ignore[method-assign]
    make = clock.timed("- making views", view)
    space.view = lambda net, arch: clock.timed("forward", make(net, arch))
    task.loss = clock.timed("forward", task.loss)
    task.train_batches = clock.timed("- data", task.train_batches)
    try:
        yield
    finally:
        torch.Tensor.backward, optim.clip, torch.optim.AdamW.step = backward, clip, adamw  # type: ignore[method-assign]
        torch.nn.Module.zero_grad = zero_grad  # type: ignore[method-assign]


class Start(Modifier):
    """Notes when the loop begins."""

    def on_start(self, job: TrainJob) -> None:
        self.at = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    net = BertForSequenceClassification(config)
    space = WidthDepth(layers=[3, 4, 5, 6], heads=[4, 8, 12], ffn=[256, 512, 1024, 1536], config=config)
    sampler = RandomSampler(space.domain, seed=0)
    task = ToyTask(train=32 * args.steps, length=args.length)
    task.data = {name: np.random.default_rng(0).integers(1, 30_000, rows.shape) for name, rows in task.data.items()}
    clock, start = Clock(), Start()
    sampler.ask, sampler.tell = clock.timed("- sampler", sampler.ask), clock.timed("- sampler", sampler.tell)  # type: ignore[method-assign]
    options = TrainOptions(max_steps=args.steps, batch_size=32)
    job = TrainJob(net, task, None, options, 0, "bench", space=space, sampler=sampler, modifiers=[start])
    with patched(clock, space, task):
        Loop().fit(job)
    whole = time.perf_counter() - start.at
    work = sum(seconds for name, seconds in clock.seconds.items() if not name.startswith("-"))
    print(f"torch {torch.__version__}, {args.threads} threads, {args.steps} steps of 32 × {args.length} tokens")
    for name, seconds in sorted(clock.seconds.items(), reverse=True):
        print(f"  {name:16s} {1000 * seconds / args.steps:7.2f} ms a step  {seconds / whole:6.1%}")
    share = 1 - work / whole
    verdict = "reached" if share <= TARGET else "MISSED"
    print(f"outside forward, backward and optimiser: {share:.2%} of {whole:.1f} s, target ≤ {TARGET:.0%}: {verdict}")


if __name__ == "__main__":
    main()
