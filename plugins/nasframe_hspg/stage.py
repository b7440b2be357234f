"""The common part of the sparse optimisers: shares of groups, the choice among them, and how zero groups leave.

``GroupModifier`` is their base. The functions below it read options and score, choose and count groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn import count as costs_of
from nasframe.nn.blueprint import blueprint
from nasframe.nn.channels import removable_groups
from nasframe.nn.groups import Grouped, zeros_last
from nasframe.options import renamed
from nasframe.records import Percent, ShareText, Translation
from nasframe.training.equivalence import without_zeros
from nasframe.training.selection import free_to_reorder, whole_network
from nasframe.units import share

Unit: TypeAlias = Literal["heads", "ffn"]
Share: TypeAlias = ShareText
Shares: TypeAlias = Share | dict[Unit, Share]
LOGGED = 200  # times a stage
CHANNELS = 0.1  # of each layer stay: without shortcuts nothing gets past a layer that is gone


class GroupModifier(Modifier):
    """A modifier that makes groups of weights zero; at the end they come last, and it returns the sizes of the others.

    Args:
        units: which kinds of groups; ``None`` is all that the network has.
        min_kept: the share of each layer's groups that always stays; ``None`` is none of an encoder's, which has a
            shortcut around each layer, and a tenth of channels.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this.
        size: the share of the encoder's parameters that stays, in place of a target.
    """

    name = "groups"
    returns_arch = True
    former_names: ClassVar[Mapping[str, str]] = {"until": "ramp_end", "least": "min_kept"}
    cap: torch.Tensor
    """How many groups of each kind may become zero, ``(kinds,)``; subclasses with ``target`` or ``caps`` set it."""
    target: float | dict[str, float] | None = None
    caps: float | dict[str, float] | None = None

    def __init__(
        self,
        units: Sequence[str] | None,
        min_kept: Share | None = None,
        divisible: int = 1,
        size: Percent | None = None,
    ) -> None:
        self.units = units
        self.divisible = divisible
        self.min_kept = None if min_kept is None else share("min_kept", min_kept, ends=True)
        self.size = None if size is None else share("size", size)

    @classmethod
    def translate_options(cls, options: Mapping[str, Any]) -> Translation:
        """Read options by the names that they had in earlier versions."""
        return renamed(f"modifier {cls.name!r}", options, cls.former_names)

    def on_start(self, job: TrainJob) -> None:
        """Find the groups."""
        whole_network(job, self.name)
        self.groups = Grouped(job.net, removable_groups(job.net, self.units))
        of_channels = self.groups.units == ["channels"]
        if not of_channels:
            free_to_reorder(job, self.name)
        if self.size is not None:
            self.target = self.target_within(job.net, self.groups.units)
        min_kept = self.min_kept
        if min_kept is None:
            min_kept = CHANNELS if of_channels else 0.0
        self.guards_layers = min_kept > 0
        removable = [int(count * (1 - min_kept)) for count in self.groups.counts]
        self.removable = torch.tensor(removable, device=self.groups.unit.device)  # of each entry of `groups`

    def target_within(self, net: nn.Module, units: Sequence[str]) -> float:
        """Return the largest share of heads and of neurons with which an encoder is within ``size``.

        It holds whichever groups stay: the dearest ones are assumed to. Biases and norms that belong to no group always
        stay, so the share is a little smaller than ``size``.

        Raises:
            UsageError: the groups are not heads and neurons, or even without any of them the encoder is larger.
        """
        if set(units) != {"heads", "ffn"}:
            raise UsageError(
                f"{self.name}: size: the groups are {' and '.join(units)}. Expected a target for these: a size is a "
                "share of an encoder's parameters, which both heads and neurons make up."
            )
        assert self.size is not None
        cost = costs_of.params(net, "encoder")
        fixed = cost.base
        dearest: dict[str, list[float]] = {"heads": [], "ffn": []}
        for full, layer in zip(cost.full, cost.layers, strict=True):
            fixed += layer.fixed + (self.divisible - 1) * layer.neuron  # what rounding up may add
            dearest["heads"] += [layer.head] * (full["heads"] // cost.group)
            dearest["ffn"] += [layer.neuron] * full["ffn"]
        # The cost of each number of units that stay, if the dearest do.
        staying = [[0.0, *itertools.accumulate(sorted(costs, reverse=True))] for costs in dearest.values()]
        most = self.size * cost.of()
        for thousandths in range(999, 0, -1):
            part = thousandths / 1000
            total = fixed
            for costs in staying:
                total += costs[round(part * (len(costs) - 1))]
            if total <= most:
                return part
        always = fixed / cost.of()
        raise UsageError(
            f"{self.name}: size {self.size:.1%}: what always stays is {always:.1%} of the encoder. "
            "Expected a larger size."
        )

    def cap_of_target(self) -> torch.Tensor:
        """Return how many groups of each kind have to become zero for the target, ``(kinds,)``.

        Raises:
            UsageError: layers have to keep more.
        """
        assert self.target is not None
        kept = of_units("target", self.target, self.groups.units, 1.0)
        total = numbers(self.groups)
        staying = total * torch.tensor(kept, device=total.device)
        cap = total - staying.round()
        self.check(cap, "target")
        return cap

    def choose(
        self, scores: torch.Tensor, candidates: torch.Tensor, gone: torch.Tensor, room: torch.Tensor
    ) -> torch.Tensor:
        """Choose the candidates of the lowest scores.

        Args:
            scores: ``(groups,)``.
            candidates: ``(groups,)`` booleans: which may be chosen.
            gone: ``(groups,)`` booleans: which have left already.
            room: ``(kinds,)`` how many of each kind may be chosen. Fewer are if a layer would keep too little.
        """
        if not candidates.any():
            return candidates
        groups = self.groups
        if self.guards_layers:
            left = self.removable - torch.bincount(groups.layer, gone.float(), len(self.removable))
            candidates = lowest(scores, candidates, groups.layer, left)
        return lowest(scores, candidates, groups.unit, room)

    def check(self, cap: torch.Tensor, option: str) -> None:
        """Refuse a goal for which too much of the layers has to stay.

        Raises:
            UsageError: fewer groups may go than the goal asks for.
        """
        kinds = [self.groups.units.index(entry.unit) for entry in self.groups.groups]
        kind = torch.tensor(kinds, device=cap.device)
        removable = torch.bincount(kind, self.removable.float(), len(cap))
        if (removable < cap).any():
            raise UsageError(f"{self.name}: {option} and min_kept do not go together: too little of a layer may go.")

    def validate(self, job: TrainJob) -> None:
        """Refuse stages that this does not go with, and kinds of groups that the network does not have.

        Raises:
            UsageError: it says which.
        """
        whole_network(job, self.name)
        if job.net is None:
            return
        entries = removable_groups(job.net, self.units)
        units = list(dict.fromkeys(entry.unit for entry in entries))
        if units != ["channels"]:
            free_to_reorder(job, self.name)
        if self.size is not None:
            self.target_within(job.net, units)
        for option, value in (("target", self.target), ("caps", self.caps)):
            if isinstance(value, Mapping):
                of_units(f"{self.name}: {option}", value, units, 1.0)

    def on_finish(self, job: TrainJob) -> dict[str, Any]:
        """Make zero what a target still lacks, bring zeros to the end, and return the sizes of all others."""
        if self.target is not None:
            self.complete(job)
        return settled(job, self.groups, self.divisible)

    @torch.no_grad()
    def complete(self, job: TrainJob) -> None:
        """Make as many groups zero as the target still lacks, those nearest to it, and log their shares."""
        groups = self.groups
        groups.bind()
        zero = groups.zero()
        missing = (self.cap - count(groups, zero)).clamp(min=0)
        if not missing.any():
            return
        mean_squares = groups.squares() / groups.sizes  # so that groups of different sizes compare
        groups.clear_(self.choose(mean_squares, ~zero, zero, missing))
        late = (missing / numbers(groups)).tolist()
        names = [f"late_{unit}" for unit in groups.units]
        job.log(job.total, dict(zip(names, late, strict=True)))
        job.progress(job.total, job.total, f"target missed by {max(late):.1%} of the groups: made zero at the end")


def target_or_size(name: str, target: Shares | None, size: Percent | None) -> None:
    """Refuse a target together with a size."""
    if target is not None and size is not None:
        raise UsageError(f"{name}: target and size both say how much stays. Expected one of them.")


def shares(option: str, value: Shares, ends: bool = False) -> float | dict[str, float]:
    """Read one share for all kinds of groups, or one for each."""
    if not isinstance(value, Mapping):
        return share(option, value, ends=ends)
    return {unit: share(f"{option}.{unit}", part, ends=ends) for unit, part in value.items()}


def of_units(option: str, value: float | Mapping[str, float], units: Sequence[str], rest: float) -> list[float]:
    """Return a share for each kind of groups that a network has, ``rest`` for those not named.

    Raises:
        UsageError: a kind is named that the network does not have, or was not chosen.
    """
    if not isinstance(value, Mapping):
        return [value] * len(units)
    foreign = value.keys() - set(units)
    if foreign:
        raise UsageError(f"{option}: there are no groups {', '.join(sorted(foreign))!r}. Expected {', '.join(units)}.")
    return [value.get(unit, rest) for unit in units]


def numbers(groups: Grouped) -> torch.Tensor:
    """Return how many groups there are of each kind, ``(kinds,)``."""
    return torch.bincount(groups.unit, minlength=len(groups.units))


def count(groups: Grouped, which: torch.Tensor) -> torch.Tensor:
    """Return how many groups of each kind a ``(groups,)`` mask has, ``(kinds,)``."""
    return torch.bincount(groups.unit, which.float(), len(groups.units))


def lowest(scores: torch.Tensor, candidates: torch.Tensor, kind: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Choose the candidates of the lowest scores, at most a given number of each kind.

    Args:
        scores: ``(groups,)``.
        candidates: ``(groups,)`` mask.
        kind: ``(groups,)`` kind of each.
        room: ``(kinds,)`` how many may be chosen.

    >>> scores = torch.tensor([3.0, 1.0, 2.0, 0.0])
    >>> everyone = torch.ones(4, dtype=torch.bool)
    >>> lowest(scores, everyone, kind=torch.tensor([0, 0, 0, 1]), room=torch.tensor([2, 0])).tolist()
    [False, True, True, False]
    """
    # In the order by kind, and by score within a kind, the rank of a group among its kind is its place in the whole
    # order less the first place of its kind. So there is no loop over kinds, of which `choose` has one for each layer.
    by_score = torch.where(candidates, scores, torch.inf).argsort(stable=True)
    order = by_score[kind[by_score].argsort(stable=True)]
    number_of_kind = torch.bincount(kind, minlength=len(room))
    first_of_kind = number_of_kind.cumsum(0) - number_of_kind
    places = torch.arange(len(order), device=order.device)
    ranks_in_order = places - first_of_kind[kind[order]]
    rank = torch.empty_like(order).scatter_(0, order, ranks_in_order)
    return candidates & (rank < room[kind])


