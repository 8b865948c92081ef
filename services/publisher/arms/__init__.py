"""Arms compared: trials between an incumbent and its challengers, and the sequential test that ends them."""
