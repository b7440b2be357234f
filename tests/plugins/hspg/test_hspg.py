"""The sparse optimisers as modifiers: their contract, what they refuse, and what is left of encoders and pictures."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob
from nasframe.nn.channels import removable_groups, without
from nasframe.nn.formats import inspect, record_of
from nasframe.nn.formats import matrices as matrices_of
from nasframe.nn.groups import Grouped
from nasframe.nn.slices import extract
from nasframe.recipe.resolve import check_recipe
from nasframe.records import TrainOptions
from nasframe.testing import ModifierContract
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net
from nasframe.training.optim import make_optimizer
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.loop import Loop
from nasframe_hspg.dhspg import DHSPG
from nasframe_hspg.hesso import HESSO
from nasframe_hspg.hspg import HSPG
from nasframe_hspg.obprox_sg import OBProxSG
from nasframe_nxmiformer.admm import ADMM
from nasframe_rosita.prune import ScheduledPrune
from nasframe_slimming.slimming import Slimming

GROUPED = [HSPG(target="50%", prox="10%"), DHSPG(), HESSO()]


class TestHSPG(ModifierContract):
    def make(self) -> Any:
        return HSPG(target="50%", prox="25%", adapt_eps=1, penalty=5.0)


class TestDHSPG(ModifierContract):
    def make(self) -> Any:
        return DHSPG(start="25%", ramp_end="75%")


class TestHESSOAsPublished(ModifierContract):
    def make(self) -> Any:
        return HESSO(start="25%", ramp_end="100%", criteria="published")


class TestHESSO(ModifierContract):
    def make(self) -> Any:
        return HESSO(start="25%", ramp_end="100%", batches=2)


class TestOBProxSG(ModifierContract):
    def make(self) -> Any:
        return OBProxSG(penalty=3.0, prox="25%")


def job(*modifiers: Any, **options: Any) -> TrainJob:
    plain = {"max_steps": 20, "learning_rate": 2e-3, "batch_size": 16, "precision": "fp32"} | options
    return TrainJob(tiny_net(), ToyTask(), None, TrainOptions(**plain), 0, "t", modifiers=modifiers)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("modifier", GROUPED, ids=lambda modifier: modifier.name)
def test_what_is_left_computes_what_the_sparse_network_did(modifier, optimizer):
    logged: dict[str, float] = {}
    stage = job(modifier, optimizer=optimizer, weight_decay=0.1)
    stage.log = lambda step, values: logged.update(values)
    result = Loop().fit(stage)
    arch = dict(result.arch or {})
    kept = {unit: sum(arch[f"{unit}.{i}"] for i in range(3)) for unit in ("heads", "ffn")}
    assert kept == {"heads": 6, "ffn": 96}
    assert (logged["zero_heads"], logged["zero_ffn"]) == (0.5, 0.5)
    small = extract(result.net, arch)
    with torch.no_grad():
        difference = (small(**tiny_inputs()).logits - result.net(**tiny_inputs()).logits).abs().max()
    assert difference <= 1e-5
    assert logged["removal_error"] <= 1e-5
    zero = Grouped(result.net, removable_groups(result.net)).zero()
    assert int(zero.sum()) == 6 + 96


@pytest.mark.slow
@pytest.mark.parametrize(
    "modifier",
    [
        HSPG(target="50%", penalty=0.1, rate=1.0),
        DHSPG(target="50%", ramp_end=None, penalty=1e-6, amplify=1.0, most=1.0),
    ],
    ids=lambda modifier: modifier.name,
)
def test_a_target_that_training_missed_is_met_at_the_end_and_said(modifier):
    logged: dict[str, float] = {}
    notes: list[str] = []
    stage = job(modifier)
    stage.log = lambda step, values: logged.update(values)
    stage.progress = lambda done, total, note: notes.append(note)
    arch = dict(Loop().fit(stage).arch or {})
    assert [sum(arch[f"{unit}.{i}"] for i in range(3)) for unit in ("heads", "ffn")] == [6, 96]
    assert 0 < logged["late_heads"] <= 0.5
    assert notes[-1].startswith("target missed by")


@pytest.mark.slow
def test_numbers_of_neurons_can_be_multiples():
    """Zero neurons fill a layer up, and the function stays."""
    plain, filled = (Loop().fit(job(HESSO(target="30%", divisible=number))) for number in (1, 8))
    before, after = dict(plain.arch or {}), dict(filled.arch or {})
    assert any(before[f"ffn.{i}"] % 8 for i in range(3))
    for i in range(3):
        assert after[f"ffn.{i}"] == -(-before[f"ffn.{i}"] // 8) * 8
        assert after[f"heads.{i}"] == before[f"heads.{i}"]
    with torch.no_grad():
        small = extract(filled.net, after)(**tiny_inputs()).logits
        torch.testing.assert_close(small, plain.net(**tiny_inputs()).logits, rtol=0, atol=1e-5)


def test_single_weights_become_zero_and_are_counted():
    logged: dict[str, float] = {}
    stage = job(OBProxSG(penalty=1.0))
    stage.log = lambda step, values: logged.update(values)
    dense = nf.make("estimator", "encoder_nonzeros").estimate(None, stage.net)
    result = Loop().fit(stage)
    assert result.arch is None
    share = logged["element_sparsity"]
    assert 0.02 < share < 0.98
    matrices = 3 * (4 * 32 * 32 + 2 * 32 * 64)
    gone = dense - nf.make("estimator", "encoder_nonzeros").estimate(None, result.net)
    assert gone == pytest.approx(share * matrices, abs=0.5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HSPG(target="100%"), "target: '100%' is out of range. Expected a share such as '50%', above 0%"),
        (lambda: DHSPG(target="0%"), "target: '0%' is out of range"),
        (lambda: HESSO(target={"heads": 50}), "target.heads: 50 is out of range"),
        (lambda: HSPG(caps={"ffn": "120%"}), "caps.ffn: '120%' is out of range. Expected a share such as '50%', 0% to"),
        (lambda: HSPG(caps="-1%"), "caps: '-1%' is out of range"),
        (lambda: HSPG(target="half"), "target: 'half' is out of range"),
        (lambda: HSPG(target="50%", caps="50%"), "Expected one of them"),
        (lambda: HSPG(eps=1.0), "expected 0 <= eps < 1"),
        (lambda: HSPG(penalty=-1.0), "penalty >= 0"),
        (lambda: HSPG(target="50%", prox="90%"), "ramp_end '80%' is not after prox '90%'"),
        (lambda: DHSPG(start="60%"), "ramp_end '60%' is not after start '60%'"),
        (lambda: HESSO(start="70%"), "ramp_end '60%' is not after start '70%'"),
        (lambda: HESSO(criteria={}), "one above 0"),
        (lambda: HESSO(criteria="published", batches=2), "batches: the published criteria are those of one step"),
        (lambda: HESSO(criteria={"size": 1.0}), "no criteria size"),
        (lambda: OBProxSG(eps=-0.1), "eps >= 0"),
        (lambda: OBProxSG(prox="150%"), "prox: '150%' is out of range"),
        (lambda: OBProxSG(target="100%"), "target: '100%' is out of range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, text):
    with pytest.raises(UsageError, match=re.escape(text)):
        make()


@pytest.mark.parametrize(
    ("use", "former", "name"),
    [
        ("hspg", {"until": "70%"}, "ramp_end"),
        ("hspg", {"least": "10%"}, "min_kept"),
        ("dhspg", {"until": "70%"}, "ramp_end"),
        ("dhspg", {"least": "10%"}, "min_kept"),
        ("hesso", {"until": "70%"}, "ramp_end"),
        ("hesso", {"least": "10%"}, "min_kept"),
        ("obprox_sg", {"until": "70%"}, "ramp_end"),
    ],
)
def test_options_are_read_by_their_former_names(use, former, name):
    (value,) = former.values()
    with pytest.warns(DeprecationWarning, match=f"is deprecated; it is '{name}' now"):
        modifier = nf.make("modifier", {"use": use, **former})
    assert getattr(modifier, name) == float(value.strip("%")) / 100


@pytest.mark.parametrize("use", ["hspg", "dhspg", "hesso", "obprox_sg"])
def test_an_option_by_both_of_its_names_is_refused(use):
    options = {"until": "70%", "ramp_end": "90%"}
    with pytest.raises(
        UsageError, match=rf"^modifier '{use}': until: is the old name of 'ramp_end', which is given, too"
    ):
        nf.make("modifier", {"use": use, **options})


def test_null_by_a_former_name_means_what_it_did():
    with pytest.warns(DeprecationWarning, match="until is deprecated"):
        modifier = nf.make("modifier", {"use": "dhspg", "until": None})
    assert modifier.ramp_end is None


def test_single_weights_never_had_an_option_least():
    with pytest.raises(UsageError, match="there is no option 'least'"):
        nf.make("modifier", {"use": "obprox_sg", "least": "10%"})


@pytest.mark.parametrize(
    ("modifier", "changes", "text"),
    [
        (HSPG(units=["channels"]), {}, "no groups 'channels'. Expected some of ffn, heads"),
        (HESSO(target={"channels": "50%"}), {}, "target: there are no groups 'channels'. Expected heads, ffn"),
        (HSPG(caps={"heads": "50%"}, units=["ffn"]), {}, "caps: there are no groups 'heads'. Expected ffn"),
        (DHSPG(), {"keep": "best"}, "Expected keep: last"),
        (OBProxSG(), {"early_stop": 2}, "no early_stop"),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_the_first_step(modifier, changes, text):
    stage = job(modifier, **changes)
    before = {name: tensor.clone() for name, tensor in stage.net.state_dict().items()}
    with pytest.raises(UsageError, match=re.escape(text)):
        Loop().fit(stage)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.net.state_dict().items())


@pytest.mark.parametrize("make", [HSPG, DHSPG, HESSO, Slimming, lambda: ScheduledPrune(heads=2, over=1.0)])
@pytest.mark.parametrize("first", [True, False])
def test_who_reorders_shares_no_stage_with_patterns_of_neighbours(make, first):
    modifiers = [make(), ADMM()]
    stage = job(*(modifiers if first else modifiers[::-1]))
    if isinstance(modifiers[0], ScheduledPrune):
        stage.space, stage.arch = ToySpace(), {}
    with pytest.raises(UsageError, match=r"would not follow. Expected it in a later stage"):
        Loop().fit(stage)


@pytest.mark.slow
@pytest.mark.parametrize("modifier", GROUPED, ids=lambda modifier: modifier.name)
def test_a_quantiser_goes_behind(modifier):
    with pytest.raises(UsageError, match="no modifier that parametrises weights before it"):
        Loop().fit(job(FakeQuant(), modifier))
    result = Loop().fit(job(modifier, FakeQuant()))
    for form in (small := extract(result.net, dict(result.arch or {}))), result.net:
        found = inspect(matrices_of(form, record_of(form)), record_of(form))
        assert len(found) == 18
        assert not any(row["rows_off_grid"] for row in found.values())
    assert small.num_parameters() < result.net.num_parameters()


def test_sub_networks_are_refused():
    stage = job(HSPG())
    stage.space, stage.arch = ToySpace(), ToySpace().domain.smallest()
    with pytest.raises(UsageError, match="trains sub-networks"):
        Loop().fit(stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("stages.sparse.modifiers.0.target=100%", "out of range"),
        (
            "stages.sparse.modifiers.0={use: hspg, caps: {heads: 120%}}",
            "does not fit. Expected a share from 0% to 100%",
        ),
        ("stages.sparse.modifiers.0={use: hesso, units: [channels]}", "Expected list of 'heads' or 'ffn'"),
    ],
)
def test_a_recipe_with_such_settings_is_refused_before_any_work(change, text):
    plan, problems = check_recipe("hspg/sst2-minilm", [change])
    assert plan is None
    assert text in "\n".join(map(str, problems))


def pictures(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw 8 × 8 pictures of stripes, horizontal, vertical or slanted, of any phase, in noise."""
    draw = torch.Generator().manual_seed(seed)
    labels, phase = torch.randint(0, 3, (number,), generator=draw), 6.3 * torch.rand(number, 1, 1, generator=draw)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    waves = torch.stack([y, x, x + y])[labels] * 1.6 + phase
    return (waves.sin() + 0.5 * torch.randn(number, 8, 8, generator=draw))[:, None], labels


