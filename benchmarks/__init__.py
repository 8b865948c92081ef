"""Floors, stock ways, peers and ours, interleaved in one run: `python -m benchmarks`."""
