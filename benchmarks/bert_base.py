"""How long YOCO-BERT's recipes at BERT-base take on this machine, and how much memory: measured steps, computed hours.

    python benchmarks/bert_base.py [--steps 20] [--device cuda]

BERT-base with random weights at 128 tokens, in the precision that a run would use. A plain step, a step of a random
sub-network of each recipe's space and an evaluation are timed in turns, so that a busy machine troubles all alike. From
their means and GLUE's numbers of sentences follow the hours of each recipe. Nothing is trained, and no data is read.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

import nasframe as nf
from nasframe.training.optim import autocast

LENGTH = 128
SENTENCES = {"cola": 8551, "sst2": 67349, "mrpc": 3668, "rte": 2490, "qnli": 104743, "qqp": 363846, "mnli": 392702}
"""Task → training sentences; a tenth of them becomes ``select``."""
WARM_UP = 3
"""Steps that are not counted."""
RECIPES = ("yoco_bert/published/{task}", "yoco_bert/{task}", "yoco_bert/bert-base")


class Machine:
    """Times steps of BERT-base on a device.

    Args:
        device: where the network lies.
        space: options of the space that sub-networks are drawn from.
        batch: sentences in each step.
    """

    def __init__(self, device: str, space: dict[str, Any], batch: int) -> None:
        self.device = device
        self.config = BertConfig()
        net: Any = BertForSequenceClassification(self.config)
        self.net = net.to(device).train()
        self.space = nf.make("space", space, config=self.config)
        self.rng = np.random.default_rng(0)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-5, fused=True)
        ids = torch.randint(1, 30000, (batch, LENGTH), device=device)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}

    def plain_step(self) -> None:
        """Train the whole network for a step."""
        self._step(self.net)

    def subnet_step(self) -> None:
        """Train a random sub-network for a step."""
        arch = self.space.domain.sample(self.rng)
        self._step(self.space.view(self.net, arch))

    @torch.no_grad()
    def evaluation(self) -> None:
        """Run a random sub-network forward only."""
        arch = self.space.domain.sample(self.rng)
        self.net.eval()
        with autocast("auto", self.device):
            self.space.view(self.net, arch)(**self.inputs)
        self.net.train()

    def _step(self, forward: Callable[..., Any]) -> None:
        self.optimizer.zero_grad()
        with autocast("auto", self.device):
            loss = forward(**self.inputs).loss
        loss.backward()
        self.optimizer.step()

    def seconds(self, work: Callable[[], None]) -> float:
        """Return how long some work takes, until the device has finished it."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def training_steps(recipe: Any, task: str) -> float:
    """Return the steps of all training stages of a recipe."""
    sentences = 0.9 * SENTENCES[task]
    steps = 0.0
    for stage in recipe["stages"]:
        options = stage.get("train")
        if options:
            steps += options["epochs"] * sentences / options.get("batch_size", 32)
    return steps


def evaluated(recipe: Any, task: str) -> float:
    """Return the sentences that a recipe's searches evaluate; trials that repeat another one cost nothing."""
    total = 0.0
    for stage in recipe["stages"]:
        options = stage.get("search")
        if options:
            total += options["trials"] * options.get("examples", 0.1 * SENTENCES[task])
    return total


def main() -> None:
    """Print ratios, memory and hours."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = options.parse_args()
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(f"torch {torch.__version__}, {name}, {LENGTH} tokens, means of {args.steps} steps")
    for pattern in RECIPES:
        report(pattern, args.device, args.steps)


def report(pattern: str, device: str, steps: int) -> None:
    """Time the steps of a recipe, and print what follows for each task."""
    recipe = nf.load_recipe(pattern.format(task="sst2")).data
    trainings = [stage["train"] for stage in recipe["stages"] if "train" in stage]
    batch = trainings[-1].get("batch_size", 32)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    machine = Machine(device, recipe["space"], batch)
    works = (machine.plain_step, machine.subnet_step, machine.evaluation)
    times: list[list[float]] = [[], [], []]
    for index in range(WARM_UP + steps):
        for row, work in zip(times, works, strict=True):
            taken = machine.seconds(work)
            if index >= WARM_UP:
                row.append(taken)
    plain, subnet, evaluation = map(statistics.mean, times)
    print(f"\n{pattern.format(task='<task>')}, {batch} sentences a step")
    ratios = f"of a sub-network {subnet / plain:.2f} of it, its forward alone {evaluation / plain:.2f}"
    print(f"  plain step {1000 * plain:.1f} ms; {ratios}")
    if device.startswith("cuda"):
        print(f"  memory at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, a teacher not included")
    for task in SENTENCES:
        recipe = nf.load_recipe(pattern.format(task=task)).data  # yoco_bert/bert-base is for any task
        training = training_steps(recipe, task) * subnet / 3600
        searching = evaluated(recipe, task) / batch * evaluation / 3600
        print(f"  {task:5s} training {training:6.2f} h, search at most {searching:5.2f} h")


if __name__ == "__main__":
    main()
