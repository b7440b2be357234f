"""How numbers, rows and tables of models read, on a terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.records import MetricFormat
from nasframe.report.format import of_run, titled

if TYPE_CHECKING:
    from rich.table import Table


def human(value: float | None) -> str:
    """Write a count with three digits and a unit letter.

    >>> human(10_600_000), human(512), human(1.27e9), human(None)
    ('10.6M', '512', '1.27G', '–')
    """
    if value is None:
        return "–"
    for letter, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:#.3g}".rstrip(".") + letter
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def size(value: float | None) -> str:
    """Write a number of bytes in decimal units.

    >>> size(42_480_000), size(900)
    ('42.5 MB', '900 B')
    """
    if value is None:
        return "–"
    text = human(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def removed(errors: Mapping[str, float]) -> str:
    """Say by how much logits changed where parts of networks were taken out.

    >>> removed({"sparse": 2.5e-7, "best@50%": 0.0})
    'Largest change of a logit where parts were taken out: sparse 2.5e-07, best@50% 0.'
    """
    listed = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    return f"Largest change of a logit where parts were taken out: {listed}."


def duration(seconds: float | None) -> str:
    """Write a time span with its two largest units.

    >>> duration(0.034), duration(9.46), duration(252), duration(7380)
    ('0.03 s', '9.5 s', '4 min 12 s', '2 h 3 min')
    """
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def metric(form: MetricFormat, value: float | None) -> str:
    """Write a task's metric: shares in per cent, anything else as it is.

    >>> metric(MetricFormat(percent=True), 0.479), metric(MetricFormat(), 0.5214), metric(MetricFormat(), None)
    ('47.9 %', '0.521', '–')
    """
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if form.percent else f"{value:.3f}"


def difference(form: MetricFormat, value: float | None, digits: int = 1) -> str:
    """Write the difference of two values of a metric, with its sign; shares in points, with so many digits.

    >>> difference(MetricFormat(percent=True), -0.0121), difference(MetricFormat(), 0.02)
    ('−1.2', '+0.020')
    """
    if value is None:
        return "–"
    text = f"{100 * value:+.{digits}f}" if form.percent else f"{value:+.{digits + 2}f}"
    return text.replace("-", "−")


def companions(report: Mapping[str, Any]) -> dict[str, str]:
    """Name the metrics that stand beside the primary one, and their headings: MNLI's mismatched set, for one."""
    names = {name for model in report["models"] for name in model["metrics"].get(report["split"], {})}
    beside = [name for name in sorted(names) if name != report["metric"] and of_run(report, name).companion]
    return {name: titled(name, of_run(report, name)) for name in beside}


def measured(report: Mapping[str, Any], model: Mapping[str, Any], name: str) -> str:
    """Write a model's metric on the report's split."""
    return metric(of_run(report, name), model["metrics"].get(report["split"], {}).get(name))


