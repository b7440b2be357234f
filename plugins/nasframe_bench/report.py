"""What a benchmark of samplers found: one JSON-plain result, and its table, figure and page."""

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
    from matplotlib.figure import Figure

FORMAT = 1
MEASURES = {"hypervolume": "HV share", "regret": "regret"}
"""What is compared, and how it reads: the share of the true front's hypervolume (more is better), and the regret."""


def anytime(arena: Arena, plays: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, np.ndarray]]:
    """Turn plays into curves over the evaluations.

    Args:
        arena: the table.
        plays: label → plays.

    Returns:
        Label → ``regret`` (how far the best score is below the best there is) and, for several objectives,
        ``hypervolume`` (share of the true front's), each ``(seeds, budget)``; a play that ended early keeps its last
        value. Where a model answers for the table, the best there is is the best that any play found.
    """
    truth, budget = arena.points, arena.contest.budget
    if truth is None:
        truth = np.array([point for records in plays.values() for record in records for point in record["points"]])
    best, several = truth[:, 0].max(), truth.shape[1] > 1
    whole = hypervolume(truth[pareto_front(truth)], arena.reference) if several else 1.0
    found = {}
    for label, records in plays.items():
        curves = {"regret": [_padded(best - _running(r["points"]), budget) for r in records]}
        if several:  # where nothing beats the reference point, whatever was found is all there is
            volumes = [_volumes(r["points"], arena.reference) for r in records]
            curves["hypervolume"] = [_padded(v / whole if whole else np.ones(len(v)), budget, 0.0) for v in volumes]
        found[label] = {name: np.array(rows) for name, rows in curves.items()}
    return found


def _running(points: Sequence[Sequence[float]]) -> np.ndarray:
    return np.maximum.accumulate([point[0] for point in points]) if points else np.zeros(0)


def _volumes(points: Sequence[Sequence[float]], reference: Sequence[float]) -> np.ndarray:
    """Return the hypervolume after each evaluation."""
    front: list[Sequence[float]] = []
    volumes: list[float] = []
    for point in points:
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in front):
            front = [o for o in front if not all(a <= b for a, b in zip(o, point, strict=True))] + [point]
            volumes.append(hypervolume(front, reference))
        else:
            volumes.append(volumes[-1])
    return np.array(volumes)


def _padded(curve: np.ndarray, budget: int, empty: float = math.nan) -> np.ndarray:
    last = curve[-1] if len(curve) else empty
    return np.concatenate([curve[:budget], np.full(max(budget - len(curve), 0), last)])


def summarise(
    arena: Arena, uses: Mapping[str, Any], plays: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int],
    at: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Turn plays into a result.

    Args:
        arena: the table.
        uses: label → sampler with its options; the first is what the others are compared with.
        plays: label → plays, by seed.
        seeds: the seeds.
        at: after how many evaluations samplers are compared.

    Returns:
        JSON-plain: ``contest``, ``table``, ``machine``, ``samplers`` (a row each, with ``at`` and ``curves``) and
        ``differences`` (the first sampler less each other, paired over the seeds, with 95 % intervals).
    """
    curves = anytime(arena, plays)
    rows = []
    for label, records in plays.items():
        row = {"name": label, "use": uses[label], **_waste(records)}
        row["at"] = {name: {str(n): _moments(curve[:, n - 1]) for n in at} for name, curve in curves[label].items()}
        row["found"] = {str(n): _plain(np.mean(curves[label]["regret"][:, n - 1] <= 1e-12)) for n in at}
        row["curves"] = {
            name: dict(zip(("mean", "low", "high"), (_list(part) for part in t_interval(curve)), strict=True))
            for name, curve in curves[label].items()
        }
        rows.append(row)
    return {
        "format": FORMAT, "contest": dataclasses.asdict(arena.contest), "table": _table(arena), "seeds": list(seeds),
        "at": list(at), "machine": machine(), "samplers": rows, "differences": _differences(curves, at),
    }  # fmt: skip


def _waste(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up what plays proposed for nothing, and the milliseconds of an ask and a tell."""

    def total(name: str) -> float:
        return float(sum(record[name] for record in records))

    done, asks = sum(len(record["points"]) for record in records), max(total("asks"), 1)
    found = {
        "evaluations": done / len(records), "proposals_per_evaluation": total("proposals") / max(done, 1),
        "repeats": total("repeat") / max(total("proposals"), 1),
        "infeasible": total("screened") / max(total("proposals"), 1), "failed": total("failed"),
        "ask_ms": 1e3 * total("ask_seconds") / asks, "tell_ms": 1e3 * total("tell_seconds") / asks,
        "ended": sorted({record["ended"] for record in records} - {""}),
    }  # fmt: skip
    if raw := [record["raw"] for record in records if "raw" in record]:
        proposals = max(sum(part["proposals"] for part in raw), 1)
        found["raw"] = {
            "repeats": sum(part["repeat"] for part in raw) / proposals,
            "infeasible": sum(part["infeasible"] for part in raw) / proposals,
        }
    return found


