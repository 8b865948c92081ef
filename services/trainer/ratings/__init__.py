"""Ratings and clicks learned one at a time, in order: factors, effects of what is known, and both together."""
