"""How numbers, metrics and costs are written everywhere, and the table of models on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.records import CostFormat, MetricFormat
from nasframe.report.format import cost_heading, following_unit, in_column_order, is_about_measurement, titled
from nasframe.report.records import Measure, ModelRow, RunReport, SearchRow
from nasframe.report.roles import shown_role

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table


LETTERS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


def human(value: float | None) -> str:
    """Write a count with three digits and a unit letter.

    >>> human(10_600_000), human(512), human(1.27e9), human(None)
    ('10.6M', '512', '1.27G', '–')
    """
    if value is None:
        return "–"
    for letter, unit in LETTERS.items():
        if abs(value) >= 0.9995 * unit:  # from here on three digits round to the unit: 999.6k is 1.00M
            digits = f"{value / unit:#.3g}".rstrip(".")
            return digits + letter
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """Write a number of bytes in decimal units.

    >>> size(42_480_000), size(900)
    ('42.5 MB', '900 B')
    """
    if value is None:
        return "–"
    text = human(value)
    if text[-1].isalpha():
        return f"{text[:-1]} {text[-1]}B"
    return f"{text} B"


def removed(errors: Mapping[str, float]) -> str:
    """Write how much logits changed when parts of networks were taken out.

    >>> removed({"sparse": 2.5e-7, "best@50%": 0.0})
    'Largest change of a logit when parts were taken out: sparse 2.5e-07, best@50% 0.'
    """
    changes = [f"{name} {error:.2g}" for name, error in errors.items()]
    return f"Largest change of a logit when parts were taken out: {', '.join(changes)}."


def duration(seconds: float | None) -> str:
    """Write a time span with its two largest units.

    >>> duration(0.034), duration(9.46), duration(252), duration(7380)
    ('0.03 s', '9.5 s', '4 min 12 s', '2 h 3 min')
    """
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:  # more would be written as 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def metric(form: MetricFormat, value: float | None) -> str:
    """Write a task's metric: shares in per cent, anything else as it is.

    >>> metric(MetricFormat(percent=True), 0.479), metric(MetricFormat(), -0.0214), metric(MetricFormat(), None)
    ('47.9 %', '−0.021', '–')
    """
    if value is None:
        return "–"
    text = f"{100 * value:.1f} %" if form.percent else f"{value:.3f}"
    return text.replace("-", "−")  # the same minus sign as in differences beside it


def difference(form: MetricFormat, value: float | None, digits: int = 1) -> str:
    """Write the difference of two values of a metric, with its sign; shares in percentage points.

    >>> difference(MetricFormat(percent=True), -0.0121), difference(MetricFormat(), 0.02)
    ('−1.2', '+0.020')
    """
    if value is None:
        return "–"
    if form.percent:
        text = f"{100 * value:+.{digits}f}"
    else:
        text = f"{value:+.{digits + 2}f}"
    return text.replace("-", "−")  # a true minus sign, as wide as the plus


def ends(form: MetricFormat, interval: Measure) -> str:
    """Write the ends of an interval of a difference, as :func:`difference` writes them.

    >>> ends(MetricFormat(percent=True), Measure(-0.012, -0.021, 0.003))
    '−2.1, +0.3'
    """
    return f"{difference(form, interval.low)}, {difference(form, interval.high)}"


def companions(report: RunReport) -> dict[str, str]:
    """Return the headings of the metrics shown next to the primary one, by name; MNLI's mismatched set is one."""
    names: set[str] = set()
    for model in report.models:
        names.update(model.metrics.get(report.split, {}))
    headings = {}
    for name in sorted(names - {report.metric}):
        form = report.metric_format(name)
        if form.companion:
            headings[name] = titled(name, form)
    return headings


def measured(report: RunReport, model: ModelRow, name: str) -> str:
    """Write a model's metric on the report's split."""
    values = model.metrics.get(report.split, {})
    return metric(report.metric_format(name), values.get(name))


def aim(report: RunReport, search: SearchRow) -> str:
    """Return the name of a search's scores; one that begins with ``-`` was minimised."""
    return search.aim or report.metric


def aimed(report: RunReport, search: SearchRow, value: float | None) -> str:
    """Write a score of a search, which may be of another metric than the report's."""
    name = aim(report, search).removeprefix("-")
    return metric(report.metric_format(name), value)