def _table(arena: Arena) -> dict[str, Any]:
    space = arena.space
    facts = {"rows": len(space.table.rows), "knobs": len(space.table.knobs), "reference": list(arena.reference)}
    if arena.points is None:
        return facts | {"truth": "the best that any play found", "model": space.model.about}
    return facts | {"truth": "the table's own", "feasible": len(arena.points), "best": float(arena.points[:, 0].max())}


def _differences(curves: Mapping[str, Mapping[str, np.ndarray]], at: Sequence[int]) -> list[dict[str, Any]]:
    first, *others = curves
    found = []
    for other in others:
        for name in (name for name in MEASURES if name in curves[first]):
            curve = curves[first][name]
            for n in at:
                gap = curve[:, n - 1] - curves[other][name][:, n - 1]
                gap = gap[np.isfinite(gap)]
                if len(gap):
                    mean, low, high = (_plain(part) for part in t_interval(gap))
                    row = {"sampler": first, "other": other, "measure": name, "at": n, "seeds": len(gap)}
                    found.append(row | {"mean": mean, "low": low, "high": high})
    return found


def machine() -> dict[str, Any]:
    """Name what timings depend on."""
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
    picture = Markup(plots.save(figure(result), folder / "bench", "anytime curves"))
    write_text(folder / "bench.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_text(folder / "bench.md", markdown(result))
    parts = {"quality": quality_rows(result), "waste": waste_rows(result), "about": about(result)}
    parts |= {"differences": difference_rows(result)}
    write_text(folder / "bench.html", render("bench.html", "nasframe_bench", result=result, figure=picture, **parts))


def markdown(result: Mapping[str, Any]) -> str:
    """Write the result's tables as Markdown."""
    parts = [about(result), *(markdown_table(*_split(part(result))) for part in (quality_rows, waste_rows))]
    if result["differences"]:
        parts.append(f"Paired differences, {result['samplers'][0]['name']} less the other, 95 % intervals:")
        parts.append(markdown_table(*_split(difference_rows(result)), left=2))
    return "\n\n".join(parts) + "\n"


def about(result: Mapping[str, Any]) -> str:
    """Say in two sentences what was played."""
    contest, table = result["contest"], result["table"]
    cap = "".join(f", {cost} {bound}" for cost, bound in contest["bounds"].items())
    text = (
        f"Objectives {', '.join(contest['objectives'])}{cap}; {contest['budget']} evaluations, "
        f"{len(result['seeds'])} seeds. {table['rows']:,} architectures of {table['knobs']} knobs"
    )
    if len(contest["objectives"]) > 1:
        text += f", reference point {', '.join(f'{value:.6g}' for value in table['reference'])}"
    return f"{text}; the best there is: {table['truth']}." + (f" {table['model']}" if "model" in table else "")


def quality_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Lay out as text what each sampler reached, a header first."""
    at = [str(n) for n in result["at"]]
    measures = [name for name in MEASURES if name in result["samplers"][0]["at"]]
    lines = [["sampler", *(f"{MEASURES[name]} @{n}" for name in measures for n in at), f"optimum @{at[-1]}"]]
    for row in result["samplers"]:
        cells = [_spread(row["at"][name][n]) for name in measures for n in at]
        lines.append([row["name"], *cells, _percent(row["found"][at[-1]])])
    return lines


def waste_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Lay out as text what each sampler proposed in vain and how long it took, a header first."""
    raw = any("raw" in row for row in result["samplers"])
    lines = [["sampler", "evaluations", "proposals each", "repeats", "infeasible", "ask ms", "tell ms"]]
    lines[0] += ["raw repeats", "raw infeasible"] * raw
    for row in result["samplers"]:
        line = [row["name"], f"{row['evaluations']:.4g}", f"{row['proposals_per_evaluation']:.2f}"]
        line += [_percent(row["repeats"]), _percent(row["infeasible"]), f"{row['ask_ms']:.3g}", f"{row['tell_ms']:.3g}"]
        lines.append(line + ([_percent(row["raw"][name]) for name in ("repeats", "infeasible")] if raw else []))
    return lines


def difference_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Lay the paired differences out as text, a header first; ``ahead`` and ``behind`` where the interval says so."""
    lines = [["against", "measure", "evaluations", "difference", "95 % interval", "verdict"]]
    for row in result["differences"]:
        interval, verdict = "–", "–"
        if row["low"] is not None:
            interval = f"{row['low']:+.4g} … {row['high']:+.4g}"
            up = row["measure"] != "regret"
            better, worse = (row["low"] > 0, row["high"] < 0) if up else (row["high"] < 0, row["low"] > 0)
            verdict = "ahead" if better else "behind" if worse else "open"
        lines.append([
            row["other"], MEASURES[row["measure"]], str(row["at"]), f"{row['mean']:+.4g}".replace("-", "−"),
            interval.replace("-", "−"), verdict,
        ])  # fmt: skip
    return lines


def figure(result: Mapping[str, Any]) -> Figure:
    """Draw the anytime curves: the mean over the seeds and its 95 % interval."""
    from nasframe.report import plots

    measures = [name for name in MEASURES if name in result["samplers"][0]["curves"]]
    drawn, grid = plots.panels(plots.WIDTH, 3.1 * len(measures) + 0.5, len(measures))
    colors = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.GREY, "#b2457c", "#7d5bd0", "#5a6b1f", "#8a4b2a")
    for axes, name in zip(grid, measures, strict=True):
        for number, row in enumerate(result["samplers"]):
            mean, low, high = (np.array(row["curves"][name][key], float) for key in ("mean", "low", "high"))
            shown = _loss(mean) if name == "hypervolume" else mean
            x, color = np.arange(1, len(mean) + 1), colors[number % len(colors)]
            axes.plot(x, shown, color=color, lw=1.3, ls="-" if number < len(colors) else "--", label=row["name"])
            ends = (_loss(high), _loss(low)) if name == "hypervolume" else (np.maximum(low, 0), high)
            axes.fill_between(x, *ends, color=color, alpha=0.15, linewidth=0)
        if name == "hypervolume":
            axes.set_yscale("log")
            axes.tick_params(axis="y", which="both", labelsize=8, colors=plots.INK)
        else:  # the first few evaluations would flatten all that follows
            early = max(len(mean) // 20 - 1, 0)
            tops = [row["curves"][name]["mean"][early] or 0.0 for row in result["samplers"]]
            axes.set_ylim(0, 1.1 * max(*tops, 1e-9))
        axes.set_xlabel("evaluations")
        axes.set_ylabel("missing share of the hypervolume" if name == "hypervolume" else f"regret in {_score(result)}")
    plots.legend(drawn, grid[0])
    return drawn


def _loss(share: np.ndarray) -> np.ndarray:
    return np.maximum(1 - share, 1e-5)


def _score(result: Mapping[str, Any]) -> str:
    name: str = result["contest"]["objectives"][0]
    return name.removeprefix("-")


def _moments(values: np.ndarray) -> dict[str, Any]:
    mean, low, high = (_plain(part) for part in t_interval(values))
    return {"mean": mean, "sd": _plain(values.std(ddof=1)) if len(values) > 1 else None, "low": low, "high": high}


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _list(values: np.ndarray) -> list[float | None]:
    return [_plain(round(float(value), 6)) if math.isfinite(value) else None for value in values]


def _spread(moments: Mapping[str, Any]) -> str:
    if moments["mean"] is None:
        return "–"
    return f"{moments['mean']:.4f}" + (f" ± {moments['sd']:.4f}" if moments["sd"] is not None else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _split(lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return lines[0], lines[1:]
