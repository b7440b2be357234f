"""Run a recipe for several seeds and print one row a model: mean and standard deviation over the seeds.

    python benchmarks/table.py recipes/quickstart.yaml --out runs/quickstart
    python benchmarks/table.py baselines/sst2 task.path=path/to/SST-2 --out runs/sst2

Resumable: a finished seed is read, an interrupted one goes on. ``--jobs 2`` runs two seeds at once on one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def run_seed(recipe: str, overrides: list[str], seed: int, directory: Path, threads: int | None) -> dict:
    """Run, resume or read one seed; return its report."""
    command = [sys.executable, "-m", "nasframe", "run"]
    if not (directory / "report.json").exists():
        fresh = [recipe, *overrides, f"seed={seed}", "--out", str(directory)]
        command += ["--resume", str(directory)] if (directory / "run.db").exists() else fresh
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return json.loads((directory / "report.json").read_text())


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Write a mean and a standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{scale * statistics.mean(values):.{digits}f} ± {scale * deviation:.{digits}f}"


def rows(reports: list[dict]) -> list[list[str]]:
    """Return one row an evaluated model: score, share of the teacher's encoder parameters and MACs, latency."""
    table = []
    evaluated = [model["name"] for model in reports[0]["models"] if model["score"] is not None]
    for name in evaluated:
        models = [next(m for m in report["models"] if m["name"] == name) for report in reports]
        latency = [m["costs"]["latency"] for m in models if "latency" in m["costs"]]
        table.append([
            name, spread([m["score"] for m in models], 100),
            spread([m["relative"]["encoder_params"] for m in models], 100),
            spread([m["relative"]["macs"] for m in models], 100), spread(latency) if latency else "–",
        ])  # fmt: skip
    return table


def wins(reports: list[dict]) -> list[str]:
    """Say for each budget in how many seeds the winner scores above the baseline of its budget."""
    lines = []
    for model in reports[0]["models"]:
        if model["role"] == "winner":
            pairs = [{m["role"]: m["score"] for m in r["models"] if m["budget"] == model["budget"]} for r in reports]
            ahead = sum(pair["winner"] > pair["baseline"] for pair in pairs if "baseline" in pair)
            gaps = [pair["winner"] - pair["baseline"] for pair in pairs if "baseline" in pair]
            if gaps:
                of_seeds = ", ".join(f"{100 * gap:.1f}" for gap in gaps)
                lead = f"by {spread(gaps, 100)} points ({of_seeds})"
                lines.append(f"{model['budget']}: above the baseline in {ahead} of {len(gaps)} seeds, {lead}")
    return lines


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // given.jobs) if given.jobs > 1 else None
    with ThreadPoolExecutor(given.jobs) as pool:
        work = [
            pool.submit(run_seed, given.recipe, given.overrides, seed, given.out / str(seed), threads)
            for seed in range(given.seeds)
        ]
        reports = [job.result() for job in work]
    environment = json.loads((given.out / "0" / "env.json").read_text())
    versions = environment["versions"]
    print(f"{len(reports)} seeds; {environment['processor']}, {environment['threads']} threads;", end=" ")
    print(f"Python {environment['python']}, torch {versions['torch']}, transformers {versions['transformers']}")
    metric = reports[0]["metric"]
    print(f"| model | dev {metric} × 100 | encoder parameters, % | MACs, % | latency, ms |\n|---|---|---|---|---|")
    for row in rows(reports):
        print("| " + " | ".join(row) + " |")
    print(*wins(reports), sep="\n")


if __name__ == "__main__":
    main()
