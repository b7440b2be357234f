"""Iterative pruning on a schedule (ROSITA: Liu, Lin, Yuan, AAAI 2021, arXiv 2103.11367, §3 and its published code).

The method is this modifier in a chain of stages, each of which teaches the next. Fine-tune; train the pre-trained
network by distillation; prune its depth while it is distilled; prune its width (heads, neurons and the rank of the word
embedding together) while it is distilled, hidden states included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Le

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn.factorize import refactor_embedding
from nasframe.nn.importance import Accumulated, ranked
from nasframe.nn.rewire import rewire
from nasframe.records import Arch, Count, Percent
from nasframe.training.selection import free_to_reorder
from nasframe.training.step import saved_model
from nasframe.units import share
from nasframe_rosita.schedule import RANK, UNITS, all_sizes, default_times, lowered, sizes_within


class ScheduledPrune(Modifier):
    """Train through smaller and smaller views: at the end of each interval the least important parts are cut.

    If ``layers`` is given, the top layers go. Heads and neurons are scored by ``|w| · mean |∂L/∂w|`` over the steps
    since the last cut and sorted, in place, so that the view keeps the best of each layer. The word embedding,
    factorised by ``transform: svd``, loses its last columns. The stage needs a space and ``arch: {}``; its result is
    the architecture that is left.

    Args:
        layers: number of layers at the end, or a share of them (``"50%"``), rounded to the nearest number.
        heads: number of heads at the end, in each kept layer.
        ffn: number of neurons at the end, in each kept layer.
        embedding_rank: rank of the word embedding at the end.
        target: in place of ``heads`` and ``ffn``: the share (``"50%"``) of the encoder parameters of ``of`` that
            remains at the end. Both shrink to about the same share.
        of: the saved network that ``target`` is a share of.
        times: number of cuts, evenly spaced and of equal size; 1 is the one-step schedule. Default, as published: one
            for each removed layer; if none, one for each removed head; if none, 10.
        over: share of the stage's steps over which the cuts are spread; published: 0.01 to 0.1 for width, 0.2 to 0.5
            for depth.
        moments: the optimiser's moments: ``reset`` them at each cut, as published, or ``keep`` them, sorted like the
            weights.
        lower: how the embedding loses columns: ``truncate`` the last ones, as published, or ``svd``: its factors are
            first rotated so that the last columns are the least important again.

    Raises:
        UsageError: nothing to prune, or sizes that exclude each other.
    """

    reads_space = False
    returns_arch = True

    def __init__(
        self,
        layers: Count | Percent | None = None,
        heads: Count | None = None,
        ffn: Count | None = None,
        embedding_rank: Count | None = None,
        target: Percent | None = None,
        of: str = "teacher",
        times: Count | None = None,
        over: Annotated[float, Gt(0), Le(1)] = 0.1,
        moments: Literal["reset", "keep"] = "reset",
        lower: Literal["truncate", "svd"] = "truncate",
    ) -> None:
        self.layer_share = None
        if isinstance(layers, str):
            self.layer_share = share("scheduled_prune.layers", layers)
            layers = None
        self.goal = {"layers": layers, "heads": heads, "ffn": ffn, RANK: embedding_rank}
        if target is not None and (heads or ffn):
            raise UsageError("scheduled_prune: target stands for heads and ffn. Expected it or them, not both.")
        if target is None and self.layer_share is None and not any(self.goal.values()):
            raise UsageError(
                "scheduled_prune: nothing to prune. Expected layers, heads, ffn, embedding_rank or target."
            )
        self.target = None
        if target is not None:
            self.target = share("scheduled_prune.target", target)
        self.of = of
        self.times = times
        self.over = over
        self.moments = moments
        self.lower = lower
        self.done = 0  # cuts
        self.sums: Accumulated | None = None
        self.pending: list[torch.Tensor | None] = []  # this step's absolute gradients, until it is known to count
        self.loaded: Mapping[str, Any] = {}  # a state to go on from, until there are sums to take it

    def validate(self, job: TrainJob) -> None:
        """Refuse stages that are not trained through one view, and sizes that the network does not have.

        Raises:
            UsageError: it says which.
        """
        if job.net is None:
            return
        if job.space is None or job.arch is None or job.sampler is not None:
            raise UsageError(
                f"scheduled_prune: stage {job.stage!r} cannot be pruned on a schedule. Expected a space, no sampler, "
                "and 'arch: {}', so that one network is trained through views."
            )
        full = self.full_sizes(job)
        lowered(full, self.sizes_to_end_with(full), 1.0)

    def validate_length(self, job: TrainJob) -> None:
        """Refuse a stage with too few steps for its cuts.

        How many cuts there are may depend on sizes that earlier stages or the target decide on; there is one at least.

        Raises:
            UsageError: it says how many steps there are.
        """
        self.interval_between(self.times or self.fewest_cuts(job), job.total)

    def fewest_cuts(self, job: TrainJob) -> int:
        """Return how many cuts there are at least, if ``times`` does not say."""
        if job.net is None:
            return 1
        full = self.full_sizes(job)
        goal = self.sizes_to_end_with(full)
        removes_layers = goal.get("layers", len(full["layers"])) < len(full["layers"])
        if self.target is not None and not removes_layers:
            return 1  # one for each head that goes, which shows when the target is met
        return default_times(full, goal)

    def interval_between(self, times: int, total: int) -> int:
        """Return how many steps lie between two cuts.

        Raises:
            UsageError: not even one.
        """
        interval = int(self.over * total / times)  # (R6)
        if total and interval < 1:  # the length is unknown, 0, if nothing is to be trained
            raise UsageError(
                f"scheduled_prune: {times} cuts within {self.over:g} of {total} steps. Expected at least a step "
                "for each: a longer stage, a larger 'over' or fewer 'times'."
            )
        return interval

    def full_sizes(self, job: TrainJob) -> dict[str, Any]:
        """Return every size at the start of a stage."""
        complete = getattr(job.space, "sizes", dict)  # a space may give sizes that an architecture leaves out
        return all_sizes(job.net, complete(job.arch or {}))

    def sizes_to_end_with(self, full: Mapping[str, Any]) -> dict[str, int]:
        """Return the sizes that the options name; a share of layers is of those at the start."""
        sizes = {unit: size for unit, size in self.goal.items() if size is not None}
        if self.layer_share is not None:
            nearest = int(len(full["layers"]) * self.layer_share + 0.5)
            sizes["layers"] = max(1, nearest)
        return sizes

    def on_start(self, job: TrainJob) -> None:
        """Make the schedule.

        Raises:
            UsageError: sizes that the network does not have, or a stage that is too short.
        """
        self.validate(job)
        free_to_reorder(job, "scheduled_prune", within=True)
        full = self.full_sizes(job)
        goal = self.sizes_to_end_with(full)
        if self.target is not None:
            whole = saved_model(job, self.of)
            goal |= sizes_within(job.net, full, goal.get("layers"), self.target, whole)
        times = self.times or default_times(full, goal)
        self.archs = [lowered(full, goal, t / times) for t in range(times + 1)]
        self.interval = self.interval_between(times, job.total)
        if self.sums is None and any(unit in goal for unit in UNITS):
            self.sums = Accumulated(job.net)
        self.restore()

    def on_batch(self, step: Step) -> None:
        """Cut at the end of an interval, and lower the architecture."""
        if step.index == 0:  # all modifiers have started by now, so that each has said what it needs in order
            free_to_reorder(step.job, "scheduled_prune", within=True)
        due = min(step.index // self.interval, len(self.archs) - 1)
        while self.done < due:
            self.cut(step.job, step.optimizer)
            step.job.log(step.index, {"cuts": self.done})
        arch = self.archs[self.done]
        step.arch = arch
        step.job.arch = arch  # the stage's own, which is evaluated on select

    def on_gradients(self, step: Step) -> None:
        """Keep this step's absolute gradients, before they are clipped."""
        has_cuts_ahead = self.done < len(self.archs) - 1
        if self.sums is None or not has_cuts_ahead:
            return
        self.pending = []
        for weight in self.sums.weights():
            if weight.grad is None:
                self.pending.append(None)
            else:
                self.pending.append(step.job.reduce(weight.grad).abs())

    def on_update(self, step: Step) -> None:
        """Add them to the sums, unless the step was skipped."""
        if self.sums is not None and self.pending and not step.skipped:
            self.sums.add(self.pending)
        self.pending = []

    def cut(self, job: TrainJob, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Sort the heads and neurons of the kept layers by their scores, rotate the embedding, and go one step on."""
        now = self.archs[self.done]
        following = self.archs[self.done + 1]
        if self.sums is not None and self.sums.steps:
            orders = ranked(self.sums.scores())  # (R3); units outside the view have no gradient, hence come last
            orders_of_kept: dict[str, dict[int, torch.Tensor]] = {}
            for unit in UNITS:
                orders_of_kept[unit] = {i: orders[unit][i] for i in now["layers"]}
            rewire(job.net, orders_of_kept, optimizer)
            self.sums.reset()
        self.done += 1
        rotated: list[torch.nn.Parameter] = []
        if self.lower == "svd" and following.get(RANK) != now.get(RANK):
            rotated = refactor_embedding(job.net, now[RANK])
        if optimizer is None:
            return
        if self.moments == "reset":
            optimizer.state.clear()  # (R7)
        for parameter in rotated:  # their moments are those of other columns
            optimizer.state.pop(parameter, None)

    def on_finish(self, job: TrainJob) -> Arch:
        """Return the last architecture; a stage that was stopped early makes up for the cuts it missed."""
        while self.done < len(self.archs) - 1:
            self.cut(job)
        return self.archs[self.done]

    def state_dict(self) -> dict[str, Any]:
        """Return how many cuts were made, and the sums since the last one."""
        if self.sums is None:
            return {"done": self.done}
        return {"done": self.done, "steps": self.sums.steps, "sums": list(self.sums.sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""
        self.loaded = state
        self.restore()

    def restore(self) -> None:
        """Take over a loaded state as soon as there are sums to take it."""
        state = self.loaded
        if not state:
            return
        self.done = state["done"]
        if self.sums is not None and "sums" in state:
            for total, stored in zip(self.sums.sums, state["sums"], strict=True):
                total.copy_(stored)
            self.sums.steps = state["steps"]
            self.loaded = {}
