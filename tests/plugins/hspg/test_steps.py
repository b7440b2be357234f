"""The sparse optimisers against their formulas, written out group by group in double loops, on AdamW and on SGD."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nasframe.interfaces import TrainJob
from nasframe.nn.groups import encoder_groups, tensor_of
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.training.optim import make_optimizer
from nasframe_hspg.dhspg import DHSPG
from nasframe_hspg.hesso import HESSO, published
from nasframe_hspg.hspg import HSPG
from nasframe_hspg.obprox_sg import OBProxSG, matrices
from nasframe_hspg.stage import GroupModifier, direction

RATE = 0.01
OPTIMIZERS = ["adamw", "sgd"]


class Stage:
    """A training stage in slow motion: gradients that are given, a real optimiser, and the moments of a modifier."""

    def __init__(self, modifier: GroupModifier, optimizer: str = "adamw", total: int = 10, net: Any = None) -> None:
        self.modifier, self.net = modifier, net or tiny_net(layers=1, intermediate_size=16)
        options = TrainOptions(optimizer=optimizer, learning_rate=RATE, weight_decay=0.1)
        self.job = TrainJob(self.net, ToyTask(), None, options, 0, "t", modifiers=[modifier], total=total)
        modifier.on_start(self.job)
        self.optimizer = make_optimizer(self.net, options)
        self.total, self.index, self.draw = total, 0, torch.Generator().manual_seed(0)

    def step(self, skipped: bool = False, still: bool = False) -> tuple[Any, Any]:
        """Make one step, or the modifier's part alone; return the network before it, and as the optimiser left it."""
        for parameter in self.net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=self.draw)
        now = SimpleNamespace(
            job=self.job, index=self.index, total=self.total, lr=RATE, skipped=skipped, optimizer=self.optimizer
        )
        before = copy.deepcopy(self.net)
        self.modifier.on_gradients(now)
        if not (skipped or still):
            self.optimizer.step()
        moved = copy.deepcopy(self.net)
        self.modifier.on_update(now)
        self.index += 1
        return before, moved


def groups(net: Any) -> list[torch.Tensor]:
    """All weights of each group in one row, by the definition of a group."""
    return [
        torch.cat([tensor_of(net, m.name).detach().narrow(m.dim, k * m.width, m.width).flatten() for m in g.members])
        for g in encoder_groups(net)
        for k in range(g.count)
    ]


def outside(net: Any) -> list[torch.Tensor]:
    names = {m.name for g in encoder_groups(net) for m in g.members}
    return [p.detach() for name, p in net.named_parameters() if name not in names]


