"""How a service ends that cannot go on: with a code and one sentence instead of a stack of calls."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import InvalidInput, NotFound, TemporaryError

BAD_INPUT, NO_ANSWER = 2, 3
"""Exit codes: a setting, definition or file is wrong; something outside did not answer, so starting again can help."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the process where the block raises an error that its reader can do something about; others pass through."""
    try:
        yield
    except (InvalidInput, NotFound, TemporaryError) as error:
        logging.getLogger(__name__).debug("ends", exc_info=True)
        print(error, file=sys.stderr)
        raise SystemExit(NO_ANSWER if isinstance(error, TemporaryError) else BAD_INPUT) from None
