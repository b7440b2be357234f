"""What many rows of text take before the first training step: seconds and memory, part by part.

    python benchmarks/rows.py [--rows 1000000] [--words 12]

A CSV file of generated texts of random words, two classes and no repeats. The parts are those of a run: the task reads
and splits the file, counts copies and lengths for the summary, and tokenises all texts when the first batch is asked
for. Two processes do so one after the other, with one empty cache: the second finds the tokens of the first there.
Memory is what a process holds at most after a part, without what it held before the task was made.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nasframe_basics.text_classification import text_classification


def write_texts(path: Path, rows: int, words: int) -> None:
    """Write a table of random words; the last word numbers the row, so that no text repeats."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            drawn = rng.integers(0, len(vocabulary), (count, words))
            for number, indices in enumerate(drawn, start=start):
                text = " ".join(vocabulary[index] for index in indices)
                file.write(f"{text} {number},{'good' if number % 2 else 'bad'}\n")


def peak() -> float:
    """Return the most memory that the process has held, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def timed(name: str, part: Callable[[], Any], before: float) -> Any:
    """Run a part and print what it took."""
    began = time.monotonic()
    processor_began = time.process_time()
    result = part()
    seconds = time.monotonic() - began
    processor = time.process_time() - processor_began
    held = peak() - before
    print(
        f"  {name:12} {seconds:7.1f} s, {processor:7.1f} s of processor time, at most {held:6.0f} MiB so far",
        flush=True,
    )
    return result


def measure(path: Path) -> None:
    """Do with a table what a run does before its first step."""
    import torch  # noqa: F401  (like transformers, loaded by a run before it reads data)
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    before = peak()
    quiet: Callable[[str, str], None] = lambda place, text: None  # noqa: E731
    task = timed("read, split", lambda: text_classification(path, tokenizer=tokenizer, notify=quiet), before)
    timed("summary", lambda: task.summary, before)
    timed("tokenise", lambda: next(iter(task.train_batches(0, 0, 32))), before)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--words", type=int, default=12)
    options.add_argument("--measure", type=Path, help="a table, in a process of its own")
    args = options.parse_args()
    if args.measure is not None:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        write_texts(path, args.rows, args.words)
        print(f"{args.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB")
        environment = {**os.environ, "NASFRAME_CACHE": f"{folder}/cache"}
        for title in ("first run", "second run"):
            print(title, flush=True)
            subprocess.run([sys.executable, __file__, "--measure", str(path)], env=environment, check=True)
        kept = sum(file.stat().st_size for file in Path(folder, "cache", "prepared").rglob("*.bin"))
        print(f"tokens on the disk: {kept / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
