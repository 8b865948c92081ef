"""What a call can fail with, by what to do about it.

::

    ApiError
    ├── InvalidArgument       a field is wrong: `violations` names each
    ├── NotFound              what was named does not exist
    ├── Refused               the state does not allow it, or the credentials do not
    ├── Unimplemented         not part of this version
    └── Retryable             the same call can succeed later
        ├── Unavailable       the service or a part behind it is down; the client has tried again already
        ├── Overloaded        too much at once; wait `retry_after_s`
        └── DeadlineExceeded  no answer in time
"""

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """One wrong field."""

    field: str
    """Path in the request, such as `candidates[3].item_id`."""
    reason: str
    """For programs: missing_field, out_of_range, too_large, malformed, duplicate, bad_token, ..."""
    description: str
    """For people."""


class ApiError(Exception):
    """Base of every failed call."""

    def __init__(
        self, code: grpc.StatusCode, message: str, violations: tuple[Violation, ...] = (), retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.violations = violations
        self.retry_after_s = retry_after_s
        """Seconds the service asks to wait; 0 when it says nothing."""


class InvalidArgument(ApiError):
    """Raised for wrong fields: sending the same again fails again."""


class NotFound(ApiError):
    """Raised when what was named does not exist."""


class Refused(ApiError):
    """Raised when state or credentials do not allow the call."""


class Unimplemented(ApiError):
    """Raised for a method that this version does not have."""


class Retryable(ApiError):
    """Raised when the same call can succeed later."""


class Unavailable(Retryable):
    """Raised when the service, or a part behind it, is down."""


class Overloaded(Retryable):
    """Raised when a limit on concurrency or rate is reached."""


class DeadlineExceeded(Retryable):
    """Raised when there was no answer in time."""


_BY_CODE: dict[grpc.StatusCode, type[ApiError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def of(error: Any) -> ApiError:
    """The error of a failed gRPC call."""
    code: grpc.StatusCode = error.code()
    violations: list[Violation] = []
    retry_after_s = 0.0
    for detail in _details(error):
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            violations += [Violation(v.field, v.reason, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    kind = _BY_CODE.get(code, ApiError)
    return kind(code, error.details() or code.name, tuple(violations), retry_after_s)


def _details(error: Any) -> Any:
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS:
            return status_pb2.Status.FromString(value).details
    return ()
