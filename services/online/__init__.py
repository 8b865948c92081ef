"""The online store: Feast's own Redis layout, written in explicit order and read as matrices (design D9, D10)."""