def cost(form: CostFormat, name: str, costs: Mapping[str, float | None]) -> str:
    """Write one cost of a model, with the spread of its measurement; one that was measured in another run is marked.

    Args:
        form: how it reads.
        name: the cost.
        costs: the model's costs by name, and the entries about measurements next to them.

    >>> cost(CostFormat("MACs", "MACs"), "macs", {"macs": 1.2e9}), cost(CostFormat("bytes"), "size", {})
    ('1.20G', '–')
    >>> cost(CostFormat("mJ"), "energy", {"energy": 3.14159, "energy_cached": 1})
    '3.14 mJ, cached'
    >>> cost(CostFormat("ms"), "latency", {"latency": 12.31, "latency_spread": 0.42})
    '12.3 ± 0.4 ms'
    """
    value = costs.get(name)
    spread = costs.get(f"{name}_spread")
    if value is None:
        return "–"
    if form.unit == "bytes":
        text = size(value)
        if spread is not None:
            text += f" ± {size(spread)}"
    else:
        # The spread has the digits of its value.
        text = _number(form, value, value)
        if spread is not None:
            text += f" ± {_number(form, spread, value)}"
        text += following_unit(form)
    if costs.get(f"{name}_cached"):
        text += ", cached"
    return text


def _number(form: CostFormat, number: float, value: float) -> str:
    """Write a cost's value or its spread; times have as many digits after the point as the value needs."""
    if form.unit != "ms":
        return human(number)
    digits = 1 if value >= 1 else 3
    return f"{number:.{digits}f}"


# ---- the table of models that ends a run

DISPENSABLE = ("backbone_params", "size", "params")
"""The costs that a narrow terminal leaves out first, in this order: the ones next to them say much the same."""
LONGEST_NAME = 14
"""Letters of a model's name that stay on one line, however many costs there are."""
EDGES = 2
"""Characters of a table's left and right edge, which rich does not count when it measures one."""
ROOMY = 96
"""Characters across from which a terminal shows spreads."""
ROLE_STYLES = {"winner": "bold green", "baseline": "dim"}


def summary_columns(report: RunReport) -> dict[str, str]:
    """Return the headings of the costs that some model of the report has, by name."""
    names: set[str] = set()
    for model in report.models:
        names.update(model.costs)
    names.discard("flops")  # twice the MACs
    headings = {}
    for name in in_column_order(names):
        if not is_about_measurement(name, names):
            headings[name] = cost_heading(name, report.cost_format(name))
    return headings


def share(model: ModelRow, name: str) -> str:
    """Write a cost as a share of the teacher's; empty if it has none."""
    value = model.relative.get(name)
    if value is None:
        return ""
    return f"{100 * value:.0f} %"


def summary_table(report: RunReport, width: int | None = None) -> Table:
    """Return the table of models that ends a run, for a terminal.

    Models that were not evaluated are left out, unless none was. If not everything fits, columns are left out, too: the
    backbone's parameters first, then the size, all parameters, and the last costs of the recipe.

    Args:
        report: the run's.
        width: characters across; default: the terminal's. Below 96 spreads are left out.
    """
    from rich.console import Console

    width = width or Console().width
    headings = summary_columns(report)
    essential = [name for name in headings if report.cost_format(name).highlight != ""]

    def drawn(costs: Sequence[str]) -> Table:
        columns = {name: headings[name] for name in costs}
        return _summary(report, columns, with_spread=width >= ROOMY)

    return fitted(drawn, list(headings), essential, width)


def fitted(
    drawn: Callable[[Sequence[str]], Table], costs: Sequence[str], essential: Collection[str], width: int
) -> Table:
    """Return a table with as many costs as fit into a terminal: :data:`DISPENSABLE` ones go first, then the last ones.

    Args:
        drawn: names of costs → the table with these.
        costs: all of them, in order.
        essential: those that stay in any case; the table may then be too wide, and rich folds its headings.
        width: characters across.
    """
    from rich.console import Console
    from rich.measure import Measurement

    roomy = Console(width=10_000)  # rich never measures a table as wider than its console
    left = list(costs)
    table = drawn(left)
    for name in dict.fromkeys([*DISPENSABLE, *reversed(costs)]):  # each cost once
        if name in essential or name not in left:
            continue
        if Measurement.get(roomy, roomy.options, table).minimum + EDGES <= width:
            break
        left.remove(name)
        table = drawn(left)
    return table


