"""A shop whose truth is known: every click probability, and the moment at which it changes."""
