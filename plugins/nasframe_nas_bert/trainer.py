"""Trainer ``blockwise``: teaches every candidate of every block what the teacher's block does, block by block.

    L_n = ‖ f(Y_{n−1}; A_n) − Y_n ‖²                                                                          (N2)

Y_n is the teacher's output of block n, Y_0 that of its embedding, A_n a candidate of block n that is drawn anew in each
step. Every block reads the teacher's own states, so blocks depend on nothing but the teacher, and could be trained on
different machines. Labels of our own, N1 to N8, are listed on the method's page.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import DivergedError, UsageError, listing
from nasframe.interfaces import TrainJob, TrainResult
from nasframe.notices import Notify, say
from nasframe.records import Batch, Count, Natural, sequence_length
from nasframe.seeds import generator, stream_seed

if TYPE_CHECKING:
    import numpy as np
    import torch

EMBEDDING = "embedding"
POINTS = 200
"""Points of the loss curve."""
MOST_WITHOUT_BINS = 2000
"""Candidates of a block of which all are measured at the end."""


class Blockwise:
    """Train the candidates of a space of chains against a teacher's blocks, and drop the worse ones on the way.

    In each step a candidate of each block is drawn uniformly from those that are left, and learns from the teacher's
    input and output of the block. After ``warmup_epochs``, at the end of every epoch, candidates are dropped in bins of
    equal costs, until ``keep`` are left in each; training then ends. What is left is measured on ``select``: the cost
    ``block_loss`` adds these losses up. The times of ``operator_latency`` are stored with the network.

    Under ``torchrun`` each process trains some of the blocks, all of its own.

    Args:
        teacher: name of the saved network whose blocks are learned.
        loss: ``mse``, the mean squared error of states (published); or ``relative``, divided by the mean square of the
            teacher's states, as Puzzle has it.
        score: what ``block_loss`` adds up: the ``loss`` of each candidate (NAS-BERT); or how far the teacher's outputs
            are from those of the teacher with this one block replaced, ``replace`` (Puzzle), which needs a space with
            ``start: teacher``.
        bins: number of bins, by each of ``costs``; a candidate whose costs fall into different bins is left out. 0
            keeps all candidates, as Puzzle does.
        costs: the additive costs that bins are made of; published: parameters and latency. The recipe names them under
            ``estimators``.
        sample: candidates that are looked at in each bin and round; half of them are dropped.
        keep: candidates that are left in each bin.
        warmup_epochs: epochs before the first candidates are dropped.
        shrink_every: steps between rounds; default: an epoch.
        batches: batches of ``select`` that candidates are compared on while they are dropped.
        notify: injected; receives how many candidates are left.
    """

    returns_arch = False
    takes_modifiers = False

    def __init__(
        self,
        teacher: str = "teacher",
        loss: Literal["mse", "relative"] = "mse",
        score: Literal["loss", "replace"] = "loss",
        bins: Natural = 10,
        costs: list[str] | None = None,
        sample: Count = 2000,
        keep: Count = 10,
        warmup_epochs: Natural = 3,
        shrink_every: Count | None = None,
        batches: Count = 5,
        notify: Notify = say,
    ) -> None:
        self.teacher = teacher
        self.loss = loss
        self.score = score
        self.bins = bins
        self.costs = ["params", "operator_latency"] if costs is None else list(costs)
        self.sample = sample
        self.keep = keep
        self.warmup_epochs = warmup_epochs
        self.shrink_every = shrink_every
        self.batches = batches
        self.notify = notify

    def validate(self, job: TrainJob) -> None:
        """Refuse, before any work, a stage with options that this trainer does not have, or without its costs.

        Raises:
            UsageError: names what is wrong.
        """
        options = job.options
        without: dict[str, Any] = {
            "eval_every": options.eval_every,
            "early_stop": options.early_stop,
            "accumulate": None if options.accumulate == 1 else options.accumulate,
            "keep": None if options.keep == "last" else options.keep,
        }
        given = [name for name, value in without.items() if value is not None]
        if given:
            raise UsageError(f"blockwise: has no {listing(given)}: blocks learn from the teacher's states alone.")
        missing = [cost for cost in self.costs if cost not in job.estimators]
        if self.bins and missing:
            raise UsageError(
                f"blockwise.costs: {listing(missing)} is not among the recipe's costs. Expected it under 'estimators'."
            )
        space: Any = job.space
        if space is None:
            return
        if not hasattr(space, "alone"):
            raise UsageError("blockwise: needs a space of chains of operations, such as operator_chains.")
        if self.score == "replace" and space.start != "teacher":
            raise UsageError("blockwise.score: replace needs a space with 'start: teacher', which has all its blocks.")
        count = space.shape.count()
        if not self.bins and count > MOST_WITHOUT_BINS:
            raise UsageError(
                f"blockwise.bins: without bins, all {count:,} candidates of a block would be measured. Expected bins, "
                f"or at most {MOST_WITHOUT_BINS:,} candidates."
            )

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` in place; torch's global generators are left as they were.

        Raises:
            UsageError: the network is no library of chains, or the teacher's width is another one.
            DivergedError: a loss is not finite.
        """
        import torch

        from nasframe.processes import processes

        self.validate(job)
        device = processes().device
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            return _Fit(self, job, device).run()


