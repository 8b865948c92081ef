"""Measurements of what is learned and of what is done to it: one program per question."""
