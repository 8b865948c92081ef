"""When a Triton server counts as ready, asked of ports that answer in its place."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from services.demo.ports import Ports
from services.demo.triton import Triton


@contextmanager
def answering(port: int) -> Iterator[None]:
    class Yes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Yes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_it_is_ready_when_the_last_of_its_ports_is_open(tmp_path: Path) -> None:
    with ExitStack() as open_ports:
        ports = Ports()
        open_ports.callback(ports.close)
        http, grpc, metrics = ports.take(), ports.take(), ports.take()
        triton = Triton(tmp_path, http, grpc, metrics, "none-")
        assert not triton.answers()
        open_ports.enter_context(answering(http))
        assert not triton.answers()  # it opens the port of its metrics after this one
        open_ports.enter_context(answering(metrics))
        assert triton.answers()
