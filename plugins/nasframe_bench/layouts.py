"""Tables in other layouts than ours: which of their columns hold metrics and costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nasframe_bench.table_file import ArchTable, read_table

NAS_BENCH_MACRO = {"mean_acc": "metric.accuracy", "std": "", "params": "cost.params", "flops": "cost.flops"}
"""The columns of NAS-Bench-Macro (Su et al., arXiv 2103.11922): eight operators, mean accuracy of three trainings."""


def read(path: Path, columns: Mapping[str, str] | None = None) -> ArchTable:
    """Read a table; without ``columns`` a file in the layout of NAS-Bench-Macro is known by its own."""
    return read_table(path, columns or (NAS_BENCH_MACRO if _is_macro(path) else None))


def _is_macro(path: Path) -> bool:
    """Tell by the first record, without reading the whole file."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        first = file.read(1000).partition("}")[0]
    return all(f'"{column}"' in first for column in NAS_BENCH_MACRO) and '"domain"' not in first
