"""The result of a benchmark of samplers: one JSON-plain mapping, and its tables, figure and page."""

from __future__ import annotations

import contextlib
import dataclasses
import json
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
from nasframe_studies.stats import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = 1
MEASURES = {"hypervolume": "HV share", "regret": "regret"}
"""Measure → its heading: the share of the true front's hypervolume (more is better), and the regret."""
SAME = 1e-12
"""Regret up to which the optimum counts as found."""
COLORS = ("#3b76e1", "#e08a2c", "#2a9d78", "#8c97a8", "#b2457c", "#7d5bd0", "#5a6b1f", "#8a4b2a")


def anytime(arena: Arena, plays: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, np.ndarray]]:
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
    optimum = truth[:, 0].max()
    with_front = truth.shape[1] > 1
    whole = hypervolume(truth[pareto_front(truth)], arena.reference) if with_front else 1.0
    curves = {}
    for label, records in plays.items():
        regrets, shares = [], []
        for record in records:
            points = record["points"]
            regrets.append(_padded(optimum - _running(points), budget))
            if with_front:
                shares.append(_padded(_volume_shares(points, arena.reference, whole), budget, empty=0.0))
        curves[label] = {"regret": np.array(regrets)}
        if with_front:
            curves[label]["hypervolume"] = np.array(shares)
    return curves


def _all_points(plays: Mapping[str, Sequence[Mapping[str, Any]]]) -> np.ndarray:
    points = []
    for records in plays.values():
        for record in records:
            points += record["points"]
    return np.array(points)


def _volume_shares(points: Sequence[Sequence[float]], reference: Sequence[float], whole: float) -> np.ndarray:
    """Return the hypervolume after each evaluation, as a share of the true front's."""
    volumes = _volumes(points, reference)
    if whole == 0:  # no architecture beats the reference point: there was nothing to find
        return np.ones(len(volumes))
    return volumes / whole


def _running(points: Sequence[Sequence[float]]) -> np.ndarray:
    return np.maximum.accumulate([point[0] for point in points]) if points else np.zeros(0)


def _volumes(points: Sequence[Sequence[float]], reference: Sequence[float]) -> np.ndarray:
    """Return the hypervolume after each evaluation."""
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


def _padded(curve: np.ndarray, budget: int, empty: float = math.nan) -> np.ndarray:
    last = curve[-1] if len(curve) else empty
    return np.concatenate([curve[:budget], np.full(max(budget - len(curve), 0), last)])


def summarise(
    arena: Arena,
    uses: Mapping[str, Any],
    plays: Mapping[str, Sequence[Mapping[str, Any]]],
    seeds: Sequence[int],
    at: Sequence[int],
) -> dict[str, Any]:
    """Turn plays into a result.

    Args:
        arena: the table.
        uses: label → sampler with its options; the others are compared with the first.
        plays: label → plays, by seed.
        seeds: the seeds.
        at: evaluations after which samplers are compared.

    Returns:
        JSON-plain: ``contest``, ``table``, ``machine``, ``samplers`` (a row each, with ``at`` and ``curves``) and
        ``differences`` (the first sampler minus each other, paired over the seeds, with 95 % intervals).
    """
    curves = anytime(arena, plays)
    samplers = []
    for label, records in plays.items():
        row = {"name": label, "use": uses[label], **_waste(records)}
        samplers.append(row | _quality(curves[label], at))
    return {
        "format": FORMAT,
        "contest": dataclasses.asdict(arena.contest),
        "table": _table(arena),
        "seeds": list(seeds),
        "at": list(at),
        "machine": machine(),
        "samplers": samplers,
        "differences": _differences(curves, at),
    }


def _quality(curves: Mapping[str, np.ndarray], at: Sequence[int]) -> dict[str, Any]:
    """Summarise the curves of one sampler: moments at some evaluations, shares of optima found, mean curves."""
    moments: dict[str, dict[str, Any]] = {}
    means = {}
    for name, curve in curves.items():
        moments[name] = {str(n): _moments(curve[:, n - 1]) for n in at}
        mean, low, high = t_interval(curve)
        means[name] = {"mean": _list(mean), "low": _list(low), "high": _list(high)}
    found = {}
    for n in at:
        is_optimum = curves["regret"][:, n - 1] <= SAME
        found[str(n)] = _plain(np.mean(is_optimum))
    return {"at": moments, "found": found, "curves": means}


