"""Makes tables of architectures from a finished run: draws and scores them, and counts their costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import CrossableDomain, EnumerableDomain, FeaturedDomain, KnobDomain, ends_of, size_of
from nasframe.measures import formats_of
from nasframe.plugin_errors import naming_plugins
from nasframe.progress import Progress
from nasframe.records import Arch, arch_id
from nasframe.running.feasibility import is_counted
from nasframe.running.reopen import Finished
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import drawn as drawn_archs
from nasframe.search.restrict import restrict
from nasframe.seeds import generator
from nasframe_bench.table_file import ArchTable, read_table, refuse_unwritable_table, write_table

if TYPE_CHECKING:
    import numpy as np

    from nasframe.running.runner import Run
    from nasframe.search.budgets import Costs

Draw = Literal["spread", "uniform"]
SAVE_EVERY = 10.0  # seconds of evaluations that a kill may cost
BAND = 0.02  # how near an architecture is to the cost that is aimed at, as a share of the range
TRIES = 20  # draws in one gap before its band is widened
CANDIDATES = 8  # random architectures of which the one nearest to a gap is taken, if counting takes long
RANGE_DRAWS = 64  # draws that show the range of the costs, if the domain does not know its ends
LAST_DRAWS = 2000  # draws before a domain that cannot be listed counts as drawn whole


@naming_plugins()
def tabulate(
    run: str | Path | Run,
    archs: int,
    *,
    out: str | Path | None = None,
    examples: int | None = None,
    draw: Draw = "spread",
    seed: int = 0,
    stage: str | None = None,
    progress: bool | None = None,
) -> ArchTable:
    """Score architectures of a finished run through its super-network, on ``select``, and count their costs.

    Args:
        run: a finished run, or its directory.
        archs: rows of the table; a smaller space gives them all.
        out: a ``.json`` or ``.csv`` file. A file that this function wrote with the same arguments is continued.
        examples: score on a fixed subset of this size.
        draw: ``spread`` spreads costs evenly from the smallest to the largest, ``uniform`` draws each knob uniformly.
        seed: draws the architectures; a larger ``archs`` begins with the same ones.
        stage: the search whose super-network is used; default: the run's last.
        progress: show bars; default on a terminal only.

    Raises:
        UsageError: the run is not finished, no cost can be counted, or ``out`` holds another table.
    """
    directory = run if isinstance(run, str | Path) else run.directory
    source = Finished(directory, stage)
    with source.plan.file_plugins():
        about = {
            "run": source.plan.name,
            "stage": source.stage.name,
            "data": source.data.get("fingerprint"),
            "split": "select",
            "examples": examples,
            "draw": draw,
            "seed": seed,
        }
        file = TableFile(Path(out) if out else None)
        table = file.begun(about)
        if table is None:
            table = _empty(source, about)
        costs = source.costs(list(table.costs))
        # A table that is continued draws from the beginning again, and passes over the rows that it has.
        scored = {arch_id(row["arch"]) for row in table.rows}
        with Progress(progress).bar("tabulate") as advance:
            slow = not all(is_counted(source.estimator(name), source.space, source.net) for name in table.costs)
            for number, arch in enumerate(drawn(source.region, costs, archs, draw, seed, slow)):
                advance(number, archs, "")
                if arch_id(arch) in scored:
                    continue
                metrics = source.evaluate(arch, examples).metrics
                _name_metrics(table, metrics, source)  # only an evaluation says which metrics a task has
                named = {name: metrics[name] for name in table.metrics}
                row: dict[str, Any] = {
                    "arch": dict(arch),
                    "metrics": named,
                    "costs": _counted(costs, arch, table.costs),
                }
                if table.listed and isinstance(source.region, FeaturedDomain):
                    row["features"] = [float(value) for value in source.region.features(arch)]
                table.rows.append(row)
                file.save_now_and_then(table)
        file.save(table)
    return table


class TableFile:
    """The file of a table that grows, saved every few seconds.

    Args:
        path: the file; ``None`` saves nothing.

    Raises:
        UsageError: the file cannot be written, or its ending is another one than of tables.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            refuse_unwritable_table(path)
        self.saved_at = time.monotonic()

    def begun(self, about: Mapping[str, Any]) -> ArchTable | None:
        """Return the table that an earlier call began.

        Args:
            about: where its rows come from.

        Raises:
            UsageError: another table is in the file.
        """
        if self.path is None or not self.path.exists():
            return None
        table = read_table(self.path)
        if dict(table.about) != about:
            other = dict(table.about) or "nothing of where it comes from"
            raise UsageError(f"{self.path}: holds another table: {other}. Expected {about}, or a new file.")
        return table

    def save(self, table: ArchTable) -> None:
        """Write the table."""
        if self.path is not None:
            write_table(table, self.path)
            self.saved_at = time.monotonic()

    def save_now_and_then(self, table: ArchTable) -> None:
        """Write the table if the last time is some seconds ago."""
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save(table)


