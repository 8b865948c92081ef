"""Two kinds of error, told apart by what to do about them.

::

    FreshrankError
    ├── TemporaryError          try again, the same call can succeed
    │   ├── DeadlineExceeded    the time for it is over
    │   ├── Overloaded          too much at once, later is better
    │   └── NotOwner            another worker owns the partition now
    └── PermanentError          never try again, the input or the state is wrong
        ├── InvalidInput        a field is wrong; carries its name
        ├── NotFound            what was named does not exist
        ├── Conflict            the state does not allow it
        └── CorruptState        a file does not hold what it says
"""


class FreshrankError(Exception):
    """Base of every error raised on purpose."""


class TemporaryError(FreshrankError):
    """Trying again can help."""


class DeadlineExceeded(TemporaryError):
    """Raised when an answer came after its budget."""


class Overloaded(TemporaryError):
    """Raised when a limit on concurrency or rate is reached."""


class NotOwner(TemporaryError):
    """Raised when a partition was taken over while a step was running."""


class PermanentError(FreshrankError):
    """Trying again cannot help."""


class InvalidInput(PermanentError):
    """Raised for a wrong field of an event, a request, a definition or a setting.

    >>> error = InvalidInput("rating", "out_of_range", "must lie between 0 and 10")
    >>> str(error)
    'rating: must lie between 0 and 10'
    """

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{field}: {detail or reason}")
        self.field = field
        self.reason = reason
        self.detail = detail or reason


class NotFound(PermanentError):
    """Raised when a release, item or view that was named does not exist."""


class Conflict(PermanentError):
    """Raised when the state does not allow what was asked."""


class CorruptState(PermanentError):
    """Raised when a snapshot, checkpoint or release fails its hash or version."""
