"""How long compressing takes from its start to the first training step, on small data.

    python benchmarks/first_step.py [--repeats 3]

Three commands over a table of 2,000 generated texts, with MiniLM-L6 (extra ``quickstart``) and an empty cache each
time: ``nasframe compress`` with one method, the same with four methods, and ``nasframe ablate`` with four arms on two
tasks. A process is stopped once its first step is in a run's database. Prints the median and the range of the seconds;
the exit code is 1 where a median misses the target.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rows import write_texts

NASFRAME = shutil.which("nasframe", path=str(Path(sys.executable).parent)) or "nasframe"
TARGET = 15.0
"""Seconds."""
PATIENCE = 300.0
"""Seconds after which a command is given up."""
METHODS = ("yoco_bert", "magnitude", "uniform", "rosita")


def commands(folder: Path) -> dict[str, list[str]]:
    """Write the data and the study, and return each command by its name."""
    tables = [folder / "one.csv", folder / "two.csv"]
    for table in tables:
        write_texts(table, rows=2000, words=12)
    arms = "".join(f"  {arm}: {{base: {base}}}\n" for arm, base in _bases(folder, tables[0]).items())
    tasks = "".join(f"  {table.stem}: {{task.train: {table}}}\n" for table in tables)
    study = folder / "study.yaml"
    study.write_text(f"study: first-step\nseeds: [0]\narms:\n{arms}tasks:\n{tasks}", encoding="utf-8")
    compress = [NASFRAME, "compress", "minilm-l6", str(tables[0]), "--text", "text", "--label", "label"]
    return {
        "compress, one method": compress,
        "compress, four methods": [*compress, "--methods", ",".join(METHODS)],
        "ablate, four arms on two tasks": [NASFRAME, "ablate", str(study)],
    }


def _bases(folder: Path, table: Path) -> dict[str, Path]:
    """Write a recipe for each arm, and return where it is."""
    bases = {}
    for method in METHODS:
        path = folder / f"{method}.yaml"
        task = f"{{use: text_classification, train: {table}}}"
        text = f"extends: methods/{method}\nmodel: minilm-l6\ntask: {task}\n"
        path.write_text(text, encoding="utf-8")
        bases[method] = path
    return bases


def has_step(out: Path) -> bool:
    """Tell whether a run below a folder has made a training step."""
    for path in out.rglob("run.db"):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                (count,) = database.execute("SELECT count(*) FROM metric").fetchone()
        except sqlite3.Error:  # it is being made
            continue
        if count:
            return True
    return False


def seconds(command: list[str]) -> float:
    """Run a command until its first training step, and return the time."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        arguments = ["--out", str(out), "--cache", str(Path(folder) / "cache")]
        began = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*command, *arguments], start_new_session=True, **quiet)
        try:
            while not has_step(out):
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise SystemExit(f"no training step: {' '.join(command)}")
                time.sleep(0.05)
            return time.perf_counter() - began
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and its worker
            process.wait()


def main() -> int:
    """Measure all commands in turns and print them."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        measured = commands(Path(folder))
        found: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(args.repeats):
            for name, command in measured.items():
                found[name].append(seconds(command))
    for name, times in found.items():
        median = statistics.median(times)
        missed |= median > TARGET
        verdict = "ok" if median <= TARGET else "MISSED"
        print(f"{name:32} {median:5.1f} s  ({min(times):.1f} to {max(times):.1f})  target {TARGET:.0f} s  {verdict}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
