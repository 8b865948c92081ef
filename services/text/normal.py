"""One spelling of a query: what is counted, learned and asked under one key. Pure."""

import unicodedata


def normal_query(text: str) -> str | None:
    """One spelling of a query: compatibility forms, case and spaces folded, nothing that cannot be printed.

    Marks of direction and joiners of emoji go; letters of every script stay. None: nothing is left.

    >>> normal_query("  Red\\tSHOES ")
    'red shoes'
    >>> normal_query("\\u200e\\x00") is None
    True
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", text)
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.casefold().split()) or None
