"""What a sampler's own ask and tell cost at 25 knobs and two objectives, and the search loop at 1 % feasible.

    OMP_NUM_THREADS=1 python benchmarks/sampler_time.py [frontier evolution random] [--trials 10000] [--loop 1000]

Processor time, so that neighbours on the machine count less; evaluation and costs of what is told are not counted. The
scores have main effects and interactions, the cost is a sum. In the loop one architecture in a hundred meets the bound.
Exit code 1 where ``frontier`` misses a target.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nasframe import registry
from nasframe.records import Arch, Trial
from nasframe.search.constraints import Bounds
from nasframe.search.domain import Choices
from nasframe.search.loop import search

KNOBS, VALUES = 25, 4
OWN, GROWTH, LOOP = 0.3, 1.25, 5.0  # targets: ms, last thousand over first thousand, ms


def landscape(seed: int = 0) -> tuple[Choices, Callable[[Arch], float], Callable[[Arch], Mapping[str, float]]]:
    """Make a domain, a score with pairs that interact, and an additive cost."""
    rng = np.random.default_rng(seed)
    domain = Choices({f"k{i}": list(range(VALUES)) for i in range(KNOBS)})
    main = rng.gamma(1.0, 1.0, KNOBS)
    pairs = {tuple(rng.choice(KNOBS, 2, replace=False)): rng.normal(0, 0.3, (VALUES, VALUES)) for _ in range(KNOBS)}
    prices = rng.gamma(2.0, 1.0, KNOBS)

    def score(arch: Arch) -> float:
        values = list(arch.values())
        total = sum(w * math.sqrt(v) for w, v in zip(main, values, strict=True))
        return float(total + sum(table[values[i], values[j]] for (i, j), table in pairs.items()))

    def costs(arch: Arch) -> dict[str, float]:
        return {"cost": float(1 + sum(p * v for p, v in zip(prices, arch.values(), strict=True)))}

    return domain, score, costs


def make(name: str, domain: Choices, costs: Callable[[Arch], Mapping[str, float]]) -> Any:
    """Make a sampler with all that a search would inject."""
    rows = lambda archs: np.array([[costs(arch)["cost"]] for arch in archs])  # noqa: E731
    return registry.make("sampler", name, {"domain": domain, "seed": 0, "costs": rows})


def own_time(name: str, trials: int) -> np.ndarray:
    """Return the milliseconds of ask and tell, trial by trial."""
    domain, score, costs = landscape()
    sampler = make(name, domain, costs)
    spent = np.zeros(trials)
    for number in range(trials):
        began = time.process_time()
        (arch,) = sampler.ask(1)
        spent[number] = time.process_time() - began
        cost = costs(arch)["cost"]
        trial = Trial(arch, score(arch), (score(arch), -cost), costs={"cost": cost})
        began = time.process_time()
        sampler.tell([trial])
        spent[number] += time.process_time() - began
    return 1000 * spent


def loop_time(name: str, trials: int) -> tuple[float, int, int]:
    """Return milliseconds an evaluation of the whole loop, evaluations, and proposals."""
    domain, score, costs = landscape()
    rng = np.random.default_rng(0)
    bound = Bounds(high=float(np.quantile([costs(domain.sample(rng))["cost"] for _ in range(5000)], 0.01)))
    began = time.process_time()
    found = search(
        make(name, domain, costs), domain, lambda arch, examples: {"accuracy": score(arch)}, costs,
        objectives=("accuracy", "-cost"), trials=trials, bounds={"cost": bound},
    )  # fmt: skip
    spent = time.process_time() - began
    done = sum(trial.state == "done" for trial in found.trials)
    return 1000 * spent / max(done, 1), done, len(found.trials)


def main() -> int:
    """Measure the samplers one after the other and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samplers", nargs="*", default=["random", "evolution", "frontier"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--loop", type=int, default=1000)
    args = parser.parse_args()
    missed = 0
    for name in args.samplers:
        spent = own_time(name, args.trials)
        part = min(1000, max(len(spent) // 2, 1))
        first, last = spent[:part].mean(), spent[-part:].mean()
        per_trial, done, proposals = loop_time(name, args.loop)
        missed += name == "frontier" and (spent.mean() > OWN or last > GROWTH * first or per_trial > LOOP)
        print(
            f"{name:12} ask + tell {spent.mean():.3f} ms a trial (median {np.median(spent):.3f}); first {part} "
            f"{first:.3f}, last {part} {last:.3f}; loop at 1 % feasible {per_trial:.2f} ms, {done} evaluations of "
            f"{proposals} proposals",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
