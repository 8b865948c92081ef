"""One spelling of a query: what is counted, learned and asked under one key. Pure."""

import unicodedata

MOST_LETTERS = 80
"""Longest query that is counted: what is longer, such as a conversation, is hardly ever asked twice."""


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


def query_key(text: str) -> str | None:
    """The spelling under which a query is counted; None: it is not.

    >>> query_key("Red SHOES"), query_key("red " * 40)
    ('red shoes', None)
    """
    key = normal_query(text)
    return key if key is not None and len(key) <= MOST_LETTERS else None
