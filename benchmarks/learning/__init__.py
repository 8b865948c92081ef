"""Benchmarks of what is learned, on public data that the caller has: they take a folder and write JSON."""
