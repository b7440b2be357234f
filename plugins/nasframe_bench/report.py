"""The result of a benchmark of samplers, and its tables, figure and page.

:func:`summarise` turns plays into a :class:`nasframe_bench.records.Result`; everything below it shows one.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.report.tables import markdown_table
from nasframe.search.pareto import hypervolume, pareto_front
from nasframe.store import write_text
from nasframe_bench.arena import Arena
from nasframe_bench.records import (
    Curve,
    Difference,
    Machine,
    Moments,
    Play,
    RawShares,
    Result,
    SamplerResult,
    TableFacts,
    result_text,
)
from nasframe_studies.stats import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {"hypervolume": "HV share", "regret": "regret"}
"""Measure → its heading: the share of the true front's hypervolume (more is better), and the regret."""
SAME = 1e-12
"""Regret up to which the optimum counts as found."""
# One hue each, in the order in which samplers are drawn; with more samplers they come again, as dashed lines.
COLORS = ("#3b76e1", "#e08a2c", "#2a9d78", "#8c97a8", "#b2457c", "#7d5bd0", "#5a6b1f", "#8a4b2a")


def anytime(arena: Arena, plays: Mapping[str, Sequence[Play]]) -> dict[str, dict[str, np.ndarray]]:
    """Turn plays into curves over the evaluations.

    Args:
        arena: the table.
        plays: label → plays.

    Returns:
        Label → ``regret`` (how far the best score so far is below the optimum) and, for several objectives,
        ``hypervolume`` (as a share of the true front's), each ``(seeds, budget)``; a play that ended early keeps its
        last value. If a model answers for the table, the optimum is the best that any play found.
    """
    budget = arena.contest.budget
    truth = arena.points
    if truth is None:
        truth = _all_points(plays)
    optimum = truth[:, 0].max()  # the first objective is the score
    with_front = truth.shape[1] > 1
    if with_front:
        true_front = truth[pareto_front(truth)]
        true_volume = hypervolume(true_front, arena.reference)

    curves = {}
    for label, records in plays.items():
        regrets = []
        shares = []
        for record in records:
            # A play without an evaluation has no regret (NaN), but it does have a front: an empty one, of volume 0.
            regrets.append(_padded(optimum - _best_so_far(record.points), budget, empty=math.nan))
            if with_front:
                volumes = _volume_shares(record.points, arena.reference, true_volume)
                shares.append(_padded(volumes, budget, empty=0.0))
        curves[label] = {"regret": np.array(regrets)}
        if with_front:
            curves[label]["hypervolume"] = np.array(shares)
    return curves


def _all_points(plays: Mapping[str, Sequence[Play]]) -> np.ndarray:
    points: list[Sequence[float]] = []
    for records in plays.values():
        for record in records:
            points += record.points
    return np.array(points)


