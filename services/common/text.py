"""One spelling of what people type."""

import unicodedata


def normal_query(text: str) -> str | None:
    """One spelling of a query: compatibility forms, case and spaces folded, nothing that cannot be printed.

    >>> normal_query("  Red\\tSHOES ")
    'red shoes'
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", text)
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.casefold().split()) or None
