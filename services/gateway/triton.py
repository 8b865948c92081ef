"""Scores from Triton: one gRPC call per request, with the bytes of the arrays put straight behind a ready head.

A protobuf message may be a concatenation of parts, so what never changes for a release and a padding (names, types,
shapes) is serialized once, and a request is that head plus the raw contents.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from services.common.errors import DeadlineExceeded, TemporaryError
from services.common.spec import OUTPUT, Arrays
from services.common.tls import Tls, Watch
from services.gateway.breaker import Breaker
from services.gateway.wire import varint

logger = logging.getLogger(__name__)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_DATATYPES = {"float32": "FP32", "int64": "INT64"}
_RAW_TAG = bytes([service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2])
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.enable_retries", 0),
]
_CONNECT_S = 5.0
"""For a connection with new certificates, and for the calls on the old one."""
_HEADS = 256
"""Heads remembered: releases x paddings."""
_BREAKERS = 32


class ScorerUnavailable(TemporaryError):
    """Raised when Triton, or the model, cannot be used now."""


class TritonScorer:
    """Asks one Triton address (or a load-balanced name) for scores; for one event loop."""

    def __init__(self, url: str, meanwhile: Callable[[], None] = lambda: None, tls: Tls | None = None) -> None:
        """`meanwhile`: work for the moments in which Triton computes; called once the request is on its way."""
        self._url, self._tls, self._watch = url, tls, Watch(tls.files if tls else ())
        self._renewing: asyncio.Task[None] | None = None
        self._use(self._open())
        self._heads: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._meanwhile = meanwhile

    async def score(self, release: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Probabilities [B, N, heads] of a loaded release.

        Raises DeadlineExceeded after the timeout, ScorerUnavailable when the release is not loaded, Triton fails, or
        the release has failed so often that it is left alone for a moment (another one may work: a breaker each).
        """
        loop, breaker = asyncio.get_running_loop(), self._breaker(release)
        if self._watch.changed():
            self._renewing = loop.create_task(self._renew())
        if not breaker.allows(loop.time()):
            raise ScorerUnavailable("the release fails and is left alone for a moment")
        try:
            call = self._infer(self._request(release, arrays), timeout=timeout_s)
            loop.call_soon(self._meanwhile)  # behind the sending, which the call has put there
            scores = _scores(await call)
        except (grpc.aio.AioRpcError, ScorerUnavailable) as error:
            breaker.failed(loop.time())
            raise _failure(error) from error
        breaker.worked()
        return scores

    async def close(self) -> None:
        """Close the channel."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._url, options=_OPTIONS)
        return grpc.aio.secure_channel(self._url, grpc.ssl_channel_credentials(*self._tls.pem()), options=_OPTIONS)

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._infer = channel.unary_unary(_INFER, None, service_pb2.ModelInferResponse.FromString)

    async def _renew(self) -> None:
        """Go over to a channel with the new files once it is connected: no call waits for a handshake."""
        try:
            made = self._open()
            try:
                await asyncio.wait_for(made.channel_ready(), _CONNECT_S)
            except BaseException:
                await made.close()
                raise
        except OSError as error:  # TimeoutError is one: Triton does not accept them
            self._watch.again()
            logger.warning("Triton's certificates cannot be renewed: %s", error or "no connection")
            return
        old = self._channel
        self._use(made)
        await old.close(_CONNECT_S)

    def _request(self, release: str, arrays: Arrays) -> bytes:
        shapes = (arrays["user"].shape[0], *arrays["item"].shape)
        head = self._heads.get((release, shapes))
        if head is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            head = self._heads[release, shapes] = _head(release, arrays)
        parts = [head]
        for array in arrays.values():
            parts += (_RAW_TAG, varint(array.nbytes), array.tobytes())
        return b"".join(parts)

    def _breaker(self, release: str) -> Breaker:
        breaker = self._breakers.setdefault(release, Breaker())
        self._breakers.move_to_end(release)
        if len(self._breakers) > _BREAKERS:
            self._breakers.popitem(last=False)
        return breaker


def _failure(error: Exception) -> TemporaryError:
    if not isinstance(error, grpc.aio.AioRpcError):
        return ScorerUnavailable(str(error))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("Triton did not answer in time")
    return ScorerUnavailable(f"{error.code().name}: {error.details()}")


def _head(release: str, arrays: Arrays) -> bytes:
    request: Any = service_pb2.ModelInferRequest(model_name=release)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=_DATATYPES[str(array.dtype)], shape=array.shape)
    request.outputs.add(name=OUTPUT)
    head: bytes = request.SerializeToString()
    return head


def _scores(answer: Any) -> NDArray[np.float32]:
    shape: Sequence[int] = answer.outputs[0].shape
    scores = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(shape)
    if not np.isfinite(scores).all():
        raise ScorerUnavailable("the model's scores are not finite")
    return scores
