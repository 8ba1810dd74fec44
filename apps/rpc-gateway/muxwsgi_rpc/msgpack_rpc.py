"""MessagePack-RPC (https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md) over TCP."""

import logging
from typing import Any

import msgpack

from muxwsgi import Connection, PeerError, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi_rpc.procedures import INTERNAL_ERROR, CallError, Options

__all__ = ["MessagePackRPC"]

_log = logging.getLogger("muxwsgi.rpc")

#: The kind of a message; a request is 0, a notification 2.
RESPONSE = 1

#: Bytes read at once.
BLOCK = 65536


# An array of four that begins with 0, or of three that begins with 2.
@hijack(match=prefix(b"\x94\x00", b"\x93\x02"), options=Options, idle_timeout=600)
class MessagePackRPC:
    """Answers requests in order. Bytes that form another message end the connection, because the next message cannot be found."""

    def __init__(self, options: Options) -> None:
        self._procedures = options.load()
        self._longest = options.max_message

    def __call__(self, connection: Connection) -> None:
        """Raises `PeerError` for a malformed message."""
        unpacker = msgpack.Unpacker(max_buffer_size=max(self._longest, BLOCK))
        fed = 0
        while True:
            connection.resting = unpacker.tell() == fed  # between two messages nothing is lost
            data = connection.recv(min(BLOCK, self._longest))
            connection.resting = False
            if not data:
                return
            fed += len(data)
            try:
                unpacker.feed(data)
                answers = b"".join(self._answer(message) for message in unpacker)
            except (ValueError, msgpack.UnpackException) as error:
                raise PeerError(400, f"MessagePack-RPC: {type(error).__name__}: {error}") from error
            if answers:
                connection.sendall(answers)

    def _answer(self, message: Any) -> bytes:
        """b"" for a notification. Raises `ValueError`."""
        match message:
            case [0, int(ident), str(method), list(params)]:
                try:
                    return self._response(ident, None, self._procedures.call(method, params))
                except CallError as error:
                    return self._response(ident, [error.code, error.message], None)
            case [2, str(method), list(params)]:
                try:
                    self._procedures.call(method, params)
                except CallError as error:
                    _log.info("the notification %.100r: %s", method, error)
                return b""
        raise ValueError("neither a request nor a notification")

    def _response(self, ident: int, error: list[Any] | None, result: Any) -> bytes:
        try:
            return _packed([RESPONSE, ident, error, result])
        except (TypeError, ValueError, OverflowError):
            _log.exception("a result cannot be written as MessagePack")
            return _packed([RESPONSE, ident, [INTERNAL_ERROR, "Internal error"], None])


def _packed(message: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(message)
    return packed
