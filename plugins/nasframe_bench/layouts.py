"""Tables in published layouts: which of their columns are metrics and which are costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nasframe_bench.table_file import ArchTable, read_table

NAS_BENCH_MACRO = {"mean_acc": "metric.accuracy", "std": "", "params": "cost.params", "flops": "cost.flops"}
"""The columns of NAS-Bench-Macro (Su et al., arXiv 2103.11922): eight operators, mean accuracy of three trainings."""


def read(path: Path, columns: Mapping[str, str] | None = None) -> ArchTable:
    """Read a table; without ``columns``, a file in the layout of NAS-Bench-Macro is recognised."""
    if not columns and _is_macro(path):
        columns = NAS_BENCH_MACRO
    return read_table(path, columns or None)


def _is_macro(path: Path) -> bool:
    """Return whether the first record has its columns; the rest of the file is not read."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        first = file.read(1000).partition("}")[0]
    if '"domain"' in first:  # a table of nasframe, whatever its columns are called
        return False
    return all(f'"{column}"' in first for column in NAS_BENCH_MACRO)
