"""Text as the encoder reads it: the folder of an exported encoder, its tokens, one spelling of a query. No torch."""
