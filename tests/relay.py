"""TLS in front of a real Redis: the pip wheel's redis-server speaks none.

What a client does over TLS is real, and so is what Redis does; only who ends the TLS is not Redis itself.
"""

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType
from typing import Self

from services.common.tls import Tls


class Relay:
    """Passes bytes on to a port of this machine, for clients with a certificate; in a thread of its own."""

    def __init__(self, target: int, files: Tls, port: int = 0) -> None:
        self._target, self._files, self.port = target, files, port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(self._close(drop=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def renew(self, drop: bool = False) -> None:
        """New connections are made with the files as they are now; `drop` ends the ones that there are."""
        self._run(self._close(drop))
        self._run(self._open())

    def _run(self, work: "asyncio.Future[None] | object") -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _open(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._files.cert or "", self._files.key)
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self, drop: bool) -> None:
        self._server.close()
        for writer in list(self._writers) if drop else []:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, ahead}
        await asyncio.gather(_pump(reader, ahead), _pump(behind, writer))
        self._writers -= {writer, ahead}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
