"""Says where this package went."""

raise ImportError("nasframe.studies is now in nasframe_studies, and nasframe.studies.stats is nasframe_studies.stats.")