def _empty(source: Finished, about: Mapping[str, Any]) -> ArchTable:
    """Return a table without rows, of the domain that was searched and all counted costs."""
    from nasframe import registry
    from nasframe.running.feasibility import bounded_costs, is_estimated

    domain = source.region
    names = sorted({*registry.factories("estimator"), *source.plan.estimators})
    # Costs that are no sum over choices are counted architecture by architecture: those that the search was about.
    named = {"params", "macs", *bounded_costs(source.plan, source.stage)}
    example = drawn_archs(domain, 1)[0]
    costs = []
    for name in names:
        # Measured costs are left out: they depend on the machine, and take as long as an evaluation.
        estimator = source.estimator(name)
        is_sum = is_counted(estimator, source.space, source.net)
        may_be_counted = name in named and is_estimated(estimator)
        if is_sum or (may_be_counted and source.costs([name])(example)):
            costs.append(name)
    if isinstance(domain, KnobDomain):
        return ArchTable(domain.knobs, getattr(domain, "rules", {}), costs=costs, about=about)
    # Without knobs, architectures are listed whole, and samplers move between them by what they have in common.
    whole = source.space.domain
    name, crosses = type(whole).__name__, isinstance(whole, CrossableDomain)
    return ArchTable({}, costs=costs, about=about, listed=name, crosses=crosses)


def _counted(costs: Costs, arch: Arch, names: Sequence[str]) -> dict[str, float]:
    """Return the costs of an architecture.

    Raises:
        UsageError: one of them cannot be counted for it, although it could be for others.
    """
    values = dict(costs(arch))
    for name in names:
        if name not in values:
            raise UsageError(f"{name} cannot be counted for {dict(arch)}. Expected a cost that every architecture has.")
    return values


def _name_metrics(table: ArchTable, metrics: Mapping[str, float], source: Finished) -> None:
    """Set which metrics a table has, and how they read, from an evaluation; the primary one comes first if it can."""
    formats = formats_of(source.task)
    primary = source.data["primary"]
    # Metrics without a format are left out: nobody knows whether more or less of them is better.
    known = [primary, *(name for name in metrics if name in formats and name != primary)]
    minimised = [name for name in known if name in formats and not formats[name].higher_is_better]
    # A table's first metric is the one that its searches maximise.
    table.metrics = [*(name for name in known if name not in minimised), *minimised]
    table.minimise = minimised
    table.percent = [name for name in table.metrics if name in formats and formats[name].percent]


# ---- which architectures


def drawn(region: Any, costs: Costs, count: int, draw: Draw, seed: int, slow: bool = False) -> Iterator[Arch]:
    """Yield different architectures of a domain; a larger ``count`` begins with the same ones.

    Args:
        region: the domain.
        costs: architecture → counted costs; ``spread`` spreads the ``macs``, or the first cost if there are none.
        count: how many; fewer if the domain has fewer.
        draw: ``spread`` begins with the smallest and the largest and goes on into the widest gaps between.
        seed: draws them.
        slow: whether counting the costs of one architecture takes long, because they are no sums over choices.
    """
    ends = ends_of(region)
    gaps = _Gaps(region, costs, ends or _extremes(region, seed))
    archs: dict[str, Arch] = {}
    for number in range(int(min(count, size_of(region)))):
        rng = generator(seed, "tabulate", draw, number)  # its own for each row, so that a larger count draws the same
        arch: Arch | None = None
        if draw == "spread" and number < len(ends):
            arch = ends[number]
        if arch is None or arch_id(arch) in archs:  # the smallest may also be the largest
            position = number - len(ends) + 1
            if slow and draw == "spread":
                arch = gaps.nearest(archs, rng, position)
            else:
                arch = gaps.new_arch(archs, rng, position, anywhere=draw == "uniform")
        if arch is None:
            return
        archs[arch_id(arch)] = arch
        yield arch


