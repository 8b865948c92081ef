"""Scores from Triton: one gRPC call per request, with the bytes of the arrays put straight behind a ready head.

A protobuf message may be a concatenation of parts, so what never changes for a release and a padding (names, types,
shapes) is serialized once, and a request is that head plus the raw contents.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
from services.text.folder import OUTPUT as EMBEDDING
from services.text.reranker import OUTPUT as PAIR_SCORE

logger = logging.getLogger(__name__)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_DATATYPES = {"float32": "FP32", "int64": "INT64"}
_RAW_TAG = bytes([service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2])
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a server that comes back is used within a second
]
_CONNECT_S = 5.0
"""For a connection with new certificates, and for the calls on the old one."""
_HEADS = 256
"""Heads remembered: releases x paddings."""
_BREAKERS = 256
"""Breakers remembered: releases x endpoints."""
_CLOSE_S = 5.0
"""For calls on a connection that is given up."""


class ScorerUnavailable(TemporaryError):
    """Raised when Triton, or the model, cannot be used now."""


class _Line:
    """The connection to one endpoint, or to a load-balanced name."""

    def __init__(self, url: str, tls: Tls | None, name: str = "") -> None:
        """`name`: in the server's certificate, where that is not the address."""
        self._url, self._tls, self._name = url, tls, name
        self._watch = Watch(tls.files if tls else ())
        self._renewing: asyncio.Task[None] | None = None
        self._use(self._open())

    def infer(self, request: bytes, timeout_s: float) -> Any:
        """A call on its way; what comes of it is awaited."""
        if self._watch.changed():
            self._renewing = asyncio.get_running_loop().create_task(self._renew())
        return self._infer(request, timeout=timeout_s)

    async def close(self, grace_s: float = 0.0) -> None:
        """Let calls finish, then close."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._channel.close(grace_s)

    def _open(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._url, options=_OPTIONS)
        named = [("grpc.ssl_target_name_override", self._name)] if self._name else []
        credentials = grpc.ssl_channel_credentials(*self._tls.pem())
        return grpc.aio.secure_channel(self._url, credentials, options=_OPTIONS + named)

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


class TritonScorer:
    """Asks Triton for scores, each release at the endpoints it is routed to; for one event loop."""

    def __init__(self, url: str, meanwhile: Callable[[], None] = lambda: None, tls: Tls | None = None) -> None:
        """`url`: asked for releases of which nobody has said where they are; its name is in every certificate.

        `meanwhile`: work for the moments in which Triton computes; called once the request is on its way.
        """
        self._default, self._tls = url, tls
        self._lines: dict[str, _Line] = {}
        self._places: Mapping[str, Sequence[str]] = {}
        self._turn = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._heads: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._breakers: OrderedDict[tuple[str, str], Breaker] = OrderedDict()
        self._meanwhile = meanwhile

    def place(self, places: Mapping[str, Sequence[str]]) -> None:
        """Endpoints of each release from now on. Connections to those that nothing is asked at any more are closed."""
        self._places = {release: tuple(addresses) for release, addresses in places.items()}
        kept = {self._default}.union(*self._places.values())
        for address in [address for address in self._lines if address not in kept]:
            closing = asyncio.get_running_loop().create_task(self._lines.pop(address).close(_CLOSE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for address in kept - {self._default}:
            self._line(address)

    async def score(self, release: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Probabilities [B, N, heads] of a loaded release. Raises as `_ask`."""
        return await self._ask(release, arrays, OUTPUT, timeout_s)

    async def embed(self, encoder: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Vectors [B, dim] of texts by a loaded encoder. Raises as `_ask`."""
        return await self._ask(encoder, arrays, EMBEDDING, timeout_s)

    async def pairs(self, reranker: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Scores [B, 1] of pairs of texts by a loaded reranker. Raises as `_ask`."""
        return await self._ask(reranker, arrays, PAIR_SCORE, timeout_s)

    async def _ask(self, release: str, arrays: Arrays, output: str, timeout_s: float) -> NDArray[np.float32]:
        """What a model answers.

        Endpoints take turns. One that fails is followed by the next at once, while there is time: it may have left, or
        lost its models. One that fails often is left alone for a moment. Raises DeadlineExceeded after the timeout,
        ScorerUnavailable when the release is loaded nowhere, or no endpoint answers.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        error: ScorerUnavailable | None = None
        for address in self._in_turn(release):
            breaker, left_s = self._breaker(release, address), ends_s - loop.time()
            if left_s <= 0 or not breaker.allows(loop.time()):
                continue
            try:
                call = self._line(address).infer(self._request(release, arrays, output), left_s)
                loop.call_soon(self._meanwhile)  # behind the sending, which the call has put there
                scores = _scores(await call)
            except (grpc.aio.AioRpcError, ScorerUnavailable, grpc.aio.UsageError) as failed:
                breaker.failed(loop.time())
                if isinstance(found := _failure(failed), DeadlineExceeded):
                    raise found from failed
                error = ScorerUnavailable(str(found))
                continue
            breaker.worked()
            return scores
        raise error or ScorerUnavailable("the release is nowhere, or fails and is left alone for a moment")

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*self._closing, *(line.close() for line in self._lines.values()))

    def _in_turn(self, release: str) -> Sequence[str]:
        addresses = self._places.get(release, (self._default,))
        if len(addresses) < 2:
            return addresses
        self._turn += 1
        first = self._turn % len(addresses)
        return (*addresses[first:], *addresses[:first])

    def _line(self, address: str) -> _Line:
        if address not in self._lines:
            name = "" if address == self._default else _host(self._default)
            self._lines[address] = _Line(address, self._tls, name)
        return self._lines[address]

    def _request(self, release: str, arrays: Arrays, output: str) -> bytes:
        varying = arrays.get("item")  # of a ranker all other shapes follow from it
        shapes = (varying if varying is not None else next(iter(arrays.values()))).shape
        head = self._heads.get((release, shapes))
        if head is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            head = self._heads[release, shapes] = _head(release, arrays, output)
        parts = [head]
        for array in arrays.values():
            parts += (_RAW_TAG, varint(array.nbytes), array.tobytes())
        return b"".join(parts)

    def _breaker(self, release: str, address: str) -> Breaker:
        breaker = self._breakers.setdefault((release, address), Breaker())
        self._breakers.move_to_end((release, address))
        if len(self._breakers) > _BREAKERS:
            self._breakers.popitem(last=False)
        return breaker


def _failure(error: Exception) -> TemporaryError:
    if not isinstance(error, grpc.aio.AioRpcError):
        return ScorerUnavailable(str(error))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("Triton did not answer in time")
    return ScorerUnavailable(f"{error.code().name}: {error.details()}")


def _head(release: str, arrays: Arrays, output: str) -> bytes:
    request: Any = service_pb2.ModelInferRequest(model_name=release)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=_DATATYPES[str(array.dtype)], shape=array.shape)
    request.outputs.add(name=output)
    head: bytes = request.SerializeToString()
    return head


def _scores(answer: Any) -> NDArray[np.float32]:
    shape: Sequence[int] = answer.outputs[0].shape
    scores = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(shape)
    if not np.isfinite(scores).all():
        raise ScorerUnavailable("the model's scores are not finite")
    return scores


def _host(url: str) -> str:
    """The name in a target of gRPC.

    >>> _host("dns:///triton.shop.svc:8001"), _host("127.0.0.1:8001")
    ('triton.shop.svc', '127.0.0.1')
    """
    return url.rpartition("/")[2].rpartition(":")[0]
