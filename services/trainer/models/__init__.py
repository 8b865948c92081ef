"""Models that rank: a base and one module each."""
