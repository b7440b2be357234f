"""One architecture's share of one optimiser step, as modifiers see it."""
