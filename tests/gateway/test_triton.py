"""The scorer beside a server of our own: what it does while it waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.common.errors import DeadlineExceeded
from services.gateway.triton import TritonScorer

ARRAYS = {"user": np.zeros((1, 2), np.float32), "item": np.zeros((1, 3, 4), np.float32)}
SCORES = np.array([[[0.1], [0.3], [0.2]]], np.float32)


@asynccontextmanager
async def triton(may_answer: asyncio.Event) -> AsyncIterator[str]:
    """A server that gives SCORES once it may; its address."""

    async def infer(request: bytes, context: object) -> bytes:
        await may_answer.wait()
        answer = service_pb2.ModelInferResponse(raw_output_contents=[SCORES.tobytes()])
        answer.outputs.add(name="scores", shape=SCORES.shape)
        out: bytes = answer.SerializeToString()
        return out

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(infer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_the_time_in_which_triton_computes_is_used() -> None:
    worked = asyncio.Event()
    async with triton(worked) as address:  # it answers only after the work: done later, the call would end in time
        scorer = TritonScorer(address, meanwhile=worked.set)
        assert np.array_equal(await scorer.score("r1", ARRAYS, 10.0), SCORES)
        await scorer.close()


async def test_a_server_that_does_not_answer_in_time_is_said_to_be_late() -> None:
    async with triton(asyncio.Event()) as address:
        scorer = TritonScorer(address)
        with pytest.raises(DeadlineExceeded):
            await scorer.score("r1", ARRAYS, 0.05)
        await scorer.close()
