"""What a proposal of YOCO-BERT's sampler costs, and whether that grows with what it has heard.

    python benchmarks/sng_time.py [--trials 10000]

Ask and tell in a training stage, milliseconds of CPU time a trial, at BERT-base's published space with heads and FFN of
a layer joined (13 knobs) and apart (25), of `sng_published` and of `sng` with costs; the first thousand trials
against the last, and all that the sampler keeps.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

import nasframe as nf
from nasframe.records import Trial

SETTINGS = {
    "sng_published": {"use": "sng_published"},
    "sng": {"use": "sng"},
    "sng, lam 2": {"use": "sng", "lam": 2},
}


def costs(archs):
    return np.array([[sum(3072 * a[f"heads.{i}"] + 24 * a[f"ffn.{i}"] + 9 for i in a["layers"])] for a in archs])


def measured(domain, trials: int, use: dict) -> tuple[float, float, float, float]:
    """Return milliseconds a trial of the first and the last thousand, and KiB kept after the first thousand and all."""
    sampler = nf.make("sampler", use, {"domain": domain, "seed": 0, "costs": costs})
    sampler.start("train", trials, "train")
    rng, seconds, kept = np.random.default_rng(0), [], []
    while len(seconds) < trials:
        began = time.process_time()
        archs = sampler.ask(1)
        asked = time.process_time() - began
        told = [Trial(arch, -float(rng.random()), origin="train") for arch in archs]
        began = time.process_time()
        sampler.tell(told)
        seconds += [(asked + time.process_time() - began) / len(archs)] * len(archs)
        if len(seconds) in range(1000, 1000 + sampler.lam):
            kept = [len(json.dumps(sampler.state_dict())) / 1024]
    part = min(1000, trials // 2)
    kept.append(len(json.dumps(sampler.state_dict())) / 1024)
    return 1e3 * np.mean(seconds[:part]), 1e3 * np.mean(seconds[-part:]), kept[0], kept[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    arguments = parser.parse_args()
    space = nf.make("space", "width_depth", layers=[6, 8, 10, 12], heads=[4, 8, 12], ffn=[512, 768, 1024, 3072])
    print(
        f"{'knobs':>5}  {'sampler':<18} {'first 1,000':>12} {'last 1,000':>12} {'kept at 1,000':>14} {'at the end':>11}"
    )
    for domain in (space.domain.joined("layer"), space.domain):
        for name, use in SETTINGS.items():
            first, last, early, late = measured(domain, arguments.trials, use)
            times = f"{first:>9.3f} ms {last:>9.3f} ms {early:>10.1f} KiB {late:>7.1f} KiB"
            print(f"{len(domain.dims):>5}  {name:<18} {times}")


if __name__ == "__main__":
    main()
