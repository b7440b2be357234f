"""Running a plan: order, seeds, resume, the cache of stages, and what can be said before any work."""
