"""Triton's inference call on a small gRPC server: as much of it as the gateway's scorer sees."""

from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

ARRAYS = {"user": np.zeros((1, 2), np.float32), "item": np.zeros((1, 3, 4), np.float32)}
SCORES = np.array([[[0.1], [0.3], [0.2]]], np.float32)

Infer = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


def answer() -> bytes:
    """What a server says that finds SCORES."""
    message = service_pb2.ModelInferResponse(raw_output_contents=[SCORES.tobytes()])
    message.outputs.add(name="scores", shape=SCORES.shape)
    data: bytes = message.SerializeToString()
    return data


def server_of(infer: Infer) -> grpc.aio.Server:
    """A server without a port yet, which answers every call by `infer`."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(infer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    return server
