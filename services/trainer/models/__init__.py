"""Models: what ranks (`base`, one module each), and what learns ratings one at a time (`factorisation`, `effects`)."""