def aim(report: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    """Name what a search's scores are; a score after ``-`` was minimised."""
    return search["aim"] or str(report["metric"])


def aimed(report: Mapping[str, Any], search: Mapping[str, Any], value: float | None) -> str:
    """Write a score of a search, which may be of another metric than the report's."""
    return metric(of_run(report, aim(report, search).removeprefix("-")), value)


def latency(costs: Mapping[str, float | None]) -> str:
    """Write the latency in milliseconds with its spread; one that was measured in another run is marked.

    >>> latency({"latency": 12.31, "latency_spread": 0.42}), latency({"latency": 12.31, "latency_cached": 1})
    ('12.3 ± 0.4 ms', '12.3 ms, cached')
    """
    value, spread = costs.get("latency"), costs.get("latency_spread")
    if value is None:
        return "–"
    digits = 1 if value >= 1 else 3
    text = f"{value:.{digits}f} ms" if spread is None else f"{value:.{digits}f} ± {spread:.{digits}f} ms"
    return text + (", cached" if costs.get("latency_cached") else "")


def cost(name: str, costs: Mapping[str, float | None]) -> str:
    """Write one cost of a model by its name.

    >>> cost("macs", {"macs": 1.2e9}), cost("size", {}), cost("energy", {"energy": 3.14159})
    ('1.20G', '–', '3.14')
    """
    if name == "latency":
        return latency(costs)
    return (size if name == "size" else human)(costs.get(name))


COSTS = {
    "params": "params",
    "backbone_params": "backbone",
    "encoder_params": "encoder",
    "macs": "MACs",
    "size": "size",
    "latency": "latency",
}
"""The costs that every table shows, in this order, and their headings."""


ESSENTIAL = ("encoder_params", "macs", "latency")
"""The costs that a terminal shows however narrow it is."""
LONGEST_NAME = 14
"""So many letters of a model's name stay on one line, however many costs there are."""


def summary_columns(report: Mapping[str, Any]) -> dict[str, str]:
    """Name the cost columns that some model of the report fills, and their headings."""
    present = {name for model in report["models"] for name in model["costs"]}
    extra = sorted(name for name in present - COSTS.keys() - {"flops"} if not name.startswith("latency_"))
    return {name: heading for name, heading in COSTS.items() if name in present} | {
        name: name.replace("_", " ") for name in extra
    }


def share(model: Mapping[str, Any], name: str) -> str:
    """Write a cost as a share of the teacher's, or nothing where there is none.

    >>> share({"relative": {"macs": 0.5}}, "macs"), share({"relative": {}}, "macs")
    ('50 %', '')
    """
    value = model["relative"].get(name)
    return "" if value is None else f"{100 * value:.0f} %"


def summary_table(report: Mapping[str, Any], width: int | None = None) -> Table:
    """Make the table of models that ends a run, for a terminal.

    Args:
        report: what :func:`nasframe.report.page.build` returned.
        width: characters across; default: the terminal's. Below 96 spreads are left out; costs are where all do not
            fit, the backbone's parameters, the size, all parameters and the last ones of the recipe first.
    """
    from rich.console import Console
    from rich.measure import Measurement

    columns, width, roomy = summary_columns(report), width or Console().width, Console(width=10_000)
    last = [name for name in ("backbone_params", "size", "params", *reversed(columns)) if name in columns]
    table = _summary(report, columns, spread=width >= 96)
    for name in (name for name in dict.fromkeys(last) if name not in ESSENTIAL):
        if Measurement.get(roomy, roomy.options, table).minimum <= width:
            break
        del columns[name]
        table = _summary(report, columns, spread=width >= 96)
    return table


def _summary(report: Mapping[str, Any], columns: Mapping[str, str], spread: bool) -> Table:
    from rich import box
    from rich.table import Table

    form, rows, beside = of_run(report, report["metric"]), [], companions(report)
    name = titled(report["metric"], form)
    for model in report["models"]:
        score, first = metric(form, model["score"]), model["role"] == "teacher"
        if not first and model["gain"] is not None:
            score += f"\n{difference(form, model['gain'])}"
        cells = [measured(report, model, other) for other in beside]
        for key in columns:
            text = cost(key, model["costs"] if spread else {**model["costs"], "latency_spread": None})
            part = share(model, key)
            cells.append(text if first or not part else f"{text}\n({part})")
        rows.append([label(model), score, *cells])
    title = f"{report['name']}: {report['split']} {name}, costs and their share of the teacher's"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
        caption=over_budget(report["models"]) or None, caption_justify="left", caption_style="bold red",
    )  # fmt: skip
    headings = ["model", name, *beside.values(), *columns.values()]
    for number, heading in enumerate(headings):  # they are folded, what is below is not
        widest = max((len(line) for row in rows for line in row[number].splitlines()), default=0)
        table.add_column(
            heading, justify="right" if number else "left", overflow="fold",
            min_width=widest if number else min(widest, LONGEST_NAME),
        )  # fmt: skip
    for model, row in zip(report["models"], rows, strict=True):
        style = {"winner": "bold green", "baseline": "dim"}.get(model["role"], "")
        table.add_row(*row, style=style, end_section=model["last_of_budget"])
    return table


def label(model: Mapping[str, Any]) -> str:
    """Name a model with its role where the name does not say it, and whether it is over its budget."""
    lines = [model["name"]]
    if model["role"] not in ("teacher", "model"):
        lines.append(model["role"])
    if model["over_budget"]:
        lines.append("over budget")
    return "\n".join(lines)


def over_budget(models: Sequence[Mapping[str, Any]]) -> str:
    """Say which models are over their budgets, a line each.

    >>> over_budget([{"name": "best", "over_budget": "12.4 ms > 12 ms"}, {"name": "small", "over_budget": None}])
    'best: over budget: 12.4 ms > 12 ms'
    """
    lines = [f"{model['name']}: over budget: {model['over_budget']}" for model in models if model["over_budget"]]
    return "\n".join(lines)


def short(name: str, length: int) -> str:
    """Shorten a name in its middle.

    >>> short("search.sampler=evolution", 16)
    'search.…volution'
    """
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length - length // 2) :]}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Write a Markdown table whose first ``left`` columns are text and the others numbers.

    >>> print(markdown_table(["model", "params"], [["teacher", "10.6M"]]))
    | model | params |
    | :-- | --: |
    | teacher | 10.6M |
    """
    escape: Callable[[Any], str] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    rule = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(escape, row)) + " |" for row in [header, rule, *rows])