def small_vgg() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * 4, 20), nn.ReLU(), nn.Linear(20, 3),
        )  # fmt: skip


def trained(net: nn.Module, modifier: Any, optimizer: str, steps: int) -> Any:
    """Train a network that is no encoder: the loop's moments, by hand."""
    rate = {"adamw": 3e-3, "sgd": 0.03}[optimizer]
    options = TrainOptions(optimizer=optimizer, learning_rate=rate)
    stage: Any = TrainJob(net, ToyTask(), None, options, 0, "pictures", total=steps)
    if modifier:
        modifier.on_start(stage)
    optim, (inputs, labels) = make_optimizer(net.train(), options), pictures(1024, seed=1)
    for index in range(steps):
        now: Any = SimpleNamespace(job=stage, index=index, total=steps, lr=rate, skipped=False, optimizer=optim)
        rows = torch.arange(64 * index, 64 * index + 64) % 1024
        net.zero_grad()
        functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
        if modifier:
            modifier.on_gradients(now)
        optim.step()
        if modifier:
            modifier.on_update(now)
    net.eval()
    return modifier.on_finish(stage) if modifier else None


def accuracy(net: nn.Module) -> float:
    inputs, labels = pictures(600, seed=2)
    with torch.no_grad():
        return float((net(inputs).argmax(1) == labels).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("make", [lambda: HSPG(target="50%"), DHSPG, HESSO], ids=["hspg", "dhspg", "hesso"])
def test_a_convolutional_network_loses_half_its_channels(make, optimizer, capsys):
    net = small_vgg()
    trained(net, None, optimizer, 48)
    dense = accuracy(net)
    arch = trained(net, make(), optimizer, 64)
    sparse = accuracy(net)
    groups = Grouped(net, removable_groups(net))
    small = without(net, groups.groups, {g.layer: mask for g, mask in groups.layers(groups.zero())})
    slim = accuracy(small)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (net, small)]
    with capsys.disabled():
        print(
            f"\n{type(make()).__name__}, {optimizer}: accuracy {dense:.3f} dense, {sparse:.3f} sparse, {slim:.3f} "
            f"without its zero channels; parameters {sizes[0]} -> {sizes[1]}, channels {list(arch.values())}"
        )
    assert sum(arch.values()) == 24  # of 12 + 16 + 20
    inputs, _ = pictures(50, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), net(inputs), rtol=0, atol=1e-5)
    assert sizes[1] < 0.6 * sizes[0]
    assert dense > 0.85
    assert sparse > dense - 0.1
    assert slim == sparse
