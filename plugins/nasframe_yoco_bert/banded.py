"""Sampler ``banded_sng``: a distribution over few choices for each band of costs, learned by comparing equal costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.notices import Notify, say
from nasframe.records import Arch, Count, Percent, Positive, Share, Trial, arch_id
from nasframe_yoco_bert.natural_gradient import natural_gradient, step, utility

ROUNDING = 1e-9
"""By which share two sizes may differ and still be the same."""
WORST = 1e30
"""The loss of a network whose loss is not a finite number."""
Rows = np.ndarray
"""``(n, D)`` positions of the choices of n architectures of one size."""


PLAIN = ("training", "total", "steps", "probed", "updates", "prior_is_set", "has_warned")
"""Attributes that are part of the state as they are."""


@dataclass
class Band:
    """A size of networks, and what is known of its choices.

    Args:
        size: the value of the knob that orders by cost.
        theta: ``(D, K)`` the distribution over the choices.
        uncovered: numbers of choices that coverage has still to train.
        picked: the positions of the choice that ``choose: random`` drew; ``None`` until it is drawn.
    """

    size: Any
    theta: np.ndarray
    uncovered: list[int] = field(default_factory=list)
    picked: list[int] | None = None


class BandedSNG:
    """Trains a few networks, one for each of several sizes, and learns for each size which shape it should have.

    The domain has one knob that orders by cost, ``size``, and others that divide a size (space ``compound``). Some
    sizes are *bands*. A training walks over the bands, one network a step, in three phases under one schedule:

    1. *coverage*: each band trains all its choices in turn;
    2. *learning*: choices are drawn from the band's distribution θ, which follows the natural gradient of what the
       modifier ``probes`` measures: several networks of one size on the same sentences. Neighbouring bands share it;
    3. *concentration*: each band trains its most likely choice alone. Some steps train sizes between the bands, so
       that budgets that nobody named have trained networks, too.

    A search proposes, for each budget, the most likely choices at the largest size that meets it.

    Args:
        domain: the domain to propose from, with the knob ``size``.
        seed: draws the proposals.
        bands: a list of sizes, such as ``["12%", "25%", "50%"]``, or their number, spread evenly over the list of the
            domain's sizes.
        choose: how the shape of a band is chosen: ``learned`` by θ, ``prior`` by the modifier ``importance_prior``,
            ``random`` by one draw for each band. The last two are controls.
        coverage: the share of the steps for the first phase.
        learning: the share of the steps for the second phase. The rest is concentration.
        between: the share of the steps of the third phase that train sizes between bands.
        pace: how steps are divided among the bands: in proportion to their size to the power of ``-pace``. 0 divides
            evenly, 1 gives each band equal compute.
        lam: λ, the number of networks that a probe compares.
        delta: δ, the length of a step of θ in the Fisher metric.
        neighbours: the step of θ in the two neighbouring bands after a probe, as a share of δ.
        top: number of architectures that a search proposes for each budget.
        notify: injected; is told if nothing that a training had could decide on the shapes.

    Raises:
        UsageError: a domain without the knob, a band outside its sizes, or phases that are longer than the training.
    """

    along = "size"
    needs = ("knobs", "encode", "enumerate")

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        bands: Count | list[Percent] = 5,
        choose: Literal["learned", "prior", "random"] = "learned",
        coverage: Share = 0.1,
        learning: Share = 0.4,
        between: Share = 0.1,
        pace: Annotated[float, Ge(-4), Le(4)] = 0.0,
        lam: Annotated[Count, Ge(2)] = 8,
        delta: Positive = 0.3,
        neighbours: Share = 0.5,
        top: Count = 2,
        notify: Notify = say,
    ) -> None:
        registry.refuse_domain("sampler 'banded_sng'", domain, self.needs)
        knobs = domain.knobs
        if self.along not in knobs or len(knobs) < 2:
            raise UsageError(
                "sampler 'banded_sng' needs a domain with the knob 'size' and choices of one size, as the space "
                f"'compound' has. It got the knobs {', '.join(knobs)}."
            )
        if coverage + learning > 1:
            raise UsageError(
                f"sampler 'banded_sng': coverage {coverage} and learning {learning} are {coverage + learning:g} of the "
                "training. Expected at most 1 together."
            )
        self.domain = domain
        self.choose = choose
        self.coverage = coverage
        self.learning = learning
        self.between = between
        self.lam = lam
        self.delta = delta
        self.neighbours = neighbours
        self.top = top
        self.rng = np.random.default_rng(seed)
        self.names = [name for name in knobs if name != self.along]
        self.shape = np.array([len(knobs[name]) for name in self.names])
        self.ladder = list(knobs[self.along])
        uniform = np.arange(self.shape.max()) < self.shape[:, None]
        self.uniform = uniform / self.shape[:, None]
        self.bands = [Band(size, self.uniform.copy()) for size in self._band_sizes(bands)]
        self.shares = np.array([float(band.size) ** -pace for band in self.bands])
        self.shares /= self.shares.sum()
        self.notify = notify
        self.prior_is_set = False
        self.updates = 0
        self._rows_of: dict[tuple[int, Any], Rows] = {}
        self._regions: dict[int, Any] = {}  # keeps restricted domains alive, so that no other one can get their id
        self.start("", 0, "search")

    def _band_sizes(self, bands: int | list[str]) -> list[Any]:
        """Return the sizes of the bands: those of the ladder at or just below the wished ones, ascending."""
        ladder = np.array(self.ladder, float)
        if isinstance(bands, int):
            # From the largest downwards, so that one band is the largest size.
            positions = np.linspace(len(ladder) - 1, 0, bands).round().astype(int)
            return [self.ladder[position] for position in sorted(set(positions.tolist()))]
        wished = np.array([float(text.removesuffix("%")) for text in bands])
        smallest, largest = ladder[0] * (1 - ROUNDING), ladder[-1] * (1 + ROUNDING)
        outside = [f"{size:g}%" for size in wished if not smallest <= size <= largest]
        if outside or not len(wished):
            named = ", ".join(outside) or "none"
            raise UsageError(
                f"sampler 'banded_sng': bands: {named}. Expected sizes from {ladder[0]:g}% to {ladder[-1]:g}%."
            )
        positions = np.searchsorted(ladder, wished * (1 + ROUNDING), side="right") - 1
        return [self.ladder[position] for position in sorted(set(positions.tolist()))]

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Begin a stage; what θ has learned stays."""
        self.training = origin == "train"
        self.total = total
        self.steps = 0
        self.credit = np.zeros(len(self.bands))
        self.probed = 0
        self.proposed: set[str] = set()
        self.has_warned = False
        self._rows_of.clear()
        self._regions.clear()
        for band in self.bands:
            band.uncovered = []

    # ---- architectures of one size

    def _rows(self, size: Any, within: Any) -> Rows:
        """Return the choices that a region has at a size."""
        key = (id(within), size)
        if key not in self._rows_of:
            self._regions[id(within)] = within
            choices = itertools.product(*(range(count) for count in self.shape))
            rows = [row for row in choices if within.contains(self._arch(size, row))]
            self._rows_of[key] = np.array(rows, dtype=int).reshape(len(rows), len(self.names))
        return self._rows_of[key]

    def _arch(self, size: Any, row: Sequence[int]) -> Arch:
        knobs = self.domain.knobs
        arch = {self.along: size}
        for name, position in zip(self.names, row, strict=True):
            arch[name] = knobs[name][position]
        return self.domain.canonical(arch)

    def _probabilities(self, theta: np.ndarray, rows: Rows) -> np.ndarray:
        """Return ``(n,)`` how likely each choice is: θ, restricted to the region and renormalised."""
        likelihood = theta[np.arange(len(self.shape)), rows].prod(1)
        return likelihood / likelihood.sum()

    def _preferred(self, band: Band, rows: Rows) -> int:
        """Return the number of the choice that concentration trains."""
        if self.choose != "random":
            return int(self._probabilities(band.theta, rows).argmax())
        if band.picked is None:
            band.picked = rows[self.rng.integers(len(rows))].tolist()
        # Another size may not have that very choice; the one with most of its values is then the nearest.
        differences = (rows != band.picked).sum(1)
        return int(differences.argmin())

    # ---- proposals

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Propose ``n`` networks: in training the walk's next ones, in a search the best guesses for a budget."""
        region = self.domain if within is None else within
        if not self.training:
            return self._guesses(n, region)
        archs = [self._next(region) for _ in range(n)]
        return [arch for arch in archs if arch is not None]

    @property
    def progress(self) -> float:
        """The share of the training's steps that are done."""
        return self.steps / max(self.total, 1)

    def _next(self, region: Any) -> Arch | None:
        """Return the next network of the walk over the bands, ``None`` if the region has none of their sizes."""
        concentrates = self.progress >= self.coverage + self.learning
        if concentrates:
            self._require_evidence()
        if concentrates and len(self.bands) > 1 and self.rng.random() < self.between:
            arch = self._between(region)
            if arch is not None:
                return arch
        band, rows = self._take_turn(region)
        if band is None:
            return None
        if concentrates:
            number = self._preferred(band, rows)
        elif self.progress < self.coverage or self.choose != "learned":
            number = self._uncovered(band, rows)
        else:
            number = int(self.rng.choice(len(rows), p=self._probabilities(band.theta, rows)))
        return self._arch(band.size, rows[number])

    def _require_evidence(self) -> None:
        """Say so if nothing has told the sampler which shapes are better, since one of them is now trained alone.

        Raises:
            UsageError: shapes are to be chosen by a prior, and there is none.
        """
        if self.choose == "prior" and not self.prior_is_set:
            raise UsageError(
                "sampler 'banded_sng': choose: prior, but no prior was given. Expected the modifier 'importance_prior' "
                "in the training stage."
            )
        has_evidence = self.prior_is_set or self.updates > 0
        if self.choose == "learned" and not has_evidence and not self.has_warned:
            self.has_warned = True
            self.notify(
                "sampler",
                "Neither the modifier 'probes' nor 'importance_prior' told the sampler which shapes are better, so it "
                "takes the first shape of each size.",
            )

    def _take_turn(self, region: Any) -> tuple[Band | None, Rows]:
        """Return the band that is furthest behind its share of the steps, among those that the region has."""
        rows_of = [self._rows(band.size, region) for band in self.bands]
        has_rows = np.array([len(rows) > 0 for rows in rows_of])
        if not has_rows.any():
            return None, rows_of[0]
        self.credit += self.shares
        number = int(np.where(has_rows, self.credit, -np.inf).argmax())
        self.credit[number] -= self.credit.sum()  # the sum stays 0, also if some bands are never taken
        return self.bands[number], rows_of[number]

    def _uncovered(self, band: Band, rows: Rows) -> int:
        """Return the next choice in turn, in an order that is drawn again for each round."""
        band.uncovered = [number for number in band.uncovered if number < len(rows)]
        if not band.uncovered:
            band.uncovered = self.rng.permutation(len(rows)).tolist()
        return band.uncovered.pop()

    def _between(self, region: Any) -> Arch | None:
        """Return a network of a size between the first and the last band, shaped as the nearest band prefers."""
        low = self.ladder.index(self.bands[0].size)
        high = self.ladder.index(self.bands[-1].size)
        size = self.ladder[int(self.rng.integers(low, high + 1))]
        rows = self._rows(size, region)
        if not len(rows):
            return None
        return self._arch(size, rows[self._preferred(self._nearest(size), rows)])

    def _nearest(self, size: Any) -> Band:
        """Return the band whose size is nearest in ratio."""
        return min(self.bands, key=lambda band: abs(math.log(float(band.size) / float(size))))

    def _guesses(self, n: int, region: Any) -> list[Arch]:
        """Return the most likely choices at the largest size in a region, those that were not proposed yet."""
        size = self._largest_size(region)
        if size is None:
            return []
        band = self._nearest(size)
        rows = self._rows(size, region)
        order = np.argsort(-self._probabilities(band.theta, rows), kind="stable").tolist()
        if self.choose == "random":
            preferred = self._preferred(band, rows)
            order = [preferred, *(number for number in order if number != preferred)]
        archs: list[Arch] = []
        for number in order[: self.top]:
            arch = self._arch(size, rows[number])
            name = arch_id(arch)
            if name not in self.proposed and len(archs) < n:
                self.proposed.add(name)
                archs.append(arch)
        return archs

    def _largest_size(self, region: Any) -> Any:
        """Return the largest size of which a region has a network, ``None`` if it has none."""
        sizes = self._sizes_in(region)
        # Bisected first, because asking for each size is slow if a cost is measured. If the region also has a lower
        # bound, all the sizes that were tried may lie outside of it, and then each size is asked for.
        low, high = 0, len(sizes)  # the largest one known to have a network is at ``low - 1``
        while low < high:
            middle = (low + high) // 2
            if len(self._rows(sizes[middle], region)):
                low = middle + 1
            else:
                high = middle
        if low:
            return sizes[low - 1]
        return next((size for size in reversed(sizes) if len(self._rows(size, region))), None)

    def _sizes_in(self, region: Any) -> list[Any]:
        """Return the sizes that a region's restriction of the knobs leaves; a condition may still refuse some."""
        if not hasattr(region, "allowed"):
            return self.ladder
        axis = list(region.dims).index(self.along)
        return [self.ladder[position] for position in region.allowed[axis]]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Count a step. Losses of training are not compared: they are of other batches and other sizes."""
        self.steps += 1

    # ---- learning

    def set_prior(self, mass: Callable[[Arch], float]) -> None:
        """Start each band half from uniform and half from importance.

        Args:
            mass: architecture → how much of the network's importance it keeps.
        """
        self.prior_is_set = True
        for band in self.bands:
            rows = self._rows(band.size, self.domain)
            if not len(rows):  # the domain has the size, but no choice fills it
                continue
            masses = np.array([mass(self._arch(band.size, row)) for row in rows])
            spread = masses.std() or 1.0
            preference = np.exp((masses - masses.mean()) / spread)
            preference /= preference.sum()
            marginal = np.zeros_like(self.uniform)
            for row, share in zip(rows, preference, strict=True):
                marginal[np.arange(len(self.shape)), row] += share
            weight = 1.0 if self.choose == "prior" else 0.5
            band.theta = (1 - weight) * self.uniform + weight * marginal  # (Y17)

    def probe(self) -> list[Arch]:
        """Return up to λ different networks of one size to compare, none if there is nothing to learn now."""
        is_learning = self.coverage <= self.progress < self.coverage + self.learning
        if not self.training or self.choose != "learned" or not is_learning:
            return []
        band = self.bands[self.probed % len(self.bands)]
        self.probed += 1
        rows = self._rows(band.size, self.domain)
        if len(rows) < 2:  # nothing to compare
            return []
        count = min(self.lam, len(rows))
        numbers = self.rng.choice(len(rows), count, replace=False, p=self._probabilities(band.theta, rows))
        return [self._arch(band.size, rows[number]) for number in numbers]

    def hear(self, archs: Sequence[Arch], losses: Sequence[float]) -> None:
        """Learn from the losses of networks of one size on the same examples: one update of θ, and of its neighbours'.

        Args:
            archs: what :meth:`probe` returned.
            losses: lower is better; one that is not finite ends up last.
        """
        if len(archs) < 2:
            return
        self.updates += 1
        sizes = [band.size for band in self.bands]
        here = sizes.index(archs[0][self.along])
        knobs = self.domain.knobs
        samples = np.array([[knobs[name].index(arch[name]) for name in self.names] for arch in archs])
        finite_losses = np.nan_to_num(np.array(losses, float), nan=WORST, posinf=WORST)
        utilities = utility(finite_losses)
        mask = np.ones(samples.shape, bool)
        for number, delta in ((here - 1, self.neighbours), (here, 1.0), (here + 1, self.neighbours)):
            if 0 <= number < len(self.bands) and delta > 0:
                band = self.bands[number]
                gradient = natural_gradient(band.theta, samples, utilities, mask)
                band.theta = step(band.theta, gradient, delta * self.delta, self.shape)  # (Y19)

    @property
    def theta(self) -> dict[Any, dict[str, list[float]]]:
        """Size of a band → knob → the probabilities of its values."""
        table = {}
        for band in self.bands:
            table[band.size] = {name: band.theta[d, : self.shape[d]].tolist() for d, name in enumerate(self.names)}
        return table

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Return θ of each band, the walk's position and the generator's state."""
        return {
            "rng": self.rng.bit_generator.state,
            "theta": [band.theta.tolist() for band in self.bands],
            "uncovered": [list(band.uncovered) for band in self.bands],
            "picked": [band.picked for band in self.bands],
            "credit": self.credit.tolist(),
            "proposed": sorted(self.proposed),
            **{name: getattr(self, name) for name in PLAIN},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]
        for band, theta, uncovered, picked in zip(
            self.bands, state["theta"], state["uncovered"], state["picked"], strict=True
        ):
            band.theta = np.array(theta, float)
            band.uncovered = list(uncovered)
            band.picked = picked
        self.credit = np.array(state["credit"], float)
        self.proposed = set(state["proposed"])
        for name in PLAIN:
            setattr(self, name, state[name])
