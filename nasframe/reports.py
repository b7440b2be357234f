"""Says where this package went."""

raise ImportError(
    "nasframe.reports is now in nasframe.report, nasframe_studies.report and nasframe_bench.report, and "
    "nasframe.reports.report is nasframe.report.page."
)
