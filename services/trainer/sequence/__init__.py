"""The next item of a session: a Transformer over the history, and ways of keeping it fresh."""
