"""Rows of items from their texts, before clicks have made rows of their own."""
