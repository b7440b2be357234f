"""The commands of sampler benchmarks."""
