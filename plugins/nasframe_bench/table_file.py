"""Tables of architectures with their metrics and costs: the files that ``nasframe tabulate`` writes.

``docs/tables.md`` describes both kinds of file, JSON and CSV. Nothing here needs torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nasframe.errors import UsageError, suggestion
from nasframe.records import arch_id
from nasframe.storage import refuse_unwritable_file
from nasframe.store import write_text

if TYPE_CHECKING:
    from nasframe.search.domain import Choices
    from nasframe_bench.listed import Listed

FORMAT = 1
KINDS = (".json", ".csv")
ARCH, FEATURES = "arch", "features"
"""Columns of a table of listed architectures, and keys of its rows."""
METRIC, COST = "metric.", "cost."
"""How columns of metrics and costs begin in a table in columns; all other columns are knobs."""

Record: TypeAlias = Mapping[str, Any]
"""A row of a table in columns: column → cell."""


@dataclass
class ArchTable:
    """A table of architectures.

    Args:
        knobs: knob → its values, small to large, as ``nasframe.search.domain.Choices`` takes them.
        active: knob → (parent knob, the parent's values at which it has an effect).
        metrics: names of measured values; the first is the primary one.
        minimise: the metrics to minimise; the others are maximised.
        percent: the metrics that are shares, written times 100.
        costs: names of counted values; less is better.
        rows: ``{"arch": …, "metrics": {name: number}, "costs": {name: number}}``, each architecture once, canonical.
        about: where the table comes from; for the reader only.
        listed: the name of the domain that the architectures come from, if it has no knobs. They are then listed whole,
            each with ``features`` if the domain has them.
        crosses: whether that domain can cross two architectures.
    """

    knobs: Mapping[str, Sequence[Any]]
    active: Mapping[str, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    minimise: Sequence[str] = ()
    percent: Sequence[str] = field(default=(), kw_only=True)
    costs: Sequence[str] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    about: Mapping[str, Any] = field(default_factory=dict)
    listed: str = field(default="", kw_only=True)
    crosses: bool = field(default=False, kw_only=True)

    def domain(self) -> Choices | Listed:
        """Return the domain of the table's architectures; of listed ones it has no others than the rows."""
        from nasframe.search.domain import Choices

        if self.listed:
            from nasframe_bench.listed import Listed

            archs = [row["arch"] for row in self.rows]
            has_features = bool(self.rows) and "features" in self.rows[0]
            features = [row["features"] for row in self.rows] if has_features else None
            return Listed(archs, features, self.crosses)
        return Choices(self.knobs, self.active)

    def head(self) -> dict[str, Any]:
        """Return all but the rows, JSON-plain."""
        domain: dict[str, Any] = {"listed": self.listed, "crossover": self.crosses}
        if not self.listed:
            domain = self._knobs()
        head: dict[str, Any] = {
            "format": FORMAT,
            "about": dict(self.about),
            "domain": domain,
            "metrics": list(self.metrics),
            "minimise": list(self.minimise),
        }
        # Left out if empty: a table without shares keeps the head, and so the fingerprint, from before this key.
        if self.percent:
            head["percent"] = list(self.percent)
        head["costs"] = list(self.costs)
        return head

    def _knobs(self) -> dict[str, Any]:
        knobs = {knob: list(values) for knob, values in self.knobs.items()}
        rules = {}
        for knob, (parent, values) in self.active.items():
            rules[knob] = [parent, list(values)]
        return {"knobs": knobs, "active": rules}


def refuse_unwritable_table(path: Path) -> None:
    """Make sure, before any work, that a table can be written to a file.

    Raises:
        UsageError: the ending is another one than of tables, or the file cannot be written.
    """
    _kind(path)
    refuse_unwritable_file(path)


def write_table(table: ArchTable, path: Path) -> None:
    """Write a table whole or not at all, in the format that the file's ending names.

    Args:
        table: the table.
        path: ``.json``, or ``.csv``; then all but the rows is written to ``<path>.json``.

    Raises:
        UsageError: another ending.
    """
    import pandas as pd

    if _kind(path) == ".json":
        write_text(path, table_json(table))
        return
    # The side file first: without it, the table would be read with an inferred domain.
    write_text(_side_file(path), json.dumps(table.head(), indent=1) + "\n")
    columns: dict[str, list[Any]] = {}
    if table.listed:
        for name in (ARCH, FEATURES):
            columns[name] = [json.dumps(row[name]) for row in table.rows if name in row]
            if not columns[name]:  # the domain has no features
                del columns[name]
    for knob in table.knobs:
        columns[knob] = [_knob_cell(row["arch"], knob) for row in table.rows]
    for name in table.metrics:
        columns[METRIC + name] = [row["metrics"].get(name) for row in table.rows]
    for name in table.costs:
        columns[COST + name] = [row["costs"].get(name) for row in table.rows]
    temporary = path.with_name(path.name + ".tmp")
    pd.DataFrame(columns).to_csv(temporary, index=False)
    os.replace(temporary, path)


def table_json(table: ArchTable) -> str:
    """Return a table as JSON, with one row a line."""
    head = json.dumps(table.head(), indent=1)[:-2]  # without its closing brace
    rows = ",\n".join(json.dumps(row) for row in table.rows)
    return f'{head},\n "rows": [\n{rows}\n]}}\n'


def read_table(path: Path | str, rename: Mapping[str, str] | None = None) -> ArchTable:
    """Read a table of architectures and check it.

    Args:
        path: a JSON file, or a CSV file with or without its side file. Without one, the knobs are the columns that are
            neither ``metric.…`` nor ``cost.…``, with the values that occur; a knob with empty cells depends on the
            first knob whose value determines where it is empty. A JSON file may also map architectures written as words
            of equal length (``"0212"``) to records; the letters become the knobs ``op.0`` ….
        rename: for tables made elsewhere: column → its name here, as ``{"acc": "metric.accuracy"}``; a column with an
            empty name is left out.

    Raises:
        UsageError: the file or a row of it cannot be used; the message names both.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Expected a table of architectures, as 'nasframe tabulate' writes.")
    if _kind(path) == ".csv":
        return _from_records(path, _csv_records(path), rename or {})
    content = _json(path)
    if "rows" in content or "domain" in content:  # the layout that write_table writes
        return _checked(path, content, content.get("rows"))
    return _from_records(path, _word_records(path, content), rename or {})


# ---- files


def _kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise UsageError(f"{path}: unknown kind of table {path.suffix!r}. Expected {' or '.join(KINDS)}.")
    return path.suffix


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a JSON {type(content).__name__}. Expected an object with 'domain' and 'rows'.")
    return content


def _csv_records(path: Path) -> list[Record]:
    import pandas as pd

    try:
        # Words such as "None" are values of knobs: only an empty cell is missing.
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a csv file ({error}).") from None
    records: Any = frame.to_dict(orient="records")
    return records


def _word_records(path: Path, content: Mapping[str, Any]) -> list[Record]:
    """Read records by architectures that are words, with one letter a knob; only numbers of records are kept."""
    lengths = {len(word) for word in content}  # a position is a knob, so all words have the same ones
    are_records = all(isinstance(record, dict) for record in content.values())
    if len(lengths) != 1 or not are_records:
        raise UsageError(f"{path}: 'domain' and 'rows' are missing. Expected a table of architectures.")
    records: list[Record] = []
    for word, record in content.items():
        cells: dict[str, Any] = {}
        for position, letter in enumerate(word):
            cells[f"op.{position}"] = int(letter) if letter.isdigit() else letter
        for column, cell in record.items():
            if isinstance(cell, int | float):
                cells[column] = cell
        records.append(cells)
    return records


# ---- tables in columns


def _from_records(path: Path, records: Sequence[Record], rename: Mapping[str, str]) -> ArchTable:
    """Make a table from rows in columns; its head is in the side file, or is inferred."""
    columns: dict[str, None] = {}  # a set in order; records of a JSON file need not have the same columns
    for record in records:
        columns.update(dict.fromkeys(record))
    for column in sorted(rename):
        if column not in columns:
            hint = suggestion(column, columns)
            raise UsageError(f"{path}: no column {column!r}. There are: {', '.join(columns)}.{hint}")

    new_names = {column: rename.get(column, column) for column in columns}
    rows = [_row(record, new_names) for record in records]

    side_file = _side_file(path)
    if side_file.is_file():
        head = _json(side_file)
        if isinstance(head.get("domain"), dict) and head["domain"].get("listed"):
            rows = [_listed_row(row) for row in rows]
        return _checked(path, head, rows)
    # Without a side file, all that is known is in the names of the columns and in the cells.
    knobs, metrics, costs = [], [], []
    for name in new_names.values():
        if name.startswith(METRIC):
            metrics.append(name.removeprefix(METRIC))
        elif name.startswith(COST):
            costs.append(name.removeprefix(COST))
        elif name:
            knobs.append(name)
    domain = _inferred_domain(path, knobs, rows)
    head = {"format": FORMAT, "metrics": metrics, "costs": costs, "domain": domain}
    return _checked(path, head, rows)


def _row(record: Record, new_names: Mapping[str, str]) -> dict[str, Any]:
    """Sort the cells of a record into architecture, metrics and costs; empty cells are left out."""
    arch, metrics, costs = {}, {}, {}
    for column, cell in record.items():
        name = new_names[column]
        if not name or _is_empty(cell):
            continue
        if name.startswith(METRIC):
            metrics[name.removeprefix(METRIC)] = cell
        elif name.startswith(COST):
            costs[name.removeprefix(COST)] = cell
        else:
            arch[name] = _knob_value(cell)
    return {"arch": arch, "metrics": metrics, "costs": costs}


def _listed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of listed architectures, whose cells were taken for knobs."""
    cells = row["arch"]
    listed = {**row, ARCH: cells.get(ARCH)}
    if FEATURES in cells:
        listed[FEATURES] = cells[FEATURES]
    return listed


def _knob_cell(arch: Mapping[str, Any], knob: str) -> str | None:
    """Return the JSON of a knob's value; ``None`` if the knob has no effect."""
    if knob not in arch:
        return None
    return json.dumps(arch[knob])


def _knob_value(cell: Any) -> Any:
    """Read a cell: JSON if it is valid, else a word; floats that are whole become integers."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return cell
    # pandas reads a column of integers as floats if it has an empty cell.
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _inferred_domain(path: Path, knobs: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Infer the domain from the values that occur, and from where cells are empty."""
    archs = [row["arch"] for row in rows]
    values = {}
    always = []
    for knob in knobs:
        cells = [arch[knob] for arch in archs if knob in arch]
        values[knob] = sorted(_distinct(cells), key=_order)
        if len(cells) == len(archs):
            always.append(knob)

    active = {}
    for knob in knobs:
        if knob not in always:  # an empty cell means that the knob has no effect in this row
            others = [other for other in knobs if other not in always and other != knob]
            active[knob] = _rule(path, knob, [*always, *others], archs)
    return {"knobs": values, "active": active}


def _rule(path: Path, knob: str, parents: Sequence[str], archs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Find the first knob whose value determines whether another has an effect: ``[parent, values]``.

    A parent may have no effect in some rows itself; what depends on it then has none, either.

    Raises:
        UsageError: there is none.
    """
    rows_with = [arch for arch in archs if knob in arch]
    for parent in parents:
        if not all(parent in arch for arch in rows_with):
            continue
        on = _distinct([arch[parent] for arch in rows_with])
        off = _distinct([arch[parent] for arch in archs if knob not in arch and parent in arch])
        # Two knobs that come and go together do not tell which of them depends on the other.
        is_wider = len(rows_with) < sum(parent in arch for arch in archs)
        if is_wider and not any(value in off for value in on):
            return [parent, on]
    raise UsageError(f"{path}: no knob tells where {knob!r} is empty. Expected {_side_file(path)} to say it.")


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return each value once, in order; their JSON compares them, because lists cannot be looked up."""
    by_json = {json.dumps(value): value for value in values}
    return list(by_json.values())


def _order(value: Any) -> tuple[Any, ...]:
    """Sort numbers before words before lists, and lists by length."""
    # Knobs list their values from small to large; a longer list, of kept layers for example, is the larger value.
    if isinstance(value, list):
        return 2, len(value), json.dumps(value)
    if isinstance(value, str):
        return 1, 0, value
    return 0, value, ""


# ---- checks


def _checked(path: Path, head: Mapping[str, Any], rows: Any) -> ArchTable:
    """Make a table of its head and rows, and check every row."""
    if head.get("format") != FORMAT:
        raise UsageError(f"{path}: format {head.get('format')!r}. Expected a table of architectures, format {FORMAT}.")
    content = head.get("domain")
    if not isinstance(rows, list) or not isinstance(content, dict):
        raise UsageError(f"{path}: 'domain' or 'rows' is missing. Expected a table of architectures.")
    listed = content.get("listed", "")
    rules = {}
    for knob, rule in content.get("active", {}).items():
        rules[knob] = (rule[0], rule[1])
    if listed:
        _check_listed(path, rows)
    table = ArchTable(
        knobs={} if listed else content["knobs"],
        listed=listed,
        crosses=bool(content.get("crossover", False)),
        active=rules,
        metrics=list(head.get("metrics", ())),
        minimise=list(head.get("minimise", ())),
        percent=list(head.get("percent", ())),
        costs=list(head.get("costs", ())),
        rows=rows,
        about=head.get("about", {}),
    )
    domain = table.domain()
    keys = set()
    for number, row in enumerate(rows, start=1):
        try:
            # Cells of knobs without an effect are dropped, so that one architecture is never two rows.
            row["arch"] = domain.canonical(row["arch"])
        except (UsageError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: row {number}: {error}") from None
        key = arch_id(row["arch"])
        if key in keys:
            raise UsageError(f"{path}: row {number}: the same architecture again. Expected each once.")
        keys.add(key)
        row["metrics"] = _numbers(path, number, row.get("metrics", {}), table.metrics)
        row["costs"] = _numbers(path, number, row.get("costs", {}), table.costs)
    return table


def _check_listed(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that rows hold whole architectures, and as many features each.

    Raises:
        UsageError: a row does not; names it.
    """
    first = rows[0].get(FEATURES) if rows else None
    for number, row in enumerate(rows, start=1):
        arch = row.get(ARCH)
        if not isinstance(arch, dict) or not arch:
            raise UsageError(f"{path}: row {number}: 'arch' is {arch!r}. Expected a whole architecture, as a mapping.")
        features: Any = row.get(FEATURES)
        if features is None and first is None:
            continue
        is_alike = isinstance(features, list) and isinstance(first, list) and len(features) == len(first)
        if not is_alike or not all(_is_number(value) for value in features):
            raise UsageError(
                f"{path}: row {number}: 'features' is {features!r}. Expected as many finite numbers as in row 1."
            )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)  # to Python, a bool is an int
    return is_number and math.isfinite(value)


def _numbers(path: Path, number: int, cells: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    numbers = {}
    for name in names:
        value: Any = cells.get(name)
        if not _is_number(value):
            raise UsageError(f"{path}: row {number}: {name!r} is {value!r}. Expected a finite number.")
        numbers[name] = float(value)
    return numbers
