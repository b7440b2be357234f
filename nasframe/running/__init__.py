"""Running a plan: checks before the first stage, stages in order, resuming, and the cache of stages."""