def _summary(report: RunReport, columns: Mapping[str, str], with_spread: bool) -> Table:
    from rich import box
    from rich.table import Table

    beside = companions(report)
    name = titled(report.metric, report.metric_format(report.metric))
    models = [model for model in report.models if model.score is not None or model.costs]
    models = models or list(report.models)  # nothing was evaluated: the names at least
    rows = []
    for model in models:
        cells = [measured(report, model, other) for other in beside]
        for cost_name in columns:
            cells.append(_cost_cell(report, model, cost_name, with_spread))
        rows.append([label(model, shown_role(report.models, model)), _score_cell(report, model), *cells])

    has_shares = any(model.relative for model in report.models if model.role != "teacher")
    costs = "costs and their share of the teacher's" if has_shares else "costs"
    table = Table(
        title=f"{report.name}: {report.split} {name}, {costs}",
        title_justify="left",
        caption=over_budget(report.models) or None,
        caption_justify="left",
        caption_style="bold red",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    headings = ["model", name, *beside.values(), *columns.values()]
    for number, heading in enumerate(headings):
        # Headings may be folded, the cells below may not; only long names of models may.
        widest = _widest_line([row[number] for row in rows])
        if number == 0:
            widest = min(widest, LONGEST_NAME)
        justify: JustifyMethod = "left" if number == 0 else "right"
        table.add_column(heading, justify=justify, overflow="fold", min_width=widest)
    for number, (model, row) in enumerate(zip(models, rows, strict=True)):
        style = ROLE_STYLES.get(shown_role(report.models, model), "")
        ends_budget = number + 1 == len(models) or models[number + 1].budget != model.budget
        table.add_row(*row, style=style, end_section=ends_budget)
    return table


def _score_cell(report: RunReport, model: ModelRow) -> str:
    """Write a score, with the gain over the teacher in a second line."""
    form = report.metric_format(report.metric)
    text = metric(form, model.score)
    if model.role != "teacher" and model.gain is not None:
        text += f"\n{difference(form, model.gain)}"
    return text


def _cost_cell(report: RunReport, model: ModelRow, name: str, with_spread: bool) -> str:
    """Write a cost, with its share of the teacher's in a second line."""
    costs = dict(model.costs)
    if not with_spread:
        costs.pop(f"{name}_spread", None)
    text = cost(report.cost_format(name), name, costs)
    part = share(model, name)
    if part and model.role != "teacher":
        text += f"\n({part})"
    return text


def _widest_line(cells: Sequence[str]) -> int:
    widest = 0
    for cell in cells:
        for line in cell.splitlines():
            widest = max(widest, len(line))
    return widest


def label(model: ModelRow, role: str) -> str:
    """Return a model's name, with its role if the name does not imply it, and whether it is over its budget."""
    lines = [model.name]
    if role not in ("teacher", "model"):  # the first is its own name, and the second says nothing
        lines.append(role)
    if model.over_budget:
        lines.append("over budget")
    return "\n".join(lines)


def over_budget(models: Sequence[ModelRow]) -> str:
    """List the models that are over their budgets, a line each."""
    lines = [f"{model.name}: over budget: {model.over_budget}" for model in models if model.over_budget]
    return "\n".join(lines)


def short(name: str, length: int) -> str:
    """Shorten a name in its middle.

    >>> short("search.sampler=evolution", 16)
    'search.…volution'
    """
    if len(name) <= length:
        return name
    start = length // 2 - 1  # the ellipsis takes a letter of the first half
    end = length - length // 2
    return f"{name[:start]}…{name[-end:]}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Write a Markdown table whose first ``left`` columns are text and the others numbers.

    >>> print(markdown_table(["model", "params"], [["teacher", "10.6M"]]))
    | model | params |
    | :-- | --: |
    | teacher | 10.6M |
    """
    rule = [":--"] * left + ["--:"] * (len(header) - left)
    lines = []
    for row in [header, rule, *rows]:
        # A bar would end the cell, and a line break the table.
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
