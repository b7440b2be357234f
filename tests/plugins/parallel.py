"""Trains the toy in several ways and writes the weights; run by one process, or by several under a launcher."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nasframe import registry
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import TrainOptions, Trial
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics.kd import KD
from nasframe_basics.loop import Loop

WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "one arch": {"archs_per_step": 1},
    "several archs": {"archs_per_step": 3, "accumulate": 2, "keep": "best", "eval_every": 2},
    "a batch of one": {"archs_per_step": 1, "batch_size": 1, "max_steps": 2},
}
COMPRESSORS: dict[str, dict[str, Any]] = {
    "hspg": {"target": "50%"},
    "dhspg": {"start": "20%"},
    "hesso": {"start": "20%", "ramp_end": "80%", "periods": 2},
    "obprox_sg": {"penalty": 1.0},
    "slimming": {},
    "admm": {"every": 1},
}
WAYS |= {name: {"optimizer": "sgd", "modifiers": {"use": name, **use}} for name, use in COMPRESSORS.items()}


class Depths:
    """A space and a sampler: the toy's first n layers. Only the first process may ask and tell."""

    def __init__(self) -> None:
        self.told: list[Trial] = []
        self.domain = self

    def ask(self, n: int = 1, within: Any = None) -> list[Any]:
        return [{"layers": list(range(1 + (len(self.told) + i) % 3))} for i in range(n)]

    def tell(self, trials: Any) -> None:
        self.told += trials

    def state_dict(self) -> dict[str, Any]:
        return {"told": [[len(trial.arch["layers"]), trial.score] for trial in self.told]}

    def load_state_dict(self, state: Any) -> None:
        self.heard = state["told"]

    def view(self, net: Any, arch: Any) -> Any:
        import torch

        def forward(**inputs: Any) -> Any:
            layers = net.bert.encoder.layer
            net.bert.encoder.layer = torch.nn.ModuleList(layers[i] for i in arch["layers"])
            try:
                return net(**inputs)
            finally:
                net.bert.encoder.layer = layers

        return forward


class LastGradients(Modifier):
    """Keeps what the optimiser saw in the last step."""

    def on_update(self, step: Any) -> None:
        mine = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
        named = [(name, p) for name, p in step.job.net.named_parameters() if id(p) in mine]
        self.gradients = {f"grad {name}": p.grad.clone() for name, p in named if p.grad is not None}


def main(out: Path) -> None:
    for name, way in WAYS.items():
        options = dict(way)
        compressors = [registry.make("modifier", options.pop("modifiers"))] if "modifiers" in options else []
        net = tiny_net(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        last = LastGradients()
        depths = Depths() if "archs_per_step" in options else None
        lines: list[float] = []
        job = TrainJob(
            net, ToyTask(train=30), None,
            TrainOptions(**{"max_steps": 5, "batch_size": 7, "learning_rate": 1e-3, "precision": "fp32"} | options),
            seed=0, stage="t", space=depths, sampler=depths, modifiers=[*compressors, KD(), last],
            models={"teacher": tiny_net(seed=1)},
            log=lambda step, values, lines=lines: lines.append(values["loss"]) if "loss" in values else None,
        )  # fmt: skip
        result = Loop().fit(job)
        from accelerate import PartialState

        rank = PartialState().process_index
        import torch

        student = result.ledger[0] if result.ledger[0].role == "student" else result.ledger[1]
        facts = {"log": torch.tensor(lines), "ledger": torch.tensor([student.steps, student.examples, student.tokens])}
        if result.arch is not None:
            facts["arch"] = torch.tensor([value for knob, value in sorted(result.arch.items()) if knob != "layers"])
        if depths is not None:
            told = depths.heard if hasattr(depths, "heard") else depths.state_dict()["told"]
            facts["told"] = torch.tensor(told)
        save_file({**net.state_dict(), **last.gradients, **facts}, out / f"{name} {rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