class _Fit:
    """One stage in progress."""

    def __init__(self, trainer: Blockwise, job: TrainJob, device: torch.device) -> None:
        from nasframe.processes import processes
        from nasframe.training import optim
        from nasframe.training.batches import Feed
        from nasframe.training.checkpoints import Checkpoints
        from nasframe.training.step import Ledger, saved_model
        from nasframe_nas_bert.networks import ChainLibrary

        if not isinstance(job.net, ChainLibrary) or job.space is None:
            raise UsageError(f"stage {job.stage!r}: blockwise trains a library of chains. Expected operator_chains.")
        optim.keep_freed_memory()
        self.trainer = trainer
        self.job = job
        self.device = device
        self.net: ChainLibrary = job.net.to(device).train()
        space: Any = job.space
        self.space = space
        self.teacher: Any = saved_model(job, trainer.teacher).to(device).eval()
        self.feed = Feed(job)
        self.total = optim.total_steps(job, self.feed.epoch_length)
        job.total = self.total
        here = processes()
        self.rank: int = here.process_index
        self.world: int = here.num_processes
        # Blocks do not depend on each other, so each process has some for itself.
        self.own: list[str] = [part for number, part in enumerate(space.parts) if number % self.world == self.rank]
        self.ledger = Ledger()
        self.step = 0
        self.losses: dict[str, list[float]] = {part: [] for part in self.own}
        self.optimizer = optim.make_optimizer(self.net, job.options)
        self.candidates = self._candidates()
        self.survivors = self._survivors()
        self.macs = self._macs()
        self._parents_macs: dict[tuple[tuple[int, ...], int], float] = {}
        self.examined = self._validation()
        parts: dict[str, Any] = {
            "net": self.net,
            "optimizer": self.optimizer,
            "feed": self.feed,
            "ledger": self.ledger,
            "at": self,
        }
        for part, survivors in self.survivors.items():
            parts[f"survivors {part}"] = survivors
        # The blocks of another process are not here, so that several processes could not go on from one state.
        self.checkpoints = Checkpoints(job, parts, writes=self.world == 1)

    def _candidates(self) -> dict[str, list[Any]]:
        """Return the candidates of each part, in the order of the domain's values."""
        candidates: dict[str, list[Any]] = {EMBEDDING: list(self.space.embeddings)}
        for name in self.space.block_names:
            candidates[name] = self.space.chains
        return candidates

    def _survivors(self) -> dict[str, Any]:
        """Return the candidates that are left at the beginning."""
        import numpy as np

        from nasframe_nas_bert.shrinking import Settings, Survivors, bins_of

        trainer = self.trainer
        everything = Settings(bins=0, sample=MOST_WITHOUT_BINS, keep=MOST_WITHOUT_BINS)
        survivors = {EMBEDDING: Survivors(np.zeros(len(self.space.embeddings), dtype=int), everything)}
        if not trainer.bins:
            for name in self.space.block_names:
                survivors[name] = Survivors(np.zeros(len(self.space.chains), dtype=int), everything)
            return survivors
        costs = [self.space.alone(self._prices(cost)) for cost in trainer.costs]
        settings = Settings(trainer.bins, trainer.sample, trainer.keep)
        for name in self.space.block_names:
            bins = bins_of([of_parts[name] for of_parts in costs], trainer.bins)
            survivors[name] = Survivors(bins, settings)
        first = survivors[self.space.block_names[0]]
        if not len(first.left):
            raise UsageError(
                f"stage {self.job.stage!r}: no candidate has {' and '.join(trainer.costs)} in the same of "
                f"{trainer.bins} bins. Expected fewer bins."
            )
        agree = len(first.left) / len(first.bins)
        self.trainer.notify(
            f"stages.{self.job.stage}.trainer.bins",
            f"{len(first.left):,} of {len(first.bins):,} candidates ({agree:.0%}) have {' and '.join(trainer.costs)} "
            f"in the same of {trainer.bins} bins, {len(first.by_bin())} of which have some. The others are left out.",
        )
        return survivors

    def _prices(self, cost: str) -> Mapping[str, float]:
        """Return what each piece costs, read from the cost's own prices."""
        estimator: Any = self.job.estimators[cost]
        times = getattr(estimator, "times", None)
        if times is not None:  # measured once, and kept with the network
            found = times(self.space, self.net)
            if found is None:
                raise UsageError(f"stage {self.job.stage!r}: {cost} cannot be measured on this task's batches.")
            self.net.measured = found.plain()
            prices: Mapping[str, float] = found.median
            return prices
        return _prices_by_pieces(self.space, self.net, estimator, cost)

    def _macs(self) -> dict[str, np.ndarray]:
        """Return the multiply-adds of each candidate on one token, with the maps that it is trained between."""
        from nasframe.training.macs import probe_inputs
        from nasframe_nas_bert.pieces import macs_of

        inputs = probe_inputs(self.job.task)
        tokens = inputs["input_ids"].numel()
        by_piece = macs_of(self.space.pieces(self.net), inputs)
        costs: dict[str, np.ndarray] = self.space.alone(by_piece)
        return {part: of_part / tokens for part, of_part in costs.items()}

    # ---- the teacher

    def _teacher_states(self, inputs: Mapping[str, torch.Tensor], counts: bool = True) -> list[torch.Tensor]:
        """Return Y_0 … Y_N, the teacher's states behind the embedding and behind each block."""
        import torch

        from nasframe.training.optim import autocast

        began = time.perf_counter()
        with torch.no_grad(), autocast(self.job.options.precision, self.device):
            hidden = self.teacher(**inputs, output_hidden_states=True).hidden_states
        of_block = self.space.layers // self.space.blocks
        if len(hidden) != self.space.layers + 1 or hidden[0].shape[-1] != self.space.width:
            raise UsageError(
                f"stage {self.job.stage!r}: the teacher {self.trainer.teacher!r} has {len(hidden) - 1} layers of width "
                f"{hidden[0].shape[-1]}. Expected {self.space.layers} of width {self.space.width}."
            )
        if counts:
            self._count_teacher(inputs, time.perf_counter() - began)
        return [hidden[number * of_block].float() for number in range(self.space.blocks + 1)]

    def _count_teacher(self, inputs: Mapping[str, torch.Tensor], seconds: float) -> None:
        from nasframe.training.macs import MacCounter

        if not hasattr(self, "_counter"):
            self._counter = MacCounter(self.job.task, None, self.trainer.notify, f"stages.{self.job.stage}")
        examples = len(inputs["input_ids"])
        macs = self._counter.macs(self.teacher, None, examples, sequence_length(inputs))
        tokens = inputs["input_ids"].numel()
        self.ledger.add("teacher", steps=1, examples=examples, tokens=tokens, forward_macs=macs, seconds=seconds)

    def _validation(self) -> list[tuple[Mapping[str, torch.Tensor], list[torch.Tensor]]]:
        """Return some batches of ``select`` with the teacher's states on them."""
        examined: list[tuple[Mapping[str, torch.Tensor], list[torch.Tensor]]] = []

        def forward(**inputs: torch.Tensor) -> Any:
            on_device = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            examined.append((on_device, self._teacher_states(on_device)))
            return self.teacher(**on_device)

        examples = self.trainer.batches * self.job.options.batch_size
        self.job.task.evaluate(forward, "select", examples)
        return examined

    # ---- training

    def run(self) -> TrainResult:
        """Make the steps that are left, drop candidates when it is time, and measure what is left."""
        self.checkpoints.load()
        every = self.trainer.shrink_every or self.feed.epoch_length
        warmup = self.trainer.warmup_epochs * self.feed.epoch_length
        shrinks = bool(self.trainer.bins)
        while self.step < self.total and not (shrinks and self.step > warmup and self.done):
            self.train_step(next(self.feed).to(self.device))
            if shrinks and self.step > warmup and self.step % every == 0:
                self.shrink()
            self.checkpoints.save_if_due()
        if self.step < self.total:
            text = f"Every bin has {self.trainer.keep} candidates or fewer, so training ended after {self.step} of "
            self.trainer.notify(f"stages.{self.job.stage}", f"{text}{self.total} steps.")
        return self.finish()

    @property
    def done(self) -> bool:
        """Whether no part has more candidates than it keeps."""
        return all(self.survivors[part].done for part in self.own)

    def train_step(self, batch: Batch) -> None:
        """Train a candidate of each part on a batch; the gradients of parts have nothing in common."""
        from nasframe.training import optim

        job = self.job
        rate = optim.learning_rate(job.options, self.step, self.total)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        states = self._teacher_states(batch.inputs)
        began = time.perf_counter()
        tokens = batch.inputs["input_ids"].numel()
        for part in self.own:
            # Streams of each part and step by itself: with other parts, or without them, they are the same.
            rng = generator(job.seed, "candidate", job.stage, part, self.step)
            candidate = int(rng.choice(self.survivors[part].left))
            optim.seed_torch(stream_seed(job.seed, "dropout", job.stage, part, self.step), self.device)
            loss = self.loss(part, candidate, batch.inputs, states)
            value = float(loss.detach())
            if not value < float("inf"):
                raise DivergedError(
                    f"stage {job.stage!r}: training diverged at step {self.step} of {self.total}: the loss of {part} "
                    f"is {value}. A lower learning_rate may help."
                )
            self.losses[part].append(value)
            macs = float(self.macs[part][candidate]) * tokens
            self.ledger.add("student", forward_macs=macs)
            if loss.requires_grad:  # a block that is left out has no weights
                loss.backward()
                optim.clip(self._parameters(part), job.options.max_grad_norm)
                self.ledger.add("student", backward_macs=2 * macs)
        self.optimizer.step()
        self.step += 1
        self.ledger.add("student", steps=1, examples=len(batch), tokens=tokens, seconds=time.perf_counter() - began)
        self.log(rate)

    def loss(
        self, part: str, candidate: int, inputs: Mapping[str, torch.Tensor], states: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return how far a candidate's output is from the teacher's, over real tokens (N2).

        Args:
            part: the part.
            candidate: the number of its candidate.
            inputs: the batch's.
            states: the teacher's, from :meth:`_teacher_states`.
        """
        from nasframe.nn.losses import masked_mse
        from nasframe_nas_bert.networks import seen

        mask = seen(inputs["input_ids"], inputs.get("attention_mask"))
        output = self._output(part, candidate, inputs, states, mask)
        target = states[self.space.parts.index(part)]  # Y_0 of the embedding, Y_n of block n
        error = masked_mse(output, target, mask)  # (N2)
        if self.trainer.loss == "relative":
            error = error / masked_mse(target, target * 0, mask)  # (P1)
        return error

    def _output(
        self,
        part: str,
        candidate: int,
        inputs: Mapping[str, torch.Tensor],
        states: Sequence[torch.Tensor],
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return what a candidate gives in place of its part of the teacher."""
        from nasframe.training.optim import autocast

        chosen = self.candidates[part][candidate]
        with autocast(self.job.options.precision, self.device):
            if part == EMBEDDING:
                output: torch.Tensor = self.net.embed(chosen, inputs["input_ids"], inputs.get("token_type_ids"))
            else:
                number = self.space.block_names.index(part)
                output = self.net.blocks[number](states[number], mask, chosen.width, chosen.operations)
        return output.float()

    def _parameters(self, part: str) -> list[torch.nn.Parameter]:
        """Return the parameters of a part."""
        if part == EMBEDDING:
            return [*self.net.embeddings.parameters(), *self.net.embedding_maps.parameters()]
        return list(self.net.blocks[self.space.block_names.index(part)].parameters())

    def log(self, rate: float) -> None:
        """Log the mean loss of each part since the last point."""
        interval = max(1, self.total // POINTS)
        if self.step % interval and self.step < self.total:
            return
        values = {"learning_rate": rate}
        means = []
        for part, losses in self.losses.items():
            if losses:
                values[f"loss {part}"] = sum(losses) / len(losses)
                means.append(values[f"loss {part}"])
                losses.clear()
        values["loss"] = sum(means) / max(len(means), 1)
        if self.rank == 0:
            self.job.log(self.step, values)
            self.job.progress(self.step, self.total, f"loss {values['loss']:.4f}")

    # ---- shrinking

    def measured(self, part: str, candidate: int) -> float:
        """Return the mean loss of a candidate on the batches of ``select``."""
        import torch

        total = 0.0
        examples = 0
        with torch.no_grad():
            for inputs, states in self.examined:
                count = len(inputs["input_ids"])
                total += float(self.loss(part, candidate, inputs, states)) * count
                examples += count
                tokens = inputs["input_ids"].numel()
                macs = float(self.macs[part][candidate]) * tokens
                self.ledger.add("evaluation", examples=count, tokens=tokens, forward_macs=macs)
        self.ledger.add("evaluation", evaluations=1)
        return total / examples

    def scored(self, part: str, candidate: int) -> float:
        """Return the score of a candidate that is left."""
        if self.trainer.score == "loss":
            return self.measured(part, candidate)
        return self.divergence(part, candidate)

    def divergence(self, part: str, candidate: int) -> float:
        """Return how far the teacher's outputs are from those with one part replaced, the mean over ``select`` (P2)."""
        import torch

        from nasframe.interfaces import output_kind
        from nasframe.nn.losses import matching
        from nasframe_nas_bert.networks import seen

        kind = output_kind(self.job.task)
        total = 0.0
        examples = 0
        with torch.no_grad():
            for inputs, states in self.examined:  # (P2): KL(teacher ‖ teacher with the part replaced)
                mask = seen(inputs["input_ids"], inputs.get("attention_mask"))
                output = self._output(part, candidate, inputs, states, mask)
                following = 0 if part == EMBEDDING else self.space.block_names.index(part) + 1
                logits = self.parent.head(self._through_parent(output, mask, following))
                expected = self.parent.head(states[-1])
                error = matching(kind, logits, expected)  # of classes: KL(teacher ‖ replaced)
                count = len(mask)
                total += float(error) * count
                examples += count
                macs = float(self.macs[part][candidate]) * mask.numel() + self._parent_macs(output, mask, following)
                self.ledger.add("evaluation", examples=count, tokens=mask.numel(), forward_macs=macs)
        self.ledger.add("evaluation", evaluations=1)
        return max(total / examples, 0.0)  # rounding makes a divergence of 0 negative

    def _through_parent(self, states: torch.Tensor, mask: torch.Tensor, first: int) -> torch.Tensor:
        """Run the teacher's own blocks from one on."""
        return _through_blocks(self.parent, states, mask, first)

    def _parent_macs(self, states: torch.Tensor, mask: torch.Tensor, first: int) -> float:
        """Return the multiply-adds of the teacher's own blocks from one on and its head, on states of this shape."""
        from nasframe.nn.traced import forward_macs, weightless

        key = (tuple(mask.shape), first)
        if key not in self._parents_macs:
            parent: Any = weightless(self.parent)

            def forward(states: torch.Tensor, mask: torch.Tensor) -> Any:
                return parent.head(_through_blocks(parent, states, mask, first))

            self._parents_macs[key] = forward_macs(forward, {"states": states, "mask": mask})
        return self._parents_macs[key]

    @functools.cached_property
    def parent(self) -> Any:
        """The teacher as a chain, whose blocks can be run one by one."""
        import torch

        with torch.random.fork_rng(devices=[]):
            library = self.space.supernet(self.teacher)
        return self.space.extract(library, self.space.whole()).to(self.device).eval()

    def shrink(self) -> None:
        """Drop candidates in each bin of each block."""
        began = time.perf_counter()
        self.net.eval()
        left = {}
        for part in self.own:
            survivors = self.survivors[part]
            rng = generator(self.job.seed, "shrink", self.job.stage, part, self.step)
            survivors.shrink(lambda candidate, part=part: self.measured(part, candidate), rng)
            left[f"candidates {part}"] = float(len(survivors.left))
        self.net.train()
        self.ledger.add("evaluation", seconds=time.perf_counter() - began)
        if self.rank == 0:
            self.job.log(self.step, left)

    def finish(self) -> TrainResult:
        """Measure what is left of each part, and keep the losses with the network."""
        self.checkpoints.save()
        began = time.perf_counter()
        self.net.eval()
        losses: dict[str, dict[str, float]] = {}
        unfinished = []
        for part in self.own:
            survivors = self.survivors[part]
            if self.trainer.bins and not survivors.done:
                unfinished.append(part)
            rng = generator(self.job.seed, "finish", self.job.stage, part)
            of_part, _ = survivors.finish(lambda candidate, part=part: self.scored(part, candidate), rng)
            names = [str(value) for value in self.space.domain.knobs[part]]
            losses[part] = {names[candidate]: loss for candidate, loss in of_part.items()}
        if unfinished:
            self.trainer.notify(
                f"stages.{self.job.stage}",
                f"Training ended before every bin of {listing(unfinished)} had {self.trainer.keep} candidates. Of "
                f"those that are left, up to {self.trainer.sample} of each bin were measured, and the best are kept.",
            )
        self.ledger.add("evaluation", seconds=time.perf_counter() - began)
        self.net.losses = self._gathered(losses)
        self._exchange()
        self.optimizer.zero_grad(set_to_none=True)
        return TrainResult(self.net, None, self.ledger.entries())

    def _gathered(self, losses: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """Return the losses of all parts, whichever process has trained them."""
        if self.world == 1:
            return losses
        from accelerate.utils import gather_object

        gathered: dict[str, dict[str, float]] = {}
        for of_process in gather_object([losses]):
            gathered |= of_process
        return {part: gathered[part] for part in self.space.parts}

    def _exchange(self) -> None:
        """Give each process the blocks that others have trained."""
        if self.world == 1:
            return
        import torch

        for number, part in enumerate(self.space.parts):
            for parameter in self._parameters(part):
                torch.distributed.broadcast(parameter.data, src=number % self.world)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of training."""
        return {"step": self.step, "losses": self.losses, "measured": self.net.measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.step = state["step"]
        self.net.measured = state["measured"]  # bins were made by these times, and a new measurement would differ
        self.losses = {part: list(losses) for part, losses in state["losses"].items()}


def _through_blocks(parent: Any, states: torch.Tensor, mask: torch.Tensor, first: int) -> torch.Tensor:
    """Run the blocks of a chain from one on."""
    for block in list(parent.blocks)[first:]:
        for layer in block:
            states = layer(states, mask)
    return states


def _prices_by_pieces(space: Any, net: Any, estimator: Any, cost: str) -> dict[str, float]:
    """Return what each piece costs by an estimator that counts pieces.

    Raises:
        UsageError: it does not.
    """
    of_piece = getattr(estimator, "of_piece", None)
    prices = {}
    for name, piece in space.pieces(net).items():
        price = None if of_piece is None else of_piece(net, piece)
        if price is None:
            raise UsageError(f"blockwise.costs: {cost!r} is no sum over operations. Expected params, macs, size …")
        prices[name] = float(price)
    return prices
