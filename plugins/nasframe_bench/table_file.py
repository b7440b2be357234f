"""Tables of architectures with what was measured of each: the files that ``nasframe tabulate`` writes.

``docs/tables.md`` describes the three kinds of file (JSON, CSV, Parquet). Nothing here needs torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, suggestion
from nasframe.records import arch_id
from nasframe.store import write_text

if TYPE_CHECKING:
    import pandas as pd

    from nasframe.search.domain import Choices

FORMAT = 1
PREFIXES = {"metrics": "metric.", "costs": "cost."}


@dataclass
class ArchTable:
    """A table of architectures.

    Args:
        knobs: knob → its values, small to large, as ``nasframe.search.domain.Choices`` takes them.
        active: knob → (parent knob, the parent's values at which it has an effect).
        metrics: names of what was measured; the first is the primary one.
        minimise: those of them of which less is better; of all others more is.
        percent: those of them that are shares, written times 100.
        costs: names of what was counted; less is better.
        rows: ``{"arch": …, "metrics": {name: number}, "costs": {name: number}}``, each architecture once, canonical.
        about: where the table comes from; for the reader only.
    """

    knobs: Mapping[str, Sequence[Any]]
    active: Mapping[str, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    minimise: Sequence[str] = ()
    percent: Sequence[str] = field(default=(), kw_only=True)
    costs: Sequence[str] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    about: Mapping[str, Any] = field(default_factory=dict)

    def domain(self) -> Choices:
        """Return the domain of the table's architectures."""
        from nasframe.search.domain import Choices

        return Choices(self.knobs, self.active)

    def head(self) -> dict[str, Any]:
        """Return all but the rows, JSON-plain."""
        keys = ["metrics", "minimise", *(["percent"] if self.percent else []), "costs"]
        names = {key: list(getattr(self, key)) for key in keys}
        domain = {
            "knobs": {knob: list(values) for knob, values in self.knobs.items()},
            "active": {knob: [parent, list(values)] for knob, (parent, values) in self.active.items()},
        }
        return {"format": FORMAT, "about": dict(self.about), "domain": domain, **names}


def write_table(table: ArchTable, path: Path) -> None:
    """Write a table whole or not at all, in the format that the file's ending names.

    Args:
        table: the table.
        path: ``.json``; or ``.csv`` or ``.parquet``, beside which ``<path>.json`` then holds all but the rows.

    Raises:
        UsageError: another ending, or Parquet without pyarrow.
    """
    if _kind(path) == ".json":
        write_text(path, table_json(table))
        return
    write_text(_side(path), json.dumps(table.head(), indent=1) + "\n")
    columns: dict[str, list[Any]] = {
        knob: [json.dumps(row["arch"][knob]) if knob in row["arch"] else None for row in table.rows]
        for knob in table.knobs
    }
    for key, prefix in PREFIXES.items():
        columns |= {prefix + name: [row[key].get(name) for row in table.rows] for name in getattr(table, key)}
    _write_frame(columns, path)


def table_json(table: ArchTable) -> str:
    """Write a table as JSON, one row a line."""
    rows = ",\n".join(json.dumps(row) for row in table.rows)
    return f'{json.dumps(table.head(), indent=1)[:-2]},\n "rows": [\n{rows}\n]}}\n'


def read_table(path: Path | str, rename: Mapping[str, str] | None = None) -> ArchTable:
    """Read a table of architectures and check it.

    Args:
        path: a JSON file, or a CSV or Parquet file with or without its side file. Without one the knobs are the
            columns that are neither ``metric.…`` nor ``cost.…``, with the values that occur, and a knob with empty
            cells depends on the first knob whose value tells where it is empty. A JSON file may also map
            architectures written as words of equal length (``"0212"``) to records; the letters are ``op.0`` ….
        rename: for tables made elsewhere: column → the name it shall have, as ``{"acc": "metric.accuracy"}``;
            one with an empty name is left out.

    Raises:
        UsageError: the file or a row of it cannot be used; the message names both.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Expected a table of architectures, as 'nasframe tabulate' writes.")
    if _kind(path) == ".json":
        content = _json(path)
        if "rows" in content or "domain" in content:
            return _checked(path, content, content.get("rows"))
        records = _words(path, content)
    else:
        frame = _read_frame(path)
        records = [dict(zip(frame.columns, cells, strict=True)) for cells in frame.itertuples(index=False)]
    columns, rename = dict.fromkeys(column for record in records for column in record), rename or {}
    if unknown := rename.keys() - columns.keys():
        hint = suggestion(min(unknown), columns)
        raise UsageError(f"{path}: no column {min(unknown)!r}. There are: {', '.join(columns)}.{hint}")
    records = [{rename.get(key, key): cell for key, cell in record.items()} for record in records]
    kept = [name for column in columns if (name := rename.get(column, column))]
    names = {key: [name[len(p) :] for name in kept if name.startswith(p)] for key, p in PREFIXES.items()}
    knobs = [name for name in kept if not name.startswith(tuple(PREFIXES.values()))]
    rows = [_row(record, knobs, names) for record in records]
    side = _side(path)
    head = _json(side) if side.is_file() else {"format": FORMAT, **names, "domain": _inferred(path, knobs, rows)}
    return _checked(path, head, rows)


def _kind(path: Path) -> str:
    if path.suffix not in (".json", ".csv", ".parquet"):
        raise UsageError(f"{path}: unknown kind of table {path.suffix!r}. Expected .json, .csv or .parquet.")
    return path.suffix


def _side(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a JSON {type(content).__name__}. Expected an object with 'domain' and 'rows'.")
    return content


def _words(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read records by architectures that are words, one letter a knob; what is no number is left out."""
    if len({len(word) for word in content}) != 1 or not all(isinstance(record, dict) for record in content.values()):
        raise UsageError(f"{path}: 'domain' and 'rows' are missing. Expected a table of architectures.")
    records = []
    for word, record in content.items():
        letters = {f"op.{i}": int(c) if c.isdigit() else c for i, c in enumerate(word)}
        records.append(letters | {key: cell for key, cell in record.items() if isinstance(cell, int | float)})
    return records


def _write_frame(columns: Mapping[str, list[Any]], path: Path) -> None:
    import pandas as pd

    frame, temporary = pd.DataFrame(columns), path.with_name(path.name + ".tmp")
    try:
        frame.to_csv(temporary, index=False) if path.suffix == ".csv" else frame.to_parquet(temporary, index=False)
    except ImportError:
        raise _without_pyarrow(path) from None
    os.replace(temporary, path)


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.suffix == ".csv" else _parquet(path)
    except ImportError:
        raise _without_pyarrow(path) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a {path.suffix[1:]} file ({error}).") from None


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _without_pyarrow(path: Path) -> UsageError:
    return UsageError(f"{path}: Parquet needs pyarrow. Expected: pip install 'nasframe[hub]', or .json or .csv.")


def _row(record: Mapping[str, Any], knobs: Sequence[str], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {"arch": {knob: _value(record[knob]) for knob in knobs if not _empty(record[knob])}}
    for key, prefix in PREFIXES.items():
        found[key] = {name: record[prefix + name] for name in names[key] if not _empty(record[prefix + name])}
    return found


def _empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _value(cell: Any) -> Any:
    """Read a cell: JSON where it is that, else a word; whole numbers are whole."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return cell
    cell = cell.item() if hasattr(cell, "item") else cell
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _inferred(path: Path, knobs: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Read the domain off the rows."""
    archs = [row["arch"] for row in rows]
    values: dict[str, dict[str, Any]] = {knob: {} for knob in knobs}
    for arch in archs:
        for knob, value in arch.items():
            values[knob][json.dumps(value)] = value
    free = [knob for knob in knobs if all(knob in arch for arch in archs)]
    active = {}
    for knob in (k for k in knobs if k not in free):
        for parent in free:
            on, off = ({json.dumps(a[parent]) for a in archs if (knob in a) is there} for there in (True, False))
            if not on & off:
                active[knob] = [parent, [value for key, value in values[parent].items() if key in on]]
                break
        else:
            raise UsageError(f"{path}: no knob tells where {knob!r} is empty. Expected {_side(path)} to say it.")
    return {"knobs": {knob: sorted(found.values(), key=_order) for knob, found in values.items()}, "active": active}


def _order(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list):
        return (2, len(value), json.dumps(value))
    return (1, 0, value) if isinstance(value, str) else (0, value, "")


def _checked(path: Path, head: Mapping[str, Any], rows: Any) -> ArchTable:
    if head.get("format") != FORMAT:
        raise UsageError(f"{path}: format {head.get('format')!r}. Expected a table of architectures, format {FORMAT}.")
    if not isinstance(rows, list) or not isinstance(head.get("domain"), dict):
        raise UsageError(f"{path}: 'domain' or 'rows' is missing. Expected a table of architectures.")
    active = {knob: (rule[0], rule[1]) for knob, rule in head["domain"].get("active", {}).items()}
    names = {key: list(head.get(key, ())) for key in ("metrics", "minimise", "percent", "costs")}
    table = ArchTable(head["domain"]["knobs"], active, **names, rows=rows, about=head.get("about", {}))
    domain, seen = table.domain(), set()
    for number, row in enumerate(rows, start=1):
        try:
            row["arch"] = domain.canonical(row["arch"])
        except (UsageError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: row {number}: {error}") from None
        if (key := arch_id(row["arch"])) in seen:
            raise UsageError(f"{path}: row {number}: the same architecture again. Expected each once.")
        seen.add(key)
        for kind in PREFIXES:
            row[kind] = _numbers(path, number, row.get(kind, {}), names[kind])
    return table


def _numbers(path: Path, number: int, found: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    for name in names:
        value = found.get(name)
        if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(value):  # type: ignore[arg-type]
            raise UsageError(f"{path}: row {number}: {name!r} is {value!r}. Expected a finite number.")
    return {name: float(found[name]) for name in names}
