"""The shop's own step between a query and its words: a function that is named by a setting."""

import importlib
import logging
from collections.abc import Callable

from services.common.errors import InvalidInput

logger = logging.getLogger(__name__)

Rewrite = Callable[[str], str]
"""A query in one spelling -> the query to look for."""


def unchanged(query: str) -> str:
    """No step of the shop's own."""
    return query


def rewrite_of(name: str) -> Rewrite:
    """The function that `package.module:function` names; what it raises later is logged, and the query stays as it is.

    Raises InvalidInput when there is none.

    >>> rewrite_of("textwrap:dedent")("  tv")
    'tv'
    """
    if not name:
        return unchanged
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput("search_rewrite", "missing", f"{name!r}: {error}") from error
    if not callable(found):
        raise InvalidInput("search_rewrite", "malformed", f"{name!r} is not package.module:function")
    return lambda query: _tried(found, query, name)


def _tried(function: Rewrite, query: str, name: str) -> str:
    try:
        found = function(query)
    except Exception:
        logger.exception("the shop's rewriting of queries failed", extra={"function": name})
        return query
    return found if isinstance(found, str) else query
