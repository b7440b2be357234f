"""Evaluations a minute of a search on a super-network, against two other ways to make them.

    python benchmarks/search_rate.py --path path/to/GLUE [--tasks cola sst2 mrpc] [--turns 5] [--threads 2]

Three sides score the same architectures of a MiniLM-L6-H384 (random weights: they do not change the time) on the same
examples, as many as the task's dev set has:

- ``search``: nasframe's own loop, from the proposal to the stored trial, through views of the super-network.
- ``published``: what YOCO-BERT's published code does in each step: read the features of the whole set from disk again,
  build tensors padded to 128 tokens, batches of 8, two float32 passes, one for the drawn architecture and one for the
  current mode. One step is one evaluation.
- ``extracted``: a bare loop over models that were extracted beforehand and batches that were made beforehand.

The sides take turns, so that a busy machine troubles all alike; reported are medians of evaluations a minute, and the
median and the range of the ratios of each turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput import minilm, word_tokenizer
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

import nasframe as nf
from nasframe.records import Arch, Trial
from nasframe.search.costs import cost_function
from nasframe.search.loop import search
from nasframe.store import RunStore
from nasframe.training.forward import forward_of
from nasframe.training.optim import autocast
from nasframe_basics.glue import glue
from nasframe_basics.labelled import EVALUATION_BATCH
from nasframe_basics.text import TextTask

DEV = {"cola": 1043, "sst2": 872, "mrpc": 408}
LENGTH, PUBLISHED_BATCH = 128, 8


class Scripted:
    """A sampler that proposes a given list."""

    def __init__(self, archs: Sequence[Arch]) -> None:
        self.archs = list(archs)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        return [self.archs.pop(0) for _ in range(min(n, len(self.archs)))]

    def tell(self, trials: Sequence[Trial]) -> None:
        pass


class Bench:
    """One task's examples, the super-network, and its space."""

    def __init__(self, name: str, path: Path, examples: int, folder: Path) -> None:
        first = glue(name, path, max_length=LENGTH, select=examples)  # type: ignore[arg-type]
        texts = [" ".join(text) for text in first._splits["train"].texts]
        tokenizer: PreTrainedTokenizerFast = word_tokenizer(texts)
        self.task: TextTask = glue(name, path, max_length=LENGTH, select=examples, tokenizer=tokenizer)  # type: ignore[arg-type]
        self.examples, self.folder = self.task.sizes["select"], folder
        self.net = minilm(len(tokenizer)).eval()
        self.space = nf.make(
            "space", "width_depth", config=self.net.config, layers=[3, 4, 5, 6], heads=[4, 8, 12],
            ffn=[384, 768, 1152, 1536],
        )  # fmt: skip
        self.rng = np.random.default_rng(0)
        self.mode = self.space.domain.sample(self.rng)
        ids = np.argsort(self.task.tokens("select").lengths, kind="stable")
        chunks = range(0, len(ids), EVALUATION_BATCH)
        self.batches = [self.task.batch("select", ids[i : i + EVALUATION_BATCH]) for i in chunks]
        self.features = folder / f"{name}-features.json"
        self._write_features()

    def _write_features(self) -> None:
        rows = []
        for i in range(self.examples):
            batch = self.task.batch("select", np.array([i]))
            padded = {k: (v[0].tolist() + [0] * LENGTH)[:LENGTH] for k, v in batch.inputs.items()}
            rows.append({**padded, "label": int(batch.labels[0])})
        self.features.write_text(json.dumps(rows))

    def draw(self, count: int) -> list[Arch]:
        return [self.space.domain.sample(self.rng) for _ in range(count)]

    def searched(self, archs: Sequence[Arch]) -> None:
        """Score through nasframe's loop, each trial stored as a run stores it."""
        estimators = {name: nf.make("estimator", name) for name in ("params", "macs")}
        costs = cost_function(estimators, self.space, self.net)
        place = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        store = RunStore(place, create=True)

        def evaluate(arch: Arch, count: int | None) -> Mapping[str, float]:
            forward = forward_of(self.space.view(self.net, arch), self.net, "auto")
            return self.task.evaluate(forward, "select", count).metrics

        search(
            Scripted(archs), self.space.domain, evaluate, costs, objectives=[self.task.primary], trials=len(archs),
            on_trial=lambda number, trial, seconds: store.add_trial("search", number, trial, seconds),
        )  # fmt: skip
        assert len(store.trials("search")) == len(archs)
        store.close()

    def published(self, archs: Sequence[Arch]) -> None:
        """Score as the published code does; the second pass of a step is the mode's, here a drawn one's."""
        for arch in archs:
            rows = json.loads(self.features.read_text())
            names = [name for name in rows[0] if name != "label"]
            columns = {name: torch.tensor([row[name] for row in rows]) for name in names}
            labels = torch.tensor([row["label"] for row in rows])
            for chosen in (arch, self.mode):
                view = self.space.view(self.net, chosen)
                right = 0
                with torch.no_grad():
                    for start in range(0, len(labels), PUBLISHED_BATCH):
                        part = {name: column[start : start + PUBLISHED_BATCH] for name, column in columns.items()}
                        logits = view(**part).logits
                        target = labels[start : start + PUBLISHED_BATCH]
                        functional.cross_entropy(logits, target).item()
                        right += int((logits.argmax(1) == target).sum())

    def extracted(self, models: Sequence[Callable[..., Any]]) -> None:
        """Score models that lie ready on batches that lie ready."""
        for model in models:
            with torch.no_grad():
                for batch in self.batches:
                    with autocast("auto", "cpu"):
                        logits = model(**batch.inputs).logits
                    (logits.float().argmax(1) == batch.labels).sum().item()


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(bench: Bench, turns: int, count: int) -> dict[str, list[float]]:
    """Return evaluations a minute of each side, turn by turn; ``published`` scores each turn's middle-sized arch."""
    macs = nf.make("estimator", "macs")
    rates: dict[str, list[float]] = {"search": [], "published": [], "extracted": []}
    for turn in range(turns + 1):
        archs = bench.draw(count)
        middle = sorted(archs, key=lambda arch: macs.estimate(bench.space, bench.net, arch))[count // 2]
        models = [bench.space.extract(bench.net, arch) for arch in archs]
        sides = {
            "search": lambda archs=archs: bench.searched(archs),
            "published": lambda middle=middle: bench.published([middle]),
            "extracted": lambda models=models: bench.extracted(models),
        }
        for name in sorted(sides, key=lambda name: (list(sides).index(name) + turn) % 3):
            scored = 1 if name == "published" else count
            spent = seconds(sides[name])
            if turn:  # the first is the warm-up
                rates[name].append(60 * scored / spent)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="the folder that holds CoLA, SST-2 and MRPC")
    parser.add_argument("--tasks", nargs="+", default=list(DEV), choices=list(DEV))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--archs", type=int, default=8, help="architectures a turn")
    parser.add_argument("--examples", type=int, help="default: as many as the task's dev set has")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"MiniLM-L6-H384, {options.threads} threads, {options.turns} turns of {options.archs} architectures")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.tasks:
            bench = Bench(name, options.path, options.examples or DEV[name], Path(folder))
            tokens = float(bench.task.tokens("select").lengths.mean())
            print(f"\n{name}: {bench.examples} examples of {tokens:.1f} tokens")
            rates = compare(bench, options.turns, options.archs)
            for side, found in rates.items():
                print(f"  {side:10} {statistics.median(found):8.1f} evaluations a minute")
            for side in ("published", "extracted"):
                ratios = [ours / other for ours, other in zip(rates["search"], rates[side], strict=True)]
                low, high = min(ratios), max(ratios)
                print(f"  search / {side:10} {statistics.median(ratios):6.2f}  ({low:.2f} … {high:.2f})")


if __name__ == "__main__":
    main()
