"""What a study costs beyond its stages: wall time against the distinct stages' own times, and stages built twice.

    python benchmarks/study.py task.path=path/to/SST-2 [--study studies/samplers] [--seeds 5] [--jobs 1]

Runs the study's smoke variant in an empty cache through `nasframe ablate`. The layer's overhead is what is left of the
wall time when the stages' own times and one start of a process (imports, which every `nasframe run` pays for each run)
are taken away.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from nasframe.running.cache_keys import digest
from nasframe.store import RunStore
from nasframe_studies import study

RATIO, ARM_SECONDS = 1.1, 5.0


def measure(name: str, overrides: list[str], jobs: int) -> dict[str, float]:
    """Run a study in a fresh directory and add up where its time went."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "study"
        command = [sys.executable, "-m", "nasframe", "ablate", name, *overrides, "--smoke", "--jobs", str(jobs)]
        began = time.perf_counter()
        subprocess.run(
            [*command, "--out", str(home), "--cache", f"{folder}/cache"], check=True, stdout=subprocess.DEVNULL
        )
        wall = time.perf_counter() - began
        runs = study.settings(home).runs
        own, restored, built = 0.0, 0.0, Counter[str]()
        for run in runs:
            store = RunStore(home / run.run, shared=True)
            for stage, seconds, result in store.db.execute("SELECT name, run_seconds, result FROM stage").fetchall():
                if "cached" in json.loads(result):
                    restored += seconds
                else:
                    own += seconds
                    built[digest(store.get(f"key {stage}"))] += 1
            store.close()
    return {
        "wall": wall, "own": own, "restored": restored, "runs": len(runs), "stages": len(built),
        "twice": sum(count - 1 for count in built.values()),
    }  # fmt: skip


def start_seconds() -> float:
    """Time one start of a process that imports what a run needs."""
    began = time.perf_counter()
    code = "import torch, transformers, nasframe.running.runner, nasframe_basics.fitting, nasframe_basics.models"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--study", default="studies/samplers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    start_seconds()  # files into memory
    start = start_seconds()
    seeds = f"seeds={list(range(options.seeds))}".replace(" ", "")
    found = measure(options.study, [*options.overrides, seeds], options.jobs)
    ratio = found["wall"] / found["own"]
    arm = (found["wall"] - found["own"] / options.jobs - start) / found["runs"]
    print(f"{options.study}: {found['runs']} runs, {found['stages']} distinct stages, {options.jobs} at a time")
    print(f"wall time               {found['wall']:8.1f} s, of which one start of a process {start:.1f} s")
    print(f"distinct stages' own    {found['own']:8.1f} s, restored from the cache in {found['restored']:.1f} s")
    print(f"ratio                   {ratio:8.2f}   (at most {RATIO}: {'yes' if ratio <= RATIO else 'no'})")
    print(f"stages built twice      {found['twice']:8d}   (0: {'yes' if not found['twice'] else 'no'})")
    print(f"the layer, a run        {arm:8.2f} s (at most {ARM_SECONDS:g}: {'yes' if arm <= ARM_SECONDS else 'no'})")


if __name__ == "__main__":
    main()
