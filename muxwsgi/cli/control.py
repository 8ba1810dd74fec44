"""`Control`: a client of the control socket, for `muxwsgi ctl` and `muxwsgi top`. No gevent."""

import http.client
import json
import socket
from typing import Any

from muxwsgi.errors import OperatorError

__all__ = ["Control", "Refused", "Unreachable"]

#: Seconds for an answer. The admin process waits a second for each worker that does not answer.
PATIENCE = 60.0


class Unreachable(Exception):
    """Nobody answers at the socket. Its text is one line."""


class Refused(Exception):
    """The server has refused. Its text is the server's line."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """Asks the server behind the control socket `path`."""

    def __init__(self, path: str) -> None:
        """Raises `OperatorError` without a path."""
        if not path:
            raise OperatorError("name the control socket: -s SOCKET, or MUXWSGI_CONTROL_SOCKET in the environment")
        self.path = path.removeprefix("unix:")

    def get(self, page: str) -> Any:
        """The JSON of a page. Raises `Unreachable` and `Refused`."""
        return self._ask("GET", page, None)

    def post(self, action: str, **said: Any) -> Any:
        """Have something done, and return the JSON about it. Raises `Unreachable` and `Refused`."""
        return self._ask("POST", f"/control/{action}", json.dumps(said).encode())

    def _ask(self, method: str, page: str, body: bytes | None) -> Any:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, page, body, {} if body is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.path}: {getattr(error, 'strerror', None) or error or 'no answer'}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Refused(data.decode("utf-8", "replace").strip() or f"{response.status} {response.reason}")
        return json.loads(data)