def _waste(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a sampler's proposals without a new evaluation, and the milliseconds of an ask and a tell."""

    def total(name: str) -> float:
        return float(sum(record[name] for record in records))

    evaluations = sum(len(record["points"]) for record in records)
    asks = max(total("asks"), 1)
    proposals = max(total("proposals"), 1)
    waste: dict[str, Any] = {
        "evaluations": evaluations / len(records),
        "proposals_per_evaluation": total("proposals") / max(evaluations, 1),
        "repeats": total("repeat") / proposals,
        "infeasible": total("screened") / proposals,
        "failed": total("failed"),
        "ask_ms": 1e3 * total("ask_seconds") / asks,
        "tell_ms": 1e3 * total("tell_seconds") / asks,
        "ended": sorted({record["ended"] for record in records} - {""}),
    }
    raw = [record["raw"] for record in records if "raw" in record]
    if raw:
        raw_proposals = max(sum(play["proposals"] for play in raw), 1)
        waste["raw"] = {
            "repeats": sum(play["repeat"] for play in raw) / raw_proposals,
            "infeasible": sum(play["infeasible"] for play in raw) / raw_proposals,
        }
    return waste


def _table(arena: Arena) -> dict[str, Any]:
    table = arena.space.table
    facts = {"rows": len(table.rows), "knobs": len(table.knobs), "reference": list(arena.reference)}
    if arena.points is None:
        return facts | {"truth": "the best that any play found", "model": arena.space.model.about}
    return facts | {"truth": "the table's own", "feasible": len(arena.points), "best": float(arena.points[:, 0].max())}


def _differences(curves: Mapping[str, Mapping[str, np.ndarray]], at: Sequence[int]) -> list[dict[str, Any]]:
    """Compare the first sampler with each other, paired over the seeds."""
    first, *others = curves
    rows = []
    for other in others:
        for name in MEASURES:
            if name not in curves[first]:
                continue
            for n in at:
                gaps = curves[first][name][:, n - 1] - curves[other][name][:, n - 1]
                gaps = gaps[np.isfinite(gaps)]  # a play without an evaluation has no regret
                if len(gaps) == 0:
                    continue
                mean, low, high = (_plain(part) for part in t_interval(gaps))
                rows.append(
                    {
                        "sampler": first,
                        "other": other,
                        "measure": name,
                        "at": n,
                        "seeds": len(gaps),
                        "mean": mean,
                        "low": low,
                        "high": high,
                    }
                )
    return rows


def machine() -> dict[str, Any]:
    """Return the facts that timings depend on."""
    from importlib import metadata

    versions = {name: metadata.version(name) for name in ("nasframe", "numpy")}
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions["optuna"] = metadata.version("optuna")
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "threads": threads, "versions": versions}


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Write ``bench.json``, ``bench.md``, ``bench.html`` and ``bench.png`` / ``.svg`` into a folder."""
    from markupsafe import Markup

    from nasframe.report import plots
    from nasframe.report.page import render

    folder.mkdir(parents=True, exist_ok=True)
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
    write_text(folder / "bench.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_text(folder / "bench.md", markdown(result))
    write_text(folder / "bench.html", page)


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result's tables as Markdown."""
    parts = [about(result)]
    for lines in (quality_rows(result), waste_rows(result)):
        parts.append(markdown_table(lines[0], lines[1:]))
    if result["differences"]:
        lines = difference_rows(result)
        parts.append(f"Paired differences, {result['samplers'][0]['name']} minus the other, 95 % intervals:")
        parts.append(markdown_table(lines[0], lines[1:], left=2))
    return "\n\n".join(parts) + "\n"


def about(result: Mapping[str, Any]) -> str:
    """Return two sentences about what was played."""
    contest = result["contest"]
    table = result["table"]
    objectives = ", ".join(contest["objectives"])
    for cost, bound in contest["bounds"].items():
        objectives += f", {cost} {bound}"
    text = (
        f"Objectives {objectives}; {contest['budget']} evaluations, "
        f"{len(result['seeds'])} seeds. {table['rows']:,} architectures of {table['knobs']} knobs"
    )
    if len(contest["objectives"]) > 1:
        reference = ", ".join(f"{value:.6g}" for value in table["reference"])
        text += f", reference point {reference}"
    text += f"; the best there is: {table['truth']}."
    if "model" in table:
        text += f" {table['model']}"
    return text