def _extremes(region: Any, seed: int) -> list[Arch]:
    """Return random architectures, whose costs show the range of a domain without ends."""
    rng = generator(seed, "tabulate", "range")
    return [region.sample(rng) for _ in range(RANGE_DRAWS)]


class _Gaps:
    """Draws architectures whose cost lies in a gap between those of earlier ones.

    Args:
        region: the domain.
        costs: architecture → counted costs.
        ends: architectures that show how much the cheapest and the dearest cost.

    Raises:
        UsageError: no cost can be counted.
    """

    def __init__(self, region: Any, costs: Costs, ends: Sequence[Arch]) -> None:
        self.region = region
        self.costs = costs
        names = list(costs(ends[0]))
        if not names:
            raise UsageError(
                "no cost of this space can be counted. Expected one, as 'params', to spread architectures."
            )
        self.name = "macs" if "macs" in names else names[0]
        values = [costs(arch)[self.name] for arch in ends]
        self.low, self.high = min(values), max(values)

    def new_arch(
        self, archs: Mapping[str, Arch], rng: np.random.Generator, position: int, anywhere: bool
    ) -> Arch | None:
        """Return an architecture that is not in ``archs``; ``None`` if there is no other.

        The band around the target cost widens until a draw in it is new; in the end it holds the whole domain.

        Args:
            archs: identifier → architecture.
            rng: draws.
            position: of the gap, in the order of :func:`_place`.
            anywhere: whether its cost does not matter.
        """
        width = self.high - self.low
        target = self.low + width * _place(position)
        band = BAND * width
        while True:
            try:
                region = self.region if anywhere else self._near(target, band)
                for _ in range(TRIES):
                    arch: Arch = region.sample(rng)
                    if arch_id(arch) not in archs:
                        return arch
            except UnsatisfiableError:  # no architecture costs that: the band is too narrow
                pass
            if band > 2 * width:  # nearly all are drawn already: look at every one
                return self._first_new(archs, rng)
            band = 2 * band or 1.0  # all may cost the same

    def nearest(self, archs: Mapping[str, Arch], rng: np.random.Generator, position: int) -> Arch | None:
        """Return, of a few new random architectures, the one with the cost nearest to a gap's; ``None`` if none is new.

        It counts few costs. The gaps are filled less evenly than by :meth:`new_arch`, which counts hundreds.
        """
        target = self.low + (self.high - self.low) * _place(position)
        candidates: dict[str, Arch] = {}
        for _ in range(TRIES):
            arch = self.region.sample(rng)
            if arch_id(arch) not in archs:
                candidates[arch_id(arch)] = arch
            if len(candidates) == CANDIDATES:
                break
        if not candidates:
            return self._first_new(archs, rng)
        return min(candidates.values(), key=lambda arch: abs(self.costs(arch)[self.name] - target))

    def _first_new(self, archs: Mapping[str, Arch], rng: np.random.Generator) -> Arch | None:
        if not isinstance(self.region, EnumerableDomain):
            for _ in range(LAST_DRAWS):
                arch = self.region.sample(rng)
                if arch_id(arch) not in archs:
                    return dict(arch)
            return None
        for arch in self.region.enumerate():
            if arch_id(arch) not in archs:
                return dict(arch)
        return None

    def _near(self, target: float, band: float) -> Any:
        """Return the part of the domain whose cost is near a target."""
        screen = Screen({self.name: Bounds(target - band, target + band)}, self.costs)
        return restrict(self.region, keep=screen)


def _place(number: int) -> float:
    """Return the van der Corput sequence in base 2, which fills the unit interval evenly: 1/2, 1/4, 3/4, 1/8 …

    >>> [_place(number) for number in (1, 2, 3, 4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    value = 0.0
    step = 0.5
    while number > 0:
        number, digit = divmod(number, 2)
        value += digit * step
        step /= 2
    return value
