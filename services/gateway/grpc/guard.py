"""Around every method: limits, time, traces, counts, and the one place where errors become gRPC statuses."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common import errors
from services.common.tracing import Tracing
from services.gateway.calls import BadCall
from services.gateway.limits import Concurrency
from services.gateway.meters import Meters

logger = logging.getLogger(__name__)

DOMAIN = "freshrank"
RETRY_MS = 100

CODES: tuple[tuple[type[Exception], int], ...] = (
    (BadCall, code_pb2.INVALID_ARGUMENT),
    (errors.InvalidInput, code_pb2.INVALID_ARGUMENT),
    (errors.NotFound, code_pb2.NOT_FOUND),
    (errors.Conflict, code_pb2.FAILED_PRECONDITION),
    (errors.CorruptState, code_pb2.DATA_LOSS),
    (errors.PermanentError, code_pb2.FAILED_PRECONDITION),
    (errors.DeadlineExceeded, code_pb2.DEADLINE_EXCEEDED),
    (errors.Overloaded, code_pb2.RESOURCE_EXHAUSTED),
    (errors.TemporaryError, code_pb2.UNAVAILABLE),
    (NotImplementedError, code_pb2.UNIMPLEMENTED),
)
"""The first that fits; anything else is INTERNAL."""


def status_of(error: Exception) -> Any:
    """google.rpc.Status of an error: code, sentence, and details that a program can read."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    known = code != code_pb2.INTERNAL
    status = status_pb2.Status(code=code, message=str(error) if known else "internal error")
    reason = type(error).__name__ if known else "Internal"
    _attach(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    faults = error.faults if isinstance(error, BadCall) else [error] if isinstance(error, errors.InvalidInput) else []
    if faults:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=f.field, description=f.detail, reason=f.reason)
            for f in faults
        ]
        _attach(status, error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, errors.TemporaryError):
        delay = Duration(nanos=RETRY_MS * 1_000_000)
        _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _attach(status: Any, detail: Any) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Around every unary method: limit, time, trace, count, and turn errors into statuses."""

    def __init__(self, meters: Meters, tracing: Tracing, concurrency: Concurrency, services: tuple[str, ...]) -> None:
        self._meters, self._tracing, self._concurrency, self._services = meters, tracing, concurrency, services
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method with everything around it; other services (health, reflection) as they are."""
        path: str = details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None or path[1:].partition("/")[0] not in self._services:
            return handler
        wrapped = grpc.unary_unary_rpc_method_handler(
            self._around(path.rpartition("/")[2], handler.unary_unary),
            handler.request_deserializer,
            _written(handler.response_serializer),
        )
        self._wrapped[path] = wrapped
        return wrapped

    def _around(self, method: str, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        seconds = self._meters.seconds.labels(method)

        async def call(request: Any, context: Any) -> Any:
            start = perf_counter()
            code = "OK"
            try:
                with self._concurrency.enter(), self._tracing.span(method, _trace(context)):
                    return await inner(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                code = "CANCELLED" if context.cancelled() else context.code().name
                raise
            except Exception as error:
                status = status_of(error)
                code = code_pb2.Code.Name(status.code)
                if status.code == code_pb2.INTERNAL:
                    logger.exception("%s failed", method)
                await context.abort_with_status(rpc_status.to_status(status))
            finally:
                self._meters.requests.labels(method, code).inc()
                seconds.observe(perf_counter() - start)

        return call


def _written(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Lets a method answer with a message or with its bytes."""
    return lambda message: message if type(message) is bytes else serialize(message)


def _trace(context: Any) -> list[dict[str, bytes]]:
    """The caller's span, when it sent one."""
    metadata = context.invocation_metadata() or ()
    return [{"traceparent": value.encode()} for key, value in metadata if key == "traceparent"]


class Bearer(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets only calls with the operator's token through; health checks are free."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method, or one that refuses."""
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        open_to_all = details.method.startswith("/grpc.health.")
        if open_to_all or hmac.compare_digest(str(given).encode(), self._expected):
            return await continuation(details)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: Any, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "the admin port needs the header 'authorization: Bearer <token>'"
    )