def _best_so_far(points: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the best score after each evaluation; the score is the first objective."""
    scores = [point[0] for point in points]
    return np.maximum.accumulate(np.array(scores, float))


def _volume_shares(points: Sequence[Sequence[float]], reference: Sequence[float], whole: float) -> np.ndarray:
    """Return the hypervolume after each evaluation, as a share of the true front's."""
    volumes = _volumes(points, reference)
    if whole == 0:  # no architecture beats the reference point: there was nothing to find
        return np.ones(len(volumes))
    return volumes / whole


def _volumes(points: Sequence[Sequence[float]], reference: Sequence[float]) -> np.ndarray:
    """Return the hypervolume after each evaluation."""
    # The hypervolume is dear and most points do not change it, so it is computed only if the front moves.
    front: list[Sequence[float]] = []
    volumes: list[float] = []
    for point in points:
        if any(_covers(other, point) for other in front):
            volumes.append(volumes[-1])
            continue
        front = [other for other in front if not _covers(point, other)]
        front.append(point)
        volumes.append(hypervolume(front, reference))
    return np.array(volumes)


def _covers(point: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether a point is at least as good as another in every objective."""
    return all(a >= b for a, b in zip(point, other, strict=True))


def _padded(curve: np.ndarray, budget: int, empty: float) -> np.ndarray:
    """Extend a curve to the budget by its last value, or by ``empty`` if it has none."""
    last = curve[-1] if len(curve) else empty
    rest = np.full(max(budget - len(curve), 0), last)
    return np.concatenate([curve[:budget], rest])


def summarise(
    arena: Arena,
    uses: Mapping[str, Any],
    plays: Mapping[str, Sequence[Play]],
    seeds: Sequence[int],
    at: Sequence[int],
) -> Result:
    """Turn plays into a result.

    Args:
        arena: the table.
        uses: label → sampler with its options; the others are compared with the first.
        plays: label → plays, by seed.
        seeds: the seeds.
        at: evaluations after which samplers are compared.
    """
    curves = anytime(arena, plays)
    samplers = []
    for label, records in plays.items():
        samplers.append(_sampler_result(label, uses[label], records, curves[label], at))
    return Result(
        contest=arena.contest,
        table=_table(arena),
        seeds=list(seeds),
        at=list(at),
        machine=machine(),
        samplers=samplers,
        differences=_differences(curves, at),
    )


def _sampler_result(
    name: str,
    use: Mapping[str, Any],
    plays: Sequence[Play],
    curves: Mapping[str, np.ndarray],
    at: Sequence[int],
) -> SamplerResult:
    """Summarise the plays of one sampler and their curves."""
    moments = {}
    means = {}
    for measure, curve in curves.items():
        moments[measure] = {n: _moments(curve[:, n - 1]) for n in at}
        means[measure] = _mean_curve(curve)
    found = {}
    for n in at:
        is_optimum = curves["regret"][:, n - 1] <= SAME  # one value a seed; NaN, without an evaluation, is none
        found[n] = float(np.mean(is_optimum))

    def total(field: str) -> float:
        return float(sum(getattr(play, field) for play in plays))

    evaluations = sum(len(play.points) for play in plays)
    # A sampler that never proposed anything has wasted nothing: its shares are 0.
    proposals = max(total("proposals"), 1)
    asks = max(total("asks"), 1)
    return SamplerResult(
        name=name,
        use=use,
        evaluations=evaluations / len(plays),
        proposals_per_evaluation=total("proposals") / max(evaluations, 1),
        repeats=total("repeat") / proposals,
        infeasible=total("screened") / proposals,
        failed=total("failed"),
        ask_ms=1e3 * total("ask_seconds") / asks,
        tell_ms=1e3 * total("tell_seconds") / asks,
        ended=sorted({play.ended for play in plays if play.ended}),
        raw=_raw_shares(plays),
        at=moments,
        found=found,
        curves=means,
    )


def _raw_shares(plays: Sequence[Play]) -> RawShares | None:
    """Return the waste of one sampler without the search loop; ``None`` if it was not played that way."""
    proposals = repeats = infeasible = 0
    for play in plays:
        if play.raw is None:
            return None
        proposals += play.raw.proposals
        repeats += play.raw.repeat
        infeasible += play.raw.infeasible
    proposals = max(proposals, 1)
    return RawShares(repeats=repeats / proposals, infeasible=infeasible / proposals)


def _table(arena: Arena) -> TableFacts:
    table = arena.space.table
    rows, knobs, reference = len(table.rows), len(table.knobs), list(arena.reference)
    if arena.points is None:
        about = arena.space.model.about
        truth = "the best that any play found"
        return TableFacts(rows=rows, knobs=knobs, reference=reference, truth=truth, model=about)
    return TableFacts(
        rows=rows,
        knobs=knobs,
        reference=reference,
        truth="the table's own",
        feasible=len(arena.points),
        best=float(arena.points[:, 0].max()),
    )


def _differences(curves: Mapping[str, Mapping[str, np.ndarray]], at: Sequence[int]) -> list[Difference]:
    """Compare the first sampler with each other, paired over the seeds."""
    first, *others = curves
    differences = []
    for other in others:
        for measure in _measures(curves[first]):
            for n in at:
                gaps = curves[first][measure][:, n - 1] - curves[other][measure][:, n - 1]
                gaps = gaps[np.isfinite(gaps)]  # a play without an evaluation has no regret
                if len(gaps) == 0:
                    continue
                mean, low, high = t_interval(gaps)
                difference = Difference(
                    sampler=first,
                    other=other,
                    measure=measure,
                    at=n,
                    seeds=len(gaps),
                    mean=float(mean),
                    low=_finite(low),
                    high=_finite(high),
                )
                differences.append(difference)
    return differences


def machine() -> Machine:
    """Return the facts that timings depend on."""
    from importlib import metadata

    # Optuna's samplers may be among the opponents, and it is an extra.
    versions = {name: metadata.version(name) for name in ("nasframe", "numpy")}
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions["optuna"] = metadata.version("optuna")
    return Machine(
        platform=platform.platform(),
        cpus=os.cpu_count(),
        threads=os.environ.get("OMP_NUM_THREADS"),
        versions=versions,
    )


def write(result: Result, folder: Path) -> None:
    """Write ``bench.json``, ``bench.md``, ``bench.html`` and ``bench.png`` / ``.svg`` into a folder."""
    from markupsafe import Markup

    from nasframe.report import plots
    from nasframe.report.page import render

    folder.mkdir(parents=True, exist_ok=True)
    # save() writes the files and returns the SVG, which the page holds inline.
    picture = plots.save(figure(result), folder / "bench", "anytime curves")
    page = render(
        "bench.html",
        "nasframe_bench",
        result=result,
        figure=Markup(picture),
        about=about(result),
        quality=quality_rows(result),
        waste=waste_rows(result),
        differences=difference_rows(result),
    )
    write_text(folder / "bench.json", result_text(result) + "\n")
    write_text(folder / "bench.md", markdown(result))
    write_text(folder / "bench.html", page)


def markdown(result: Result) -> str:
    """Return the result's tables as Markdown."""
    parts = [about(result)]
    for header, *rows in (quality_rows(result), waste_rows(result)):
        parts.append(markdown_table(header, rows))
    if result.differences:
        header, *rows = difference_rows(result)
        parts.append(f"Paired differences, {result.samplers[0].name} minus the other, 95 % intervals:")
        parts.append(markdown_table(header, rows, left=2))
    return "\n\n".join(parts) + "\n"


def about(result: Result) -> str:
    """Return two sentences about what was played."""
    contest = result.contest
    table = result.table
    objectives = ", ".join(contest.objectives)
    for cost, bound in contest.bounds.items():
        objectives += f", {cost} {bound}"
    text = (
        f"Objectives {objectives}; {contest.budget} evaluations, "
        f"{len(result.seeds)} seeds. {table.rows:,} architectures"
    )
    text += f" of {table.knobs} knobs" if table.knobs else ", listed whole"
    if len(contest.objectives) > 1:  # with one objective there is no hypervolume
        reference = ", ".join(f"{value:.6g}" for value in table.reference)
        text += f", reference point {reference}"
    text += f"; the best there is: {table.truth}."
    if table.model is not None:
        text += f" {table.model}"
    return text


def quality_rows(result: Result) -> list[list[str]]:
    """Return the table of what each sampler reached as text, a header first."""
    measures = _measures(result.samplers[0].at)
    last = result.at[-1]
    header = ["sampler"]
    for measure in measures:
        header += [f"{MEASURES[measure]} @{n}" for n in result.at]
    header.append(f"optimum @{last}")
    lines = [header]
    for sampler in result.samplers:
        line = [sampler.name]
        for measure in measures:
            line += [_spread(sampler.at[measure][n]) for n in result.at]
        line.append(_percent(sampler.found[last]))
        lines.append(line)
    return lines


def waste_rows(result: Result) -> list[list[str]]:
    """Return the table of each sampler's wasted proposals and of its time as text, a header first."""
    header = ["sampler", "evaluations", "proposals each", "repeats", "infeasible", "ask ms", "tell ms"]
    if result.contest.raw:
        header += ["raw repeats", "raw infeasible"]
    lines = [header]
    for sampler in result.samplers:
        line = [
            sampler.name,
            f"{sampler.evaluations:.4g}",
            f"{sampler.proposals_per_evaluation:.2f}",
            _percent(sampler.repeats),
            _percent(sampler.infeasible),
            f"{sampler.ask_ms:.3g}",
            f"{sampler.tell_ms:.3g}",
        ]
        if sampler.raw is not None:
            line += [_percent(sampler.raw.repeats), _percent(sampler.raw.infeasible)]
        lines.append(line)
    return lines


def difference_rows(result: Result) -> list[list[str]]:
    """Return the table of paired differences as text, a header first."""
    lines = [["against", "measure", "evaluations", "difference", "95 % interval", "verdict"]]
    for row in result.differences:
        interval = "–"  # one seed has no interval
        if row.low is not None:
            interval = f"{row.low:+.4g} … {row.high:+.4g}"
        numbers = [str(row.at), f"{row.mean:+.4g}", interval]
        signed = [text.replace("-", "−") for text in numbers]  # the minus sign is as wide as the plus
        lines.append([row.other, MEASURES[row.measure], *signed, row.verdict])
    return lines


def figure(result: Result) -> Figure:
    """Draw the anytime curves: the mean over the seeds and its 95 % interval."""
    from nasframe.report import plots

    measures = _measures(result.samplers[0].curves)
    drawn, grid = plots.panels(plots.WIDTH, 3.1 * len(measures) + 0.5, len(measures))
    for axes, measure in zip(grid, measures, strict=True):
        for number, sampler in enumerate(result.samplers):
            _draw_curve(axes, sampler, measure, number)
        if measure == "hypervolume":
            # Good samplers soon have nearly all of it; only a logarithmic axis still shows them apart.
            axes.set_yscale("log")
            axes.tick_params(axis="y", which="both", labelsize=8, colors=plots.INK)
            axes.set_ylabel("missing share of the hypervolume")
        else:
            score = result.contest.objectives[0].removeprefix("-")
            axes.set_ylim(0, _regret_top(result.samplers))
            axes.set_ylabel(f"regret in {score}")
        axes.set_xlabel("evaluations")
    plots.legend(drawn, grid[0])
    return drawn


def _draw_curve(axes: Axes, sampler: SamplerResult, measure: str, number: int) -> None:
    """Draw one sampler's curve; of the hypervolume the share that is missing, for an axis in powers of ten."""
    curve = sampler.curves[measure]
    mean = np.array(curve.mean, float)  # None becomes NaN, which is not drawn
    low = np.array(curve.low, float)
    high = np.array(curve.high, float)
    if measure == "hypervolume":
        # The most of the hypervolume is the least that is missing.
        mean, low, high = _missing(mean), _missing(high), _missing(low)
    else:
        low = np.maximum(low, 0)  # a regret is never negative, though its interval may reach below 0
    evaluations = np.arange(1, len(mean) + 1)
    color = COLORS[number % len(COLORS)]
    style = "-" if number < len(COLORS) else "--"
    axes.plot(evaluations, mean, color=color, lw=1.3, ls=style, label=sampler.name)
    axes.fill_between(evaluations, low, high, color=color, alpha=0.15, linewidth=0)


def _regret_top(samplers: Sequence[SamplerResult]) -> float:
    """Return the top of the axis of regrets: the first few evaluations would flatten everything after them."""
    tops = [1e-9]
    for sampler in samplers:
        mean = sampler.curves["regret"].mean
        early = max(len(mean) // 20 - 1, 0)
        tops.append(mean[early] or 0.0)
    return 1.1 * max(tops)


def _missing(share: np.ndarray) -> np.ndarray:
    """Return what is missing to the whole; never 0, which a logarithmic axis cannot show."""
    return np.maximum(1 - share, 1e-5)


def _measures(values: Mapping[str, Any]) -> list[str]:
    """Return the measures that a mapping has, in the order of the tables."""
    return [measure for measure in MEASURES if measure in values]


def _moments(values: np.ndarray) -> Moments:
    mean, low, high = t_interval(values)
    sd = None
    if len(values) > 1:
        sd = _finite(values.std(ddof=1))
    return Moments(mean=_finite(mean), sd=sd, low=_finite(low), high=_finite(high))


def _mean_curve(values: np.ndarray) -> Curve:
    mean, low, high = t_interval(values)
    return Curve(mean=_rounded(mean), low=_rounded(low), high=_rounded(high))


def _finite(value: Any) -> float | None:
    """Return a number for JSON, which has no NaN: there it is null."""
    return float(value) if math.isfinite(value) else None


def _rounded(values: np.ndarray) -> list[float | None]:
    # Curves are most of a result's file, and are only drawn: six digits are enough.
    return [_finite(round(float(value), 6)) for value in values]


def _spread(moments: Moments) -> str:
    if moments.mean is None:
        return "–"
    text = f"{moments.mean:.4f}"
    if moments.sd is not None:
        text += f" ± {moments.sd:.4f}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