def close(found: Any, expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert torch.equal(a == 0, b == 0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_proximal_step_is_the_formula(optimizer, normalize):
    penalty = 2.0 if normalize else 30.0
    stage = Stage(HSPG(penalty=penalty, prox="100%", normalize=normalize), optimizer)
    _, moved = stage.step()
    expected = []
    for v in groups(moved):
        by = RATE * penalty * (len(v) ** 0.5 if normalize else 1.0)
        expected.append(max(0.0, 1 - by / float(v.norm())) * v)
    assert 0 < sum(bool((v == 0).all()) for v in expected) < len(expected) or normalize
    close(groups(stage.net), expected)
    close(outside(stage.net), outside(moved))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("eps", [0.0, 0.9])
def test_a_half_space_step_is_the_formula_on_the_real_update(optimizer, eps):
    stage = Stage(HSPG(penalty=1.0, prox="0%", eps=eps), optimizer)
    zeros = set()
    for _ in range(3):
        before, moved = stage.step()
        expected, crossing = [], []
        for number, (x, x_new) in enumerate(zip(groups(before), groups(moved), strict=True)):
            if (x == 0).all():
                expected.append(torch.zeros_like(x))
                continue
            v = x_new - RATE * len(x) ** 0.5 * x / x.norm()
            if float(v @ x) < eps * float(x @ x):
                crossing.append(number)
            expected.append(v)
        for number in crossing:
            expected[number] = torch.zeros_like(expected[number])
        zeros |= set(crossing)
        close(groups(stage.net), expected)
        close(outside(stage.net), outside(moved))
    assert zeros if eps else True


def test_zero_groups_stay_zero_whatever_the_optimiser_does():
    stage = Stage(HSPG(penalty=0.0, prox="0%"))
    dead = encoder_groups(stage.net)[1]
    with torch.no_grad():
        for m in dead.members:
            tensor_of(stage.net, m.name).narrow(m.dim, 5, 1).zero_()
    stage.step()
    assert [bool((x == 0).all()) for x in groups(stage.net)] == [n == 4 + 5 for n in range(20)]


@pytest.mark.parametrize("first", ["0%", "100%"])
def test_a_cap_is_exact_and_takes_the_nearest_to_zero(first):
    """Of many groups that would become zero at once, as many as the cap leaves, and those of which least is left."""
    stage = Stage(HSPG(penalty=1e4, prox=first, caps={"heads": "25%", "ffn": "50%"}))
    _, moved = stage.step()
    zero = [bool((x == 0).all()) for x in groups(stage.net)]
    assert (sum(zero[:4]), sum(zero[4:])) == (1, 8)
    if first == "100%":
        norms = [float(v.norm()) for v in groups(moved)]
        assert max(n for n, z in zip(norms[4:], zero[4:], strict=True) if z) <= min(
            n for n, z in zip(norms[4:], zero[4:], strict=True) if not z
        )
    _, moved = stage.step()
    assert [bool((x == 0).all()) for x in groups(stage.net)] == zero
    kept = [x for x, z in zip(groups(stage.net), zero, strict=True) if not z]
    if first == "0%":  # a kind at its cap is left alone
        close(kept, [x for x, z in zip(groups(moved), zero, strict=True) if not z])


def test_groups_without_room_under_the_cap_are_not_turned_round():
    """λ so large that a step turns all of them: what may not become zero makes the optimiser's step alone."""
    stage = Stage(HSPG(penalty=300.0, prox="0%", caps="50%"))
    _, moved = stage.step()
    kept = [(x, v) for x, v in zip(groups(stage.net), groups(moved), strict=True) if x.any()]
    assert len(kept) == 10
    for x, v in kept:
        torch.testing.assert_close(x, v, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("total", [20, 50])
def test_a_target_leaves_the_groups_it_keeps_alone(optimizer, total):
    """The same steps with and without: what is not zero at the end has kept its norm, but for a few on the edge."""
    pressed = Stage(HSPG(target="50%", ramp_end="90%"), optimizer, total, tiny_net(layers=2))
    plain = Stage(HSPG(penalty=0.0, prox="100%"), optimizer, total, tiny_net(layers=2))
    for _ in range(total):
        pressed.step(), plain.step()
    norms = [torch.stack([x.norm() for x in groups(stage.net)]) for stage in (pressed, plain)]
    kept = (norms[0] / norms[1])[norms[0] > 0]
    assert len(kept) == (8 + 128) // 2
    assert float(kept.median()) > 0.95
    assert float(kept.mean()) > 0.8


def test_dual_ascent_follows_what_is_missing():
    stage = Stage(HSPG(penalty=0.5, target="50%", prox="20%", ramp_end="80%", rate=3.0))
    for _ in range(2):
        stage.step()
    assert stage.modifier.lambdas.tolist() == [0.5, 0.5]
    before, _ = stage.step()  # a sixth of the way: a sixth of the half that goes
    size = sum(float(x.norm()) / len(x) ** 0.5 for x in groups(before)) / 20
    assert stage.modifier.lambdas.tolist() == pytest.approx([0.5 + 3.0 * size / (RATE * 6) / 6 / 12] * 2)


def test_eps_adapts_to_the_pace():
    stage = Stage(HSPG(penalty=0.0, prox="0%", adapt_eps=2, eps=0.05), total=40)
    found = []
    for _ in range(6):
        stage.step()
        found.append([round(e, 3) for e in stage.modifier.epsilons.tolist()])
    assert [e[0] for e in found] == [0.05, 0.15, 0.15, 0.25, 0.25, 0.35]
    with torch.no_grad():  # a quarter of the neurons became zero: fast enough
        layer = stage.net.bert.encoder.layer[0]
        for tensor in (layer.intermediate.dense.weight[:4], layer.intermediate.dense.bias[:4]):
            tensor.zero_()
        layer.output.dense.weight[:, :4] = 0
    stage.step(), stage.step()
    assert stage.modifier.epsilons.tolist() == pytest.approx([0.05, 0.05])


def test_lambda_is_divided_at_its_times():
    stage = Stage(HSPG(penalty=1.0, prox="100%", decay_at=["50%"]), total=4)
    for index in range(4):
        _, moved = stage.step()
        shrunk = [
            float((v.norm() - x.norm()) / len(x) ** 0.5) for v, x in zip(groups(moved), groups(stage.net), strict=True)
        ]
        assert shrunk == pytest.approx([RATE * (1.0 if index < 2 else 0.1)] * 20, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modifier", "penalty"),
    [(HSPG(target="50%", prox="0%", ramp_end="90%"), 0.0), (DHSPG(start="0%", ramp_end="90%"), 1e-2)],
)
def test_a_target_leaves_all_other_groups_alone(modifier, penalty):
    """The pull alone: candidates beyond the target keep what they are, but for DHSPG's published λ, α λ a step."""
    stage = Stage(modifier, total=40)
    before = groups(stage.net)
    for _ in range(40):
        stage.step(still=True)
    kept = [float(now.norm()) for now in groups(stage.net)]
    assert [sum(norm == 0 for norm in kinds) for kinds in (kept[:4], kept[4:])] == [2, 8]
    lost = [float(then.norm()) - norm for norm, then in zip(kept, before, strict=True) if norm > 0]
    assert max(lost) <= 36 * RATE * penalty + 1e-6  # until the target is there, at 90 % of the steps


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dhspg_divides_by_direction_and_size_and_pulls_as_hard_as_needed(optimizer):
    penalty, amplify, most = 0.3, 2.0, 10.0
    stage = Stage(DHSPG(start="10%", ramp_end=None, penalty=penalty, amplify=amplify, most=most), optimizer, total=20)
    for _ in range(2):
        before, moved = stage.step()
        assert torch.equal(
            stage.net.bert.encoder.layer[0].output.dense.weight, moved.bert.encoder.layer[0].output.dense.weight
        )
    before, moved = stage.step()
    chosen = stage.modifier.candidates
    rows = list(zip(groups(before), groups(moved), strict=True))
    expected, score = [], []
    for number, (x, x_new) in enumerate(rows):
        grad = (x - x_new) / RATE
        score.append((float(torch.cosine_similarity(x, grad, dim=0)), len(x) / float(x.norm())))
        if not chosen[number]:
            expected.append(x_new)
            continue
        lead = float(x @ grad)
        lam = penalty
        if lead < 0:
            low, high = -lead / float(x.norm()), -float(grad @ grad) * float(x.norm()) / lead
            lam = min(max(amplify * low, penalty), penalty * most)
            lam = (low + high) / 2 if lam > high else lam
        v = x_new - RATE * lam * x / x.norm()
        expected.append(torch.zeros_like(v) if float(v @ x) < 0 else v)
    for found, whole in zip(groups(stage.net), expected, strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-5)
    for start, end, room in ((0, 4, 3), (4, 20, 9)):  # half, and 5 % more, rounded up
        mine = torch.tensor(score[start:end])
        spread = (mine - mine.amin(0)) / (mine.amax(0) - mine.amin(0))
        best = spread.mean(1).argsort(descending=True)[:room]
        assert set(torch.nonzero(chosen[start:end]).flatten().tolist()) == set(best.tolist())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("make", "target"), [(DHSPG, "50%"), (HESSO, "50%"), (DHSPG, {"heads": "75%", "ffn": "10%"}), (HESSO, {"ffn": 0.3})]
)
def test_the_target_is_reached_for_every_kind(make, target, optimizer):
    stage = Stage(make(target=target, start="10%", ramp_end="60%"), optimizer, net=tiny_net(layers=2))
    for _ in range(7):
        stage.step()
    zero = torch.tensor([bool((x == 0).all()) for x in groups(stage.net)])
    counts = [[g.count] * g.count for g in encoder_groups(stage.net)]
    heads = torch.tensor([count == 4 for row in counts for count in row])
    wanted = target if isinstance(target, dict) else {"heads": target, "ffn": target}
    share = lambda text: float(text.strip("%")) / 100 if isinstance(text, str) else text  # noqa: E731
    for mask, number, unit in ((heads, 8, "heads"), (~heads, 128, "ffn")):
        stay = share(wanted.get(unit, 1.0))
        assert int(zero[mask].sum()) == number - round(stay * number)
    stage.step()
    assert torch.equal(zero, torch.tensor([bool((x == 0).all()) for x in groups(stage.net)]))


def test_hesso_shrinks_a_period_evenly_and_then_freezes_it():
    stage = Stage(HESSO(target="50%", start="20%", ramp_end="80%", periods=2), total=10)
    seen, shrunk = [], []
    for index in range(9):
        _, moved = stage.step()
        now = stage.modifier.chosen.clone()
        seen.append(int(now[4:].sum()))
        ratio = [float(x.norm() / v.norm()) for x, v in zip(groups(stage.net), groups(moved), strict=True)]
        first = stage.modifier.frozen if index >= 5 else now
        shrunk.append({round(r, 4) for r, c in zip(ratio, first | now, strict=True) if c})
        assert all(r == pytest.approx(1) for r, c in zip(ratio, first | now, strict=True) if not c)
    assert seen == [0, 0, 4, 4, 4, 8, 8, 8, 8]
    assert shrunk[2:5] == [{0.6667}, {0.5}, {0.0}]
    assert shrunk[5:8] == [{0.0, 0.6667}, {0.0, 0.5}, {0.0}]


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "cosine"])
def test_hesso_takes_the_least_salient(criterion):
    stage = Stage(HESSO(target="50%", start="20%", ramp_end="90%", periods=1, criteria={criterion: 1.0}, batches=2))
    values, gradients = [], []
    for _ in range(3):
        before, _ = stage.step()
        row = []
        for g in encoder_groups(stage.net):
            for k in range(g.count):
                cut = lambda t, m, k=k: t.narrow(m.dim, k * m.width, m.width).flatten()  # noqa: E731
                x = torch.cat([cut(tensor_of(before, m.name).detach(), m) for m in g.members])
                grad = torch.cat([cut(tensor_of(stage.net, m.name).grad, m) for m in g.members])
                cosine = 1 - float(torch.cosine_similarity(x, grad, dim=0))
                row.append({"magnitude": float(x.norm()), "taylor": abs(float(x @ grad)), "cosine": cosine}[criterion])
        values.append(row)
        gradients.append(row)
    mean = torch.tensor(values[2]) if criterion == "magnitude" else torch.tensor(values[1:]).mean(0)
    for start, end in ((0, 4), (4, 20)):
        least = set(mean[start:end].argsort()[: (end - start) // 2].tolist())
        assert set(torch.nonzero(stage.modifier.chosen[start:end]).flatten().tolist()) == least


def rows(net, of):
    """What ``of`` gives of each member tensor of the groups, in one numpy row a group."""
    return [
        np.concatenate(
            [of(net, m.name).narrow(m.dim, k * m.width, m.width).flatten().double().numpy() for m in g.members]
        )
        for g in encoder_groups(net)
        for k in range(g.count)
    ]


def first_direction(net, before, optimizer):
    """The optimisers' first direction, written out: AdamW's without its decay, SGD's with it."""

    def way(_, name):
        x, gradient = tensor_of(before, name).detach(), tensor_of(net, name).grad
        if optimizer == "adamw":
            return gradient / (gradient.abs() + 1e-8)
        return gradient + 0.1 * (x.ndim > 1) * x

    return rows(net, way)


def weights_of(net):
    return rows(net, lambda net, name: tensor_of(net, name).detach())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hesso_published_is_the_formula_of_the_published_code(optimizer):
    stage = Stage(HESSO(target="50%", start="0%", ramp_end="90%", periods=1, criteria="published"), optimizer)
    before, _ = stage.step()
    values = {"magnitude": [], "mean": [], "cosine": [], "taylor": [], "taylor2": []}
    for x, way in zip(weights_of(before), first_direction(stage.net, before, optimizer), strict=True):
        norm, lead = np.sqrt((x * x).sum()), (x * way).sum()
        values["magnitude"].append(norm)
        values["mean"].append(norm / len(x))
        values["cosine"].append(lead / (norm * np.sqrt((way * way).sum())) + 1)
        values["taylor"].append(abs(lead))
        values["taylor2"].append(0.5 * lead**2)
    saliency = sum(0.2 * np.array(v) / np.sqrt((np.array(v) ** 2).sum()) for v in values.values())
    tensors = [tensor_of(before, m.name).detach() for g in encoder_groups(before) for m in g.members]
    ways = [tensor_of(stage.net, m.name).grad for g in encoder_groups(before) for m in g.members]
    if optimizer == "adamw":
        ways = [gradient / (gradient.abs() + 1e-8) for gradient in ways]
    else:
        ways = [gradient + 0.1 * (x.ndim > 1) * x for x, gradient in zip(tensors, ways, strict=True)]
    found = published(stage.modifier.groups, tensors, ways)
    np.testing.assert_allclose(found.numpy(), saliency, rtol=1e-4)
    for start, end in ((0, 4), (4, 20)):
        least = set(saliency[start:end].argsort()[: (end - start) // 2].tolist())
        assert set(torch.nonzero(stage.modifier.chosen[start:end]).flatten().tolist()) == least


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_direction_is_the_optimisers_own_before_adamws_decay(optimizer):
    stage = Stage(HESSO(criteria="published"), optimizer)
    before, moved = stage.step()
    names = [m.name for g in encoder_groups(before) for m in g.members]
    parameters = [tensor_of(stage.net, name) for name in names]
    with torch.no_grad():  # the modifier has not begun: the network is as the optimiser left it
        assert all(torch.equal(p, tensor_of(moved, n)) for p, n in zip(parameters, names, strict=True))
    step = SimpleNamespace(lr=RATE, optimizer=stage.optimizer)
    found = direction(step, [tensor_of(before, name).detach() for name in names], parameters)
    flat = np.concatenate([way.flatten().numpy() for way in found])
    wanted = []
    for name in names:
        x, gradient = tensor_of(before, name).detach(), tensor_of(stage.net, name).grad
        way = gradient / (gradient.abs() + 1e-8) if optimizer == "adamw" else gradient + 0.1 * (x.ndim > 1) * x
        wanted.append(way.flatten().numpy())
    np.testing.assert_allclose(flat, np.concatenate(wanted), atol=1e-4)


def test_hesso_published_chooses_when_a_period_begins_with_a_skipped_step():
    stage = Stage(HESSO(target="50%", start="0%", ramp_end="80%", periods=2, criteria="published"), total=10)
    stage.step(skipped=True)
    assert not stage.modifier.chosen.any()
    for _ in range(8):
        stage.step()
    assert [bool((x == 0).all()) for x in groups(stage.net)].count(True) == 10


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is read into Python, for which a device is waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Counted(HESSO):
    """The count of periods as a tensor, which every step reads."""

    def on_gradients(self, step):
        self.added = torch.tensor(self.added)
        super().on_gradients(step)
        self.added = int(self.added)


def published_stage(make, optimizer):
    return Stage(make(target="50%", start="20%", ramp_end="80%", periods=3, criteria="published"), optimizer, total=20)


def reads_of(stage):
    """Count the reads of a modifier when gradients are there; what it keeps for the coming step is the same then."""
    step = SimpleNamespace(job=stage.job, index=stage.index, total=20, lr=RATE, skipped=False)
    with Reads() as reads:
        stage.modifier.on_gradients(step)
    return reads.count


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hesso_published_waits_for_no_device_before_the_optimisers_step(optimizer):
    stage, reference = published_stage(HESSO, optimizer), published_stage(Counted, optimizer)
    counts = []
    for number in range(20):
        counts.append((reads_of(stage), reads_of(reference)))
        stage.step(skipped=number == 4)
        reference.step(skipped=number == 4)
        for a, b in zip(stage.net.parameters(), reference.net.parameters(), strict=True):
            assert torch.equal(a, b)
        first, second = stage.modifier.state_dict(), reference.modifier.state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert sum(own for own, _ in counts) == 0 < sum(others for _, others in counts)
    assert int(first["added"]) == 3


@pytest.mark.parametrize("kept", range(3, 18, 3))
def test_hesso_published_goes_on_from_its_state(kept):
    whole, resumed = published_stage(HESSO, "sgd"), published_stage(HESSO, "sgd")
    for _ in range(kept):
        whole.step()
        resumed.step()
    state = {name: value.clone() for name, value in resumed.modifier.state_dict().items()}
    resumed.modifier.on_start(resumed.job)
    resumed.modifier.load_state_dict(state)
    for _ in range(20 - kept):
        whole.step()
        resumed.step()
    for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dhspg_published_is_the_formula_of_the_published_code(optimizer):
    stage = Stage(DHSPG(target="50%", start="0%", ramp_end=None, scores="published"), optimizer)
    before, _ = stage.step()
    cosine, small = [], []
    for x, way in zip(weights_of(before), first_direction(stage.net, before, optimizer), strict=True):
        norm = np.sqrt((x * x).sum())
        cosine.append((x * way).sum() / (norm * np.sqrt((way * way).sum())))
        small.append(1 / (norm / len(x) + 1e-6))
    score = sum(0.5 * np.array(v) / np.sqrt((np.array(v) ** 2).sum()) for v in (cosine, small))
    for start, end in ((0, 4), (4, 20)):
        room = int(np.ceil((end - start) // 2 + 0.05 * (end - start)))
        best = set((-score[start:end]).argsort()[:room].tolist())
        assert set(torch.nonzero(stage.modifier.candidates[start:end]).flatten().tolist()) == best


@pytest.mark.parametrize("make", [lambda: HSPG(penalty=0.0, prox="0%"), lambda: DHSPG(start="0%", penalty=1e-9)])
def test_a_group_of_tiny_weights_is_not_taken_for_zero(make):
    stage = Stage(make())
    first = encoder_groups(stage.net)[1]
    with torch.no_grad():
        for m in first.members:
            tensor_of(stage.net, m.name).narrow(m.dim, 5, 1).fill_(1e-25)  # its square is 0 in float32
    grouped = stage.modifier.groups
    assert not grouped.zero().any()
    assert (grouped.squares() == 0).any()
    stage.step(still=True)
    assert bool((groups(stage.net)[4 + 5] != 0).all())
    stage.step()
    assert all(bool(x.isfinite().all()) for x in groups(stage.net))


def test_what_a_target_lacks_is_made_zero_exactly():
    stage = Stage(HESSO(target="50%"))
    with torch.no_grad():
        for m in encoder_groups(stage.net)[1].members:
            tensor_of(stage.net, m.name).fill_(1e-25)
    stage.job.log = lambda step, values: None
    stage.modifier.complete(stage.job)
    assert [bool((x == 0).all()) for x in groups(stage.net)].count(True) == 10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_obprox_sg_is_its_two_formulas_on_matrices_of_layers_alone(optimizer):
    penalty, eps = 0.3, 0.01
    stage = Stage(OBProxSG(penalty=penalty, prox="20%", orthant="30%", eps=eps), optimizer)
    names, phases = matrices(stage.net), []
    for _ in range(10):
        before, moved = stage.step()
        fits = {"prox": True, "orthant": True}
        for name in names:
            x, v, found = (tensor_of(net, name).detach() for net in (before, moved, stage.net))
            orthant = v - RATE * penalty * x.sign()
            orthant = torch.where(orthant * x.sign() > eps, orthant, 0.0)
            soft = v.sign() * (v.abs() - RATE * penalty).clamp(min=0)
            fits["prox"] &= torch.allclose(found, soft, atol=1e-6)
            fits["orthant"] &= torch.allclose(found, orthant, atol=1e-6)
        phases += [phase for phase, fine in fits.items() if fine]
        others = [n for n, _ in stage.net.named_parameters() if n not in names]
        assert all(torch.equal(stage.net.get_parameter(n), moved.get_parameter(n)) for n in others)
    assert phases == ["prox", "prox", "orthant", "orthant", "orthant"] * 2
    assert len(names) == 6
    assert all("encoder.layer" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("orthant", "eps", "sample"), [(None, 0.0, 2**20), (None, 0.01, 500), ("10%", 0.0, 2**20)])
def test_obprox_sg_reaches_its_target_to_the_weight_and_stays_there(optimizer, orthant, eps, sample, monkeypatch):
    monkeypatch.setattr("nasframe_hspg.obprox_sg.SAMPLE", sample)
    modifier = OBProxSG(target="30%", prox="20%", orthant=orthant, eps=eps, ramp_end="70%")
    stage, zeros = Stage(modifier, optimizer, total=20), []
    for _ in range(20):
        before, _ = stage.step()
        tensors = [tensor_of(stage.net, name).detach() for name in matrices(stage.net)]
        zeros.append(sum(int((tensor == 0).sum()) for tensor in tensors))
    goal = round(0.7 * sum(tensor.numel() for tensor in tensors))
    assert zeros[13:] == [goal] * 7
    assert zeros[12] < goal
    if sample == 2**20:
        assert zeros[:13] == pytest.approx([goal * (i + 1) / 14 for i in range(13)], abs=1)
    last = [tensor_of(before, name) == 0 for name in matrices(stage.net)]
    assert all(torch.equal(tensor == 0, zero) for tensor, zero in zip(tensors, last, strict=True))


@pytest.mark.parametrize("make", [HSPG, DHSPG, HESSO, OBProxSG])
def test_a_skipped_step_changes_nothing(make):
    stage = Stage(make())
    for _ in range(3):
        before, _ = stage.step(skipped=True)
        assert all(torch.equal(a, b) for a, b in zip(before.parameters(), stage.net.parameters(), strict=True))
