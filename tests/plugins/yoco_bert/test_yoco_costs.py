"""YOCO-BERT on the table protocol costs the training MACs that it says, by the ledger's arithmetic."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import nasframe as nf
from nasframe.interfaces import start_sampler
from nasframe.nn import count
from nasframe.records import Trial
from nasframe.search.costs import cost_rows
from nasframe.search.restrict import joined
from nasframe.seeds import stream_seed

EXAMPLES = {"sst2": 10_000, "cola": 7_700, "mrpc": 3_300}  # training data without a tenth for select
TEACHER = {"sst2": 2, "cola": 3, "mrpc": 3}  # epochs
LENGTH = 48  # tokens of a padded batch, about; shares hardly depend on it


@functools.cache
def minilm() -> Any:
    with torch.device("meta"):
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return BertForSequenceClassification(config)


def training_passes(name: str, overrides: list[str], seed: int) -> float:
    """Say what a run trains after its teacher, in passes of the whole network over a batch of 32.

    The sampler is asked as in the run and told losses of noise around what the size explains.
    """
    plan = nf.resolve(nf.load_recipe(name, overrides))
    space, macs = nf.make("space", plan.space, config=minilm().config), count.macs(minilm(), 1, LENGTH)
    whole, rng = macs.of(None), np.random.default_rng(seed)
    estimators = {"encoder_params": nf.make("estimator", "encoder_params")}
    costs, shared, total = cost_rows(estimators, ["encoder_params"], space, minilm()), None, 0.0
    for stage in plan.stages:
        if stage.verb != "train" or stage.name == "teacher":
            continue
        options, use = stage.options["options"], stage.options["sampler"]
        stream = "shared" if use == "shared" else stage.name
        use = plan.sampler if use == "shared" else use
        if shared is None:
            inject = {"domain": space.domain, "seed": stream_seed(seed, "sampler", stream), "costs": costs}
            shared = nf.make("sampler", use, inject)
        domain = joined(space.domain, use)
        domain = domain.restrict(stage.options["within"]) if stage.options.get("within") else domain
        start_sampler(shared, stage.name, options.max_steps, "train")
        for _ in range(options.max_steps):
            archs = shared.ask(options.archs_per_step, within=domain)
            shares = [macs.of(arch) / whole for arch in archs]
            total += 3 * sum(shares)
            losses = [0.6 - 0.1 * share + 0.1 * rng.standard_normal() for share in shares]
            shared.tell([Trial(arch, -loss, origin="train") for arch, loss in zip(archs, losses, strict=True)])
        epoch = EXAMPLES[plan.task["name"]] / 32
        total += min(options.max_steps, epoch)  # teacher_cache: run keeps each example's logits for the stage
    return total


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["pairs=true"]], ids=["default", "pairs"])
def test_mrpc_costs_what_the_uniform_super_network_does(more):
    seeds = range(5)  # of the table
    uniform = [training_passes("baselines/uniform-random", ["mrpc=true"], seed) for seed in seeds]
    found = [training_passes("yoco_bert/mrpc-minilm", more, seed) for seed in seeds]
    assert np.mean(uniform) == pytest.approx(608, rel=0.01)
    assert np.mean(found) == pytest.approx(np.mean(uniform), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "after", "whole"),
    [
        ("yoco_bert/sst2-minilm", [], 1.06, 1.03),
        ("yoco_bert/sst2-minilm", ["pairs=true"], 1.03, 1.01),
        ("yoco_bert/cola-minilm", [], 1.06, 1.03),
        ("yoco_bert/sst2-minilm-sandwich", [], 0.98, 0.99),
    ],
)
def test_sst2_and_cola_cost_what_the_documents_say(name, more, after, whole):
    """Relative to uniform sampling: after the teacher, and with it."""
    task = name.partition("/")[2].partition("-")[0]
    switches = [f"{task}=true"] if task == "cola" else []
    uniform = np.mean([training_passes("baselines/uniform-random", switches, seed) for seed in range(5)])
    found = np.mean([training_passes(name, more, seed) for seed in range(5)])
    teacher = 3 * TEACHER[task] * EXAMPLES[task] / 32
    assert found / uniform == pytest.approx(after, abs=0.015)
    assert (found + teacher) / (uniform + teacher) == pytest.approx(whole, abs=0.01)
