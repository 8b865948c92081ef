"""Examples -> checkpoints: what is learned, when, and whether it is better."""
