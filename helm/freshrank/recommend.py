"""Asks the gateway for a ranking, as a shop does, and leaves no trace. Ends with 1 when there is no answer."""

import os
import sys
from pathlib import Path

import grpc
from freshrank import Client


def read(name: str) -> bytes | None:
    path = os.environ.get(f"FRESHRANK_CLI_TLS_{name}")
    return Path(path).read_bytes() if path else None


authority = read("CA")
secure = grpc.ssl_channel_credentials(authority, read("KEY"), read("CERT")) if authority else None
with Client(os.environ["FRESHRANK_CLI_GATEWAY"], credentials=secure, read_s=10.0) as shop:
    answer = shop.recommend("helm-test", preview=True)
sys.stdout.write(f"{len(answer.results)} results, release {answer.release or 'none yet'}\n")
