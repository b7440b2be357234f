"""What people read: tables, figures and pages of runs, studies and benchmarks."""
