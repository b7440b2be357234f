"""Says where this package went."""

raise ImportError("nasframe.studies is now in nasframe_studies.")
