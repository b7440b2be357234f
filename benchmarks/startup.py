"""How long nasframe takes to start: the median of fresh processes, after one that warms the disk's cache.

    python benchmarks/startup.py

Prints each figure with its target; the exit code is 1 where one is missed. The plain interpreter's start is measured
in turns with the others and printed, so that a slow machine can be told from slow code.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NASFRAME = shutil.which("nasframe", path=str(Path(sys.executable).parent)) or "nasframe"
CASES = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import nasframe": ([sys.executable, "-c", "import nasframe"], 0.3),
    "nasframe --help": ([NASFRAME, "--help"], 0.5),
    "nasframe check recipes/quickstart.yaml": ([NASFRAME, "check", "recipes/quickstart.yaml"], 3.5),
}


def seconds(command: list[str]) -> float:
    """Time one fresh process."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(repeats: int = 5) -> int:
    """Measure all cases in turns and print them."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(repeats + 1):
        for name, (command, _) in CASES.items():
            elapsed = seconds(command)
            if number:
                found[name].append(elapsed)
    missed = 0
    for name, (_, target) in CASES.items():
        median = statistics.median(found[name])
        verdict = "" if target is None else f"  target {target:.1f} s  {'ok' if median <= target else 'MISSED'}"
        missed += target is not None and median > target
        print(f"{name:40} {median:6.3f} s  ({min(found[name]):.3f} to {max(found[name]):.3f}){verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
