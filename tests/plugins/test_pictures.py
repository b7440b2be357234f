"""GAN Slimming as published, on pictures: the steps, what dead channels leave behind, a run from end to end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nasframe as nf
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob
from nasframe.nn.blueprint import blueprint, load
from nasframe.records import TrainOptions
from nasframe.store import RunStore
from nasframe.testing.nets import same_weights
from nasframe.testing.toy import tiny_net
from nasframe.testing.trainers import Crash, Memory
from nasframe_basics.estimators import macs, params
from nasframe_pictures.min_max import MinMax, gram
from nasframe_pictures.model import Fresh
from nasframe_pictures.networks import SIDE, PicturePair, compact
from nasframe_pictures.space import PictureChannels
from nasframe_pictures.task import Pictures

SMALL = {"stem": 4, "trunk": 6, "blocks": 2, "up": 4, "judge": 4}


def pair(seed: int = 0) -> Any:
    return Fresh(**SMALL).load(None, seed)


def job(net: Any = None, **fields: Any) -> TrainJob:
    options: dict[str, Any] = {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.0}
    options |= {"schedule": "cosine", "warmup_ratio": 0.0, "checkpoint_every": 0.0}
    options |= {name: fields.pop(name) for name in list(fields) if name in TrainOptions.__dataclass_fields__}
    models = {"dense": pair(1)}
    return TrainJob(net or pair(), Pictures(train=8), None, TrainOptions(**options), 0, "t", models=models, **fields)


def pictures() -> torch.Tensor:
    return Pictures(train=8).batch("train", np.arange(4)).inputs["pictures"]


@pytest.mark.parametrize("activations", [None, 8])
@pytest.mark.parametrize("dead", [0.5, 1.0])
def test_dead_channels_leave_exactly_with_what_they_still_say(activations: Any, dead: float) -> None:
    torch.manual_seed(0)
    net = pair()
    net.generator.activations = activations
    with torch.no_grad():
        for _, _, norm, _ in net.generator.prunable():
            norm.weight.copy_(torch.randn_like(norm.weight) * (torch.rand_like(norm.weight) >= dead))
            norm.bias.copy_(torch.randn_like(norm.bias).abs())
        before = net(pictures()).logits
        dropped = copy.deepcopy(net)
        for _, _, norm, _ in dropped.generator.prunable():
            norm.bias.mul_(norm.weight != 0)  # what the published extraction does
        arch = compact(net)
        assert (net(pictures()).logits - before).abs().max() <= 2e-5
        small = PictureChannels(net.config).extract(net, arch)
        assert (small(pictures()).logits - before).abs().max() <= 2e-5
        assert (dropped(pictures()).logits - before).abs().max() > 1e-3
    left = {name: max(1, int((norm.weight != 0).sum())) for name, _, norm, _ in small.generator.prunable()}
    assert left == arch
    of_generator = sum(p.numel() for p in net.generator.parameters())
    assert params().estimate(None, small) < params().estimate(None, net) == of_generator  # not the discriminator's
    probe = {"pictures": torch.zeros(2, 3, SIDE, SIDE)}
    macs_of_one = macs(probe_inputs=lambda: probe)
    assert macs_of_one.estimate(None, small) < macs_of_one.estimate(None, net) == net.forward_macs(1)


def test_gamma_makes_the_proximal_step_and_the_penalty_is_in_no_gradient() -> None:
    """One step of γ by hand: SGD with momentum on L_GAN + β L_dist to the teacher's pictures, then the threshold."""
    one, net = job(max_steps=1), pair()
    twin, teacher = copy.deepcopy(net), one.models["dense"]
    batch = one.task.train_batches(*_order())[0]
    made = twin.generator(batch.inputs["pictures"])
    with torch.no_grad():
        real = teacher.generator(batch.inputs["pictures"])  # type: ignore[operator]
    loss = (twin.discriminator(made) - 1).square().mean() + 20 * (made - real).square().mean()
    gammas = [norm.weight for _, _, norm, _ in twin.generator.prunable()]
    gradients = torch.autograd.grad(loss, gammas)
    one.net = net
    seen: list[list[torch.Tensor]] = []
    one.log = lambda step, values: seen.append([norm.weight.clone() for _, _, norm, _ in net.generator.prunable()])
    MinMax(teacher="dense", rho=2.0, gate_rate=0.1).fit(one)
    for gamma, gradient, after in zip(gammas, gradients, seen[0], strict=True):
        moved = (gamma - 0.1 * gradient).detach().double().numpy()
        expected = np.sign(moved) * np.maximum(np.abs(moved) - 2.0 * 0.1, 0)
        np.testing.assert_allclose(after.detach().numpy(), expected, atol=1e-5)


