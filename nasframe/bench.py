"""Says where this package went."""

raise ImportError("nasframe.bench is now in nasframe_bench.")
