"""Shops that learn one model together: each on its own examples, by Flower. docs/federated.md."""
