"""How a process ends that cannot go on: with a code, and one sentence instead of a stack of calls.

====  ==========================================================================
0     done
1     not as wanted: asked for and refused, not ready, not held
2     bad input: the sentence names the setting, option, file or field
3     a part does not answer; starting again, or the same command, can succeed later
====  ==========================================================================
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Conflict, FreshrankError, InvalidInput, NotFound, TemporaryError

DONE, NOT_AS_WANTED, BAD_INPUT, NO_ANSWER = 0, 1, 2, 3


def exit_code(error: FreshrankError) -> int:
    """Number of a failure, by what to do about it.

    >>> exit_code(TemporaryError("away")), exit_code(NotFound("release")), exit_code(FreshrankError("refused"))
    (3, 2, 1)
    """
    if isinstance(error, InvalidInput | NotFound):
        return BAD_INPUT
    return NO_ANSWER if isinstance(error, TemporaryError) else NOT_AS_WANTED


@contextmanager
def one_sentence() -> Iterator[None]:
    """End a service where the block raises an error that its reader can do something about; others pass through."""
    try:
        yield
    except (Conflict, InvalidInput, NotFound, TemporaryError) as error:
        logging.getLogger(__name__).debug("ends", exc_info=True)
        print(error, file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
