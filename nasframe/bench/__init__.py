"""Benchmarks of samplers on tables of architectures."""