def _order() -> tuple[int, int, int]:
    from nasframe.seeds import stream_seed

    return stream_seed(0, "data", "t"), 0, 2


def test_everything_dies_under_a_huge_rho_and_one_silent_channel_stays() -> None:
    result = MinMax(teacher="dense", rho=1e6, bits=8).fit(job())
    assert result.arch == {"stem": 1, "block.0": 1, "block.1": 1, "up": 1}
    small = PictureChannels(result.net.config).extract(result.net, result.arch)
    with torch.no_grad():
        assert torch.allclose(small(pictures()).logits, result.net(pictures()).logits, atol=1e-5)


def test_rounded_networks_stay_rounded() -> None:
    net = MinMax(teacher="dense", bits=8).fit(job()).net
    assert net.describe()["activations"] == 8
    assert not any("parametrizations" in name for name in net.state_dict())
    weight = net.generator.outer[0].weight
    steps = weight / (weight.abs().max() / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    again = load(net.config.to_dict(), blueprint(net), net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(pictures()).logits, net.eval()(pictures()).logits)


@pytest.mark.parametrize(
    "options", [{}, {"teacher": "dense", "rho": 0.5, "bits": 8, "replay": 3, "distance": "features"}]
)
def test_an_interrupted_stage_ends_the_same(options: dict[str, Any]) -> None:
    def crash(step: int, values: Any) -> None:
        if step == 3:
            raise Crash

    whole = MinMax(**options).fit(job(max_steps=5))
    memory = Memory()
    with pytest.raises(Crash):
        MinMax(**options).fit(job(max_steps=5, checkpoint=memory, log=crash))
    assert memory.state is not None
    result = MinMax(**options).fit(job(max_steps=5, checkpoint=memory))
    assert same_weights(whole.net, result.net)
    assert whole.arch == result.arch


def test_the_discriminator_learns_to_tell_and_features_are_a_distance() -> None:
    values: list[Any] = []
    MinMax(beta=0.0).fit(job(max_steps=25, learning_rate=2e-3, log=lambda step, row: values.append(row)))
    assert values[-1]["discriminator"] < 0.5 * values[0]["discriminator"]
    features = torch.randn(2, 3, 4, 4)
    expected = torch.einsum("bchw,bdhw->bcd", features, features) / (3 * 16)
    torch.testing.assert_close(gram(features), expected)


@pytest.mark.parametrize(
    ("options", "fields", "text"),
    [
        ({"rho": -1.0}, {}, "expected 0 or more"),
        ({"distance": "features"}, {}, "Expected a teacher"),
        ({"teacher": "nobody"}, {}, "no network was saved as 'nobody'"),
        ({}, {"net": tiny_net()}, "has no discriminator"),
        ({}, {"keep": "best"}, "keeps the last weights"),
    ],
)
def test_bad_settings_are_refused(options: Any, fields: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        MinMax(**options).fit(job(**fields))


@pytest.mark.slow
def test_a_run_from_dense_to_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.plugins.cache_clear()
    monkeypatch.chdir(tmp_path)
    try:
        sizes = [f"model.{key}={value}" for key, value in SMALL.items()]
        recipe = nf.load_recipe("slimming/pictures", ["smoke=true", *sizes, "stages.slim.trainer.rho=100"])
        run = nf.run(recipe, out=tmp_path / "run", progress=False, report=False)
    finally:
        registry.plugins.cache_clear()
    assert (tmp_path / "slimming-pictures.png").stat().st_size > 5_000
    store = RunStore(run.directory, shared=True)
    rows = {name: store.model(name) for name in ("dense", "slim", "tuned")}
    store.close()
    assert rows["tuned"]["costs"]["params"] < rows["dense"]["costs"]["params"]
    assert rows["tuned"]["blueprint"]["sizes"]["blocks"] == [1, 1]
    assert 0 < rows["tuned"]["metrics"]["dev"]["similarity"] <= 1
    with pytest.raises(UsageError, match="cannot be exported"):
        nf.export.export(pair(), None, tmp_path / "no")


def test_a_network_that_describes_itself_can_be_read_again(tmp_path: Path) -> None:
    from nasframe.export.files import read_net
    from nasframe.export.write import write

    net = PicturePair(stem=2, trunk=3, blocks=[1, 2], up=2, activations=8, judge=2).eval()
    assert write(net, None, tmp_path / "net") == "hetero"
    again = read_net(tmp_path / "net")
    assert same_weights(net, again)
    with torch.no_grad():
        assert torch.equal(net(pictures()).logits, again(pictures()).logits)
