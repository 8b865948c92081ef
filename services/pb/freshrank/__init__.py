"""Freshrank for callers: messages and stubs under `freshrank.v1`, and a client.

>>> from freshrank import Client

The client is loaded on first use, so that programs that only read messages need no gRPC.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freshrank.client import Client as Client
    from freshrank.errors import ApiError as ApiError

__all__ = ["ApiError", "Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from freshrank.client import Client

        return Client
    if name == "ApiError":
        from freshrank.errors import ApiError

        return ApiError
    raise AttributeError(f"module 'freshrank' has no attribute {name!r}")
