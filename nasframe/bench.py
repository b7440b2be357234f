"""Says where this package went."""

raise ImportError("nasframe.bench is now in nasframe_bench, and nasframe.bench.archtable is nasframe_bench.table_file.")
