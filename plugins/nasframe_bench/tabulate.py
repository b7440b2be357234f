"""Tables of architectures out of a finished run: drawn, scored through its super-network, and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.measures import formats_of
from nasframe.plugin_errors import naming_plugins
from nasframe.progress import Progress
from nasframe.records import Arch, arch_id
from nasframe.running.reopen import Finished
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.restrict import restrict
from nasframe.seeds import generator
from nasframe_bench.table_file import ArchTable, read_table, write_table

if TYPE_CHECKING:
    from nasframe.running.runner import Run
    from nasframe.search.budgets import Costs

Draw = Literal["spread", "uniform"]
SAVE_EVERY = 10.0  # seconds of evaluations that a kill may cost
BAND = 0.02  # how near a draw comes to its cost, as a share of the range
TRIES = 20  # draws of one place before its band is widened


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
    """Score architectures of a finished run through its super-network, on ``select``, and count what they cost.

    Args:
        run: a finished run, or its directory.
        archs: rows of the table; a smaller space gives them all.
        out: a ``.json``, ``.csv`` or ``.parquet`` file. One that this function wrote with the same arguments is gone
            on with.
        examples: score on a fixed subset of so many examples.
        draw: ``spread`` has costs evenly from the smallest to the largest, ``uniform`` draws each knob uniformly.
        seed: draws the architectures; more of them begin with the same.
        stage: the search whose super-network is used; default: the run's last.
        progress: show bars; default on a terminal only.

    Raises:
        UsageError: the run is not finished, its space has no knobs, or ``out`` holds another table.
    """
    finished = Finished(run if isinstance(run, str | Path) else run.directory, stage)
    with finished.plan.file_plugins():
        return _tabulated(finished, archs, out, examples, draw, seed, progress)


def _tabulated(
    finished: Finished,
    archs: int,
    out: str | Path | None,
    examples: int | None,
    draw: Draw,
    seed: int,
    progress: bool | None,
) -> ArchTable:
    """Do the work of :func:`tabulate`."""
    about = {"run": finished.plan.name, "stage": finished.stage.name, "data": finished.data.get("fingerprint")}
    about |= {"split": "select", "examples": examples, "draw": draw, "seed": seed}
    path = Path(out) if out else None
    table = _begun(path, about) or _empty(finished, about)
    known = {arch_id(row["arch"]) for row in table.rows}
    costs, saved = finished.costs(list(table.costs)), time.monotonic()
    formats, primary = formats_of(finished.inputs.task), finished.data["primary"]
    with Progress(progress).bar("tabulate") as advance:
        for number, arch in enumerate(drawn(finished.region, costs, archs, draw, seed)):
            advance(number, archs, "")
            if arch_id(arch) in known:
                continue
            metrics = finished.evaluate(arch, examples).metrics
            told = [name for name in metrics if name in formats and name != primary]
            table.metrics = [primary, *told]  # of others nobody knows which way they are better
            table.minimise = [name for name in told if not formats[name].higher_is_better]
            table.percent = [name for name in table.metrics if name in formats and formats[name].percent]
            kept = {name: metrics[name] for name in table.metrics}
            table.rows.append({"arch": dict(arch), "metrics": kept, "costs": dict(costs(arch))})
            if path and time.monotonic() - saved > SAVE_EVERY:
                write_table(table, path)
                saved = time.monotonic()
    if path:
        write_table(table, path)
    return table


def drawn(region: Any, costs: Costs, count: int, draw: Draw, seed: int) -> Iterator[Arch]:
    """Yield different architectures of a domain, the same ones first however many are asked for.

    Args:
        region: the domain.
        costs: architecture → counted costs; the ``macs`` are what ``spread`` spreads, else the first.
        count: how many; fewer where the domain has fewer.
        draw: ``spread`` begins with the smallest and the largest and goes on into the widest gaps between.
        seed: draws them.
    """
    found: dict[str, Arch] = {}
    ends = [region.smallest(), region.largest()]
    name = "macs" if "macs" in costs(ends[0]) else next(iter(costs(ends[0])))
    low, high = sorted(costs(arch)[name] for arch in ends)
    for number in range(min(count, region.size)):
        rng, band = generator(seed, "tabulate", draw, number), BAND * (high - low)
        arch = ends[number] if draw == "spread" and number < len(ends) else None
        while arch is None or arch_id(arch) in found:
            target = low + (high - low) * _place(number - 1)
            near = Screen({name: Bounds(target - band, target + band)}, costs)
            try:
                part = restrict(region, keep=near) if draw == "spread" else region
                tried = (part.sample(rng) for _ in range(TRIES))
                arch = next((a for a in tried if arch_id(a) not in found), None)
            except UnsatisfiableError:
                arch = None
            if arch is None and band > 2 * (high - low):  # nearly all are found: look at every one
                arch = next((a for a in region.enumerate() if arch_id(a) not in found), None)
                if arch is None:
                    return
            band *= 2
        found[arch_id(arch)] = arch
        yield arch


def _place(number: int) -> float:
    """Return the van der Corput sequence in base 2, which fills the unit interval evenly: 1/2, 1/4, 3/4, 1/8 …

    >>> [_place(number) for number in (1, 2, 3, 4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    value, step = 0.0, 0.5
    while number > 0:
        number, digit = divmod(number, 2)
        value, step = value + digit * step, step / 2
    return value


def _begun(path: Path | None, about: dict[str, Any]) -> ArchTable | None:
    """Read the table that was begun, and refuse another one."""
    if path is None or not path.exists():
        return None
    table = read_table(path)
    if dict(table.about) != about:
        found = dict(table.about) or "nothing of where it comes from"
        raise UsageError(f"{path}: holds another table: {found}. Expected {about}, or a new file.")
    return table


def _empty(finished: Finished, about: dict[str, Any]) -> ArchTable:
    from nasframe import registry
    from nasframe.running.feasibility import is_counted

    domain, space, net = finished.region, finished.space, finished.net
    if not hasattr(domain, "knobs"):
        raise UsageError(f"{type(domain).__name__} has no knobs. Expected a space whose architectures are choices.")
    names = sorted({*registry.factories("estimator"), *finished.plan.estimators})
    costs = [name for name in names if is_counted(finished.estimator(name), space, net)]
    return ArchTable(domain.knobs, domain.rules, costs=costs, about=about)
