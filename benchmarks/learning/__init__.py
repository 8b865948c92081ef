"""Benchmarks of what is learned: quality and speed of incremental models against published ones."""