def quality_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of what each sampler reached as text, a header first."""
    marks = [str(n) for n in result["at"]]
    measures = [name for name in MEASURES if name in result["samplers"][0]["at"]]
    header = ["sampler"]
    for name in measures:
        header += [f"{MEASURES[name]} @{mark}" for mark in marks]
    lines = [[*header, f"optimum @{marks[-1]}"]]
    for row in result["samplers"]:
        line = [row["name"]]
        for name in measures:
            line += [_spread(row["at"][name][mark]) for mark in marks]
        lines.append([*line, _percent(row["found"][marks[-1]])])
    return lines


def waste_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of each sampler's wasted proposals and of its time as text, a header first."""
    with_raw = any("raw" in row for row in result["samplers"])
    header = ["sampler", "evaluations", "proposals each", "repeats", "infeasible", "ask ms", "tell ms"]
    if with_raw:
        header += ["raw repeats", "raw infeasible"]
    lines = [header]
    for row in result["samplers"]:
        line = [
            row["name"],
            f"{row['evaluations']:.4g}",
            f"{row['proposals_per_evaluation']:.2f}",
            _percent(row["repeats"]),
            _percent(row["infeasible"]),
            f"{row['ask_ms']:.3g}",
            f"{row['tell_ms']:.3g}",
        ]
        if with_raw:
            line += [_percent(row["raw"]["repeats"]), _percent(row["raw"]["infeasible"])]
        lines.append(line)
    return lines


def difference_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of paired differences as text, a header first."""
    lines = [["against", "measure", "evaluations", "difference", "95 % interval", "verdict"]]
    for row in result["differences"]:
        interval = "–"
        if row["low"] is not None:
            interval = f"{row['low']:+.4g} … {row['high']:+.4g}"
        cells = [f"{row['mean']:+.4g}", interval]
        signed = [cell.replace("-", "−") for cell in cells]
        lines.append([row["other"], MEASURES[row["measure"]], str(row["at"]), *signed, _verdict(row)])
    return lines


def _verdict(row: Mapping[str, Any]) -> str:
    """Return ``ahead`` or ``behind`` if the interval of a difference excludes zero, else ``open``."""
    if row["low"] is None:
        return "–"
    if row["low"] <= 0 <= row["high"]:
        return "open"
    is_more = row["low"] > 0
    more_is_better = row["measure"] != "regret"
    return "ahead" if is_more == more_is_better else "behind"


def figure(result: Mapping[str, Any]) -> Figure:
    """Draw the anytime curves: the mean over the seeds and its 95 % interval."""
    from nasframe.report import plots

    measures = [name for name in MEASURES if name in result["samplers"][0]["curves"]]
    drawn, grid = plots.panels(plots.WIDTH, 3.1 * len(measures) + 0.5, len(measures))
    for axes, name in zip(grid, measures, strict=True):
        for number, row in enumerate(result["samplers"]):
            _draw_curve(axes, row, name, number)
        if name == "hypervolume":
            axes.set_yscale("log")
            axes.tick_params(axis="y", which="both", labelsize=8, colors=plots.INK)
            axes.set_ylabel("missing share of the hypervolume")
        else:
            axes.set_ylim(0, _regret_top(result["samplers"]))
            axes.set_ylabel(f"regret in {_score(result)}")
        axes.set_xlabel("evaluations")
    plots.legend(drawn, grid[0])
    return drawn


def _draw_curve(axes: Axes, row: Mapping[str, Any], name: str, number: int) -> None:
    """Draw one sampler's curve; of the hypervolume the share that is missing, for an axis in powers of ten."""
    curves = row["curves"][name]
    mean, low, high = (np.array(curves[key], float) for key in ("mean", "low", "high"))
    if name == "hypervolume":
        mean, low, high = _loss(mean), _loss(high), _loss(low)
    else:
        low = np.maximum(low, 0)
    evaluations = np.arange(1, len(mean) + 1)
    color = COLORS[number % len(COLORS)]
    style = "-" if number < len(COLORS) else "--"
    axes.plot(evaluations, mean, color=color, lw=1.3, ls=style, label=row["name"])
    axes.fill_between(evaluations, low, high, color=color, alpha=0.15, linewidth=0)


def _regret_top(samplers: Sequence[Mapping[str, Any]]) -> float:
    """Return the top of the axis of regrets: the first few evaluations would flatten everything after them."""
    tops = [1e-9]
    for row in samplers:
        mean = row["curves"]["regret"]["mean"]
        early = max(len(mean) // 20 - 1, 0)
        tops.append(mean[early] or 0.0)
    return 1.1 * max(tops)


def _loss(share: np.ndarray) -> np.ndarray:
    return np.maximum(1 - share, 1e-5)


def _score(result: Mapping[str, Any]) -> str:
    name: str = result["contest"]["objectives"][0]
    return name.removeprefix("-")


def _moments(values: np.ndarray) -> dict[str, Any]:
    mean, low, high = (_plain(part) for part in t_interval(values))
    sd = _plain(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": mean, "sd": sd, "low": low, "high": high}


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _list(values: np.ndarray) -> list[float | None]:
    return [_plain(round(float(value), 6)) for value in values]


def _spread(moments: Mapping[str, Any]) -> str:
    if moments["mean"] is None:
        return "–"
    text = f"{moments['mean']:.4f}"
    if moments["sd"] is not None:
        text += f" ± {moments['sd']:.4f}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
