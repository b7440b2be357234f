"""What a sparse optimiser leaves of the groups it keeps: its pull alone on real weights, without any gradients.

    python benchmarks/hspg_survivors.py '{target: 49.9%, ramp_end: 90%}' '{use: dhspg, ramp_end: 90%}' [--steps 120]

Each argument is the modifier of a stage of MiniLM-L6 whose optimiser stands still; ``hspg`` is what is meant where none
is named. Shown for each kind: the share of zero groups, and how much of their norm the others keep, in the mean and the
least of them.
"""

from __future__ import annotations

import argparse
import copy
from types import SimpleNamespace
from typing import Any

import torch
import yaml

import nasframe as nf
from nasframe.interfaces import TrainJob
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask


def pulled(net: torch.nn.Module, use: dict[str, Any], steps: int, rate: float) -> Any:
    """Make a modifier's part of each step; return the modifier, and the norms of its groups before."""
    modifier = nf.make("modifier", use["use"], **{name: value for name, value in use.items() if name != "use"})
    job = TrainJob(net, ToyTask(), None, TrainOptions(learning_rate=rate), 0, "pull", total=steps)
    modifier.on_start(job)
    before = modifier.groups.squares().sqrt()
    for index in range(steps):
        step: Any = SimpleNamespace(job=job, index=index, total=steps, lr=rate, skipped=False)
        modifier.on_gradients(step)
        modifier.on_update(step)
    return modifier, before


def main() -> None:
    """Pull a copy of the network for each modifier, and print a line for each kind of its groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modifiers", nargs="+", type=yaml.safe_load)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rate", type=float, default=1e-4)
    given = parser.parse_args()
    net = nf.make("model", "minilm-l6").load(["no", "yes"], seed=0)
    for options in given.modifiers:
        use = {"use": "hspg", **options}
        modifier, before = pulled(copy.deepcopy(net), use, given.steps, given.rate)
        x, after = modifier.groups, modifier.groups.squares().sqrt()
        print(use)
        for kind, unit in enumerate(x.units):
            mine, left = x.unit == kind, (after / before)[(x.unit == kind) & (after > 0)]
            zero = float((after[mine] == 0).float().mean())
            line = f"  {unit:5} {zero:6.1%} zero; the others keep {left.mean():.1%}, the least {left.min():.1%}"
            print(line + (f"; λ {float(modifier.lambdas[kind]):.1f}" if use["use"] == "hspg" else ""))


if __name__ == "__main__":
    main()
