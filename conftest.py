"""What pytest leaves alone when it looks for examples: modules that only say where they went."""

collect_ignore = ["nasframe/studies.py", "nasframe/bench.py", "nasframe/reports.py"]