def spread(scores: torch.Tensor, unit: torch.Tensor, kinds: int) -> torch.Tensor:
    """Scale scores to 0 … 1 within each kind of groups.

    >>> spread(torch.tensor([1.0, 3.0, 2.0, 7.0]), torch.tensor([0, 0, 0, 1]), 2)
    tensor([0.0000, 1.0000, 0.5000, 0.0000])
    """
    low = scores.new_full((kinds,), torch.inf).scatter_reduce(0, unit, scores, "amin")
    high = scores.new_full((kinds,), -torch.inf).scatter_reduce(0, unit, scores, "amax")
    # If all scores of a kind are equal, they become 0, not 0 / 0.
    extent = (high - low).clamp(min=torch.finfo(scores.dtype).tiny)
    return (scores - low[unit]) / extent[unit]


def direction(step: Step, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return ∇, the direction that the stage's optimiser took: (x − x') / α, for AdamW without its decoupled decay.

    Args:
        step: the step that was made.
        before: x, the tensors as they were.
        after: x', the network's own tensors as the optimiser left them.
    """
    decays: dict[int, float] = {}
    if isinstance(step.optimizer, torch.optim.AdamW):
        for group in step.optimizer.param_groups:
            for parameter in group["params"]:
                decays[id(parameter)] = group["weight_decay"]
    directions = []
    for old, new in zip(before, after, strict=True):
        decay = decays.get(id(new), 0.0)
        directions.append((old - new.detach()) / step.lr - decay * old)  # (H17)
    return directions


def settled(job: TrainJob, groups: Grouped, divisible: int = 1) -> dict[str, Any]:
    """Bring the zero groups of an encoder to the end of their layers; return the sizes of what is left.

    The network with its zeros and the sub-network of these sizes are compared on a batch; the largest difference of
    their logits is logged as ``removal_error``. Of another network only the channels left are counted.

    Args:
        job: the stage.
        groups: of its network.
        divisible: each layer's number of neurons is rounded up to a multiple of this; zero ones fill it up.

    Raises:
        VerificationError: the two differ.
    """
    zero = groups.zero()
    if groups.units == ["channels"]:
        left = {}
        for entry, mask in groups.layers(zero):
            left[f"channels.{entry.layer}"] = int((~mask).sum())
        return left
    masks: dict[str, dict[int, torch.Tensor]] = {}
    for entry, mask in groups.layers(zero):
        masks.setdefault(entry.unit, {})[entry.layer] = mask.cpu()

    def remove() -> dict[str, Any]:
        arch = zeros_last(job.net, masks)
        for i, full in enumerate(blueprint(job.net)["layers"]):
            rounded_up = -(-arch[f"ffn.{i}"] // divisible) * divisible
            arch[f"ffn.{i}"] = min(rounded_up, full["ffn"])
        return arch

    job.log(job.total, zero_shares(groups, zero))
    return without_zeros(job, remove)


def zero_shares(groups: Grouped, zero: torch.Tensor) -> dict[str, float]:
    """Return the share of zero groups of each kind, by the name it is logged under."""
    parts = count(groups, zero) / numbers(groups)
    names = [f"zero_{unit}" for unit in groups.units]
    return dict(zip(names, parts.tolist(), strict=True))


def to_log(step: Step) -> bool:
    """Tell whether this step's numbers are to be logged."""
    return (step.index + 1) % max(1, step.total // LOGGED) == 0
