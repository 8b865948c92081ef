"""Differential privacy whose unit is the shopper: what a round takes, adds, and costs (docs/privacy.md)."""
