"""The one thing of a kubelet that `freshrank --namespace` needs: port-forward, by WebSocket over TLS.

The API server calls it as it calls a real one; a pod's port is a port of this machine. Protocol: `v4.channel.k8s.io`,
two channels for each port, data and errors, that begin with the port's number.
"""

import base64
import datetime
import hashlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE = 0x2, 0x8


class Kubelet:
    """Listens until closed; `ports`: local port of each pod port."""

    def __init__(self, folder: Path, ports: Mapping[int, int]) -> None:
        self._ports = ports
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(_certificate(folder))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[str] = []
        """Paths of the requests."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as peer:
            stream = peer.makefile("rb")
            path = stream.readline().decode().split()[1]
            self.asked.append(path)
            headers = {}
            while line := stream.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            port = int(path.partition("port=")[2].partition("&")[0])
            accepted = hashlib.sha1((headers["sec-websocket-key"] + _MAGIC).encode(), usedforsecurity=False).digest()
            answer = {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Accept": base64.b64encode(accepted).decode(),
                "Sec-WebSocket-Protocol": "v4.channel.k8s.io",
            }
            lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in answer.items())]
            peer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            for channel in (0, 1):
                _send(peer, bytes([channel]) + port.to_bytes(2, "little"))
            with socket.create_connection(("127.0.0.1", self._ports[port])) as pod:
                threading.Thread(target=_back, args=(pod, peer), daemon=True).start()
                while frame := _receive(stream):
                    pod.sendall(frame[1:])


def _back(pod: socket.socket, peer: ssl.SSLSocket) -> None:
    with suppress(OSError):
        while data := pod.recv(32_768):
            _send(peer, b"\0" + data)


def _send(peer: ssl.SSLSocket, data: bytes) -> None:
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2)
    peer.sendall(bytes([0x80 | _BINARY]) + size + data)


def _receive(stream: "socket.SocketIO | object") -> bytes:
    """The next message of the peer; empty at the end."""
    read = stream.read  # type: ignore[attr-defined]
    head = read(2)
    if len(head) < 2 or head[0] & 0x0F == _CLOSE:
        return b""
    size = head[1] & 0x7F
    if size > 125:
        size = int.from_bytes(read(2 if size == 126 else 8))
    mask, data = read(4), read(size)
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


def _certificate(folder: Path) -> Path:
    """Key and certificate of 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "kubelet.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
