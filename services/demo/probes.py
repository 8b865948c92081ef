"""Questions to a server on loopback that a supervisor asks until the answer is yes."""

import http.client

_SECONDS = 1.0


def http_ok(port: int, path: str) -> bool:
    """Whether GET `path` is answered with 200, such as a service's /readyz."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
