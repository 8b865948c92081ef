"""Model control and inference of one Triton server over gRPC.

Explicit control: nothing is loaded that was not asked for, each release under its own model name, because loading a
version initialises every version of that name anew.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.common.errors import DeadlineExceeded, NotFound, PermanentError, TemporaryError
from services.common.tls import Tls, Watch
from services.publisher import marker
from services.publisher.pod import ServedStats

_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_PASSING = frozenset(
    {"StatusCode.UNAVAILABLE", "StatusCode.CANCELLED", "StatusCode.RESOURCE_EXHAUSTED", "StatusCode.ABORTED"}
)


class TritonServer:
    """One endpoint, `host:port`. Safe for several threads; every call has a deadline in seconds."""

    def __init__(
        self,
        address: str,
        timeout_s: float = 2.0,
        load_timeout_s: float = 60.0,
        backend: str = "python",
        tls: Tls | None = None,
        name: str = "",
    ) -> None:
        """`backend`: of the readiness marker, python or onnxruntime; `name`: in the server's certificate, empty = the
        address."""
        self._address, self._tls, self._name = address, tls, name
        self._watch, self._lock = Watch(tls.files if tls else ()), threading.Lock()
        self._connected = self._connect()
        self._timeout_s, self._load_timeout_s, self._backend = timeout_s, load_timeout_s, backend

    def load(self, release: str) -> None:
        """Load and wait until it is ready. Raises PermanentError when the server refuses the files."""
        with _reported():
            self._client.load_model(release, client_timeout=self._load_timeout_s)
            if not self._client.is_model_ready(release, client_timeout=self._timeout_s):
                raise PermanentError(f"{release} is loaded and not ready")

    def unload(self, release: str) -> None:
        """Take it out; requests in flight finish, unknown names are none of our trouble."""
        with _reported():
            # Short: it must have been taken, or be given up, before another publisher can lead.
            self._client.unload_model(release, client_timeout=self._timeout_s)

    def loaded(self) -> set[str]:
        """Names of the models that are ready."""
        with _reported():
            index = self._client.get_model_repository_index(client_timeout=self._timeout_s)
            return {model.name for model in index.models if model.state == "READY" and model.name != marker.NAME}

    def mark(self, ready: bool) -> None:
        """Load or unload the model that the pod's readiness probe asks for."""
        with _reported():
            if ready == self._client.is_model_ready(marker.NAME, client_timeout=self._timeout_s):
                return
            if ready:
                config, files = marker.parts(self._backend)
                self._client.load_model(marker.NAME, config=config, files=files, client_timeout=self._load_timeout_s)
            else:
                self._client.unload_model(marker.NAME, client_timeout=self._timeout_s)

    def infer(self, release: str, arrays: Mapping[str, NDArray[Any]], priority: int = 0) -> NDArray[np.float32]:
        """The one output of a model: scores [B, N, heads] of a release, vectors [B, dim] of an encoder.

        `priority`: 2 lets others go first, where the model has priorities. Raises NotFound when it is not loaded.
        """
        inputs = []
        for name, array in arrays.items():
            tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        with _reported():
            answer = self._client.infer(release, inputs, priority=priority, client_timeout=self._timeout_s)
            values: NDArray[np.float32] = answer.as_numpy(answer.get_response().outputs[0].name)
            return values

    def stats(self, release: str) -> ServedStats:
        """What the server has counted for a release since it was loaded."""
        with _reported():
            found = self._client.get_inference_statistics(release, client_timeout=self._timeout_s)
        if not found.model_stats:
            return ServedStats()
        counted = found.model_stats[0].inference_stats
        return ServedStats(counted.success.count, counted.fail.count, counted.success.ns / 1e9)

    def close(self) -> None:
        """Give the connection back."""
        self._connected.close()

    @property
    def _client(self) -> grpcclient.InferenceServerClient:
        with self._lock:
            # The old one goes when the last call in it has ended.
            self._connected = self._watch.renewed(self._connect) or self._connected
            return self._connected

    def _connect(self) -> grpcclient.InferenceServerClient:
        if self._tls is None:
            return grpcclient.InferenceServerClient(self._address)
        options = [*_OPTIONS, *([("grpc.ssl_target_name_override", self._name)] if self._name else [])]
        credentials = grpc.ssl_channel_credentials(*self._tls.pem())
        return grpcclient.InferenceServerClient(self._address, creds=credentials, channel_args=options)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        raise _by_consequence(error) from error
    except ValueError as error:  # the channel is closed: the server has left the fleet meanwhile
        raise TemporaryError(str(error)) from error


def _by_consequence(error: InferenceServerException) -> Exception:
    status, text = str(error.status()), str(error.message())
    if status == "StatusCode.DEADLINE_EXCEEDED":
        return DeadlineExceeded(text)
    if status in _PASSING:
        return TemporaryError(text)
    if status == "StatusCode.NOT_FOUND" or "unknown model" in text.lower():
        return NotFound(text)
    return PermanentError(text)
