"""What many rows of text take before the first training step: processor seconds and memory, part by part.

    python benchmarks/rows.py [--rows 1000000] [--words 12]

A CSV file of generated texts of random words, two classes and no repeats. The parts are those of a run: the task reads
and splits the file, counts copies and lengths for the summary, and tokenises the training texts when the first batch is
asked for. Memory is what the process holds at most after a part, without what it held before the task was made.
"""

from __future__ import annotations

import argparse
import resource
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
    began = time.process_time()
    result = part()
    seconds = time.process_time() - began
    print(f"{name:12} {seconds:8.1f} s of processor time, at most {peak() - before:8.0f} MiB so far", flush=True)
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--words", type=int, default=12)
    args = options.parse_args()
    from transformers import BertTokenizerFast  # as a run has done before it reads data

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        write_texts(path, args.rows, args.words)
        megabytes = path.stat().st_size / 2**20
        print(f"{args.rows:,} rows, {megabytes:,.0f} MiB")
        before = peak()
        quiet: Callable[[str, str], None] = lambda place, text: None  # noqa: E731
        task = timed("read, split", lambda: text_classification(path, tokenizer=tokenizer, notify=quiet), before)
        timed("summary", lambda: task.summary, before)
        timed("tokenise", lambda: next(iter(task.train_batches(0, 0, 32))), before)


if __name__ == "__main__":
    main()
