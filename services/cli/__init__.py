"""The `freshrank` command: what people and jobs ask for by name."""
