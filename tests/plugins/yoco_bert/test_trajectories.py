"""Both samplers still do, draw by draw, what the one sampler did that they were split from.

The file of trajectories was recorded with that sampler. Positions are compared exactly, θ to 1e-12:
processors differ in the last bits of a sum.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasframe.records import Trial
from nasframe.search.constraints import Bounds, Screen
from nasframe.testing.samplers import costs_of, layered_domain, size_of
from nasframe_yoco_bert.sng import SNG
from nasframe_yoco_bert.sng_published import PublishedSNG

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "sng_trajectories.json").read_text(encoding="utf-8"))
SAMPLERS = {"sng": SNG, "sng_published": PublishedSNG}


def trajectory(make: Any) -> dict[str, Any]:
    """Run two training stages and a search; return what was drawn, and θ and the state after each stage.

    Args:
        make: ``make(domain, seed, costs=…)`` returns the sampler.
    """
    domain = layered_domain(3).joined("layer")
    sampler = make(domain, 7, costs=costs_of)
    small = Screen({"size": Bounds(high=0.6 * size_of(domain.largest()))}, lambda arch: {"size": size_of(arch)})
    stages = (
        ("first", "train", 15, domain.restrict({"layers": [[0, 1, 2]]})),
        ("second", "train", 60, None),
        ("search", "search", 15, domain.restrict(keep=small)),
    )
    noise = np.random.default_rng(11)
    answers = 0
    drawn, thetas, states = [], [], []
    for stage, origin, rounds, within in stages:
        sampler.start(stage, rounds, origin)
        for _ in range(rounds):
            archs = sampler.ask(1, within=within)
            drawn.append([domain.encode(arch).tolist() for arch in archs])
            trials = []
            for arch in archs:
                answers += 1
                score = float(noise.integers(-3, 2))  # of few values, so that some are equal
                failed = answers % 7 == 0
                trials.append(Trial(arch, None if failed else score, origin=origin))
            if answers % 10 == 0:
                trials.append(Trial(domain.smallest(), -1.0, origin=origin))  # nobody asked for it
            sampler.tell(trials)
        thetas.append([row.tolist() for row in sampler.theta])
        state = sampler.state_dict()
        generator = str(state["rng"]["state"]["state"])
        states.append({"rng": generator, "updates": state["updates"], "exploit": round(state["exploit"], 12)})
    return {"drawn": drawn, "theta": thetas, "states": states}


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_a_trajectory_is_the_recorded_one(case):
    kind = SAMPLERS[case["sampler"]]
    run = trajectory(lambda domain, seed, costs: kind(domain, seed, costs=costs, **case["options"]))
    assert run["drawn"] == case["drawn"]
    assert run["states"] == case["states"]
    for mine, recorded in zip(run["theta"], case["theta"], strict=True):
        for row, other in zip(mine, recorded, strict=True):
            np.testing.assert_allclose(row, other, rtol=0, atol=1e-12)
