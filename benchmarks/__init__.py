"""Measurements of the running system, one program each; `python -m benchmarks` runs them all."""
