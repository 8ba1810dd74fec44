"""A key-value store for Redis clients, on the port of a web application: the matcher, and the loop that one connection runs."""

import itertools

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import all_of, any_of, http1, not_, regex
from muxwsgi_resp.commands import COMMANDS, Hub, Session, execute
from muxwsgi_resp.protocol import CommandReader, Error, ProtocolError, Push, encode
from muxwsgi_resp.store import Store

__all__ = ["resp"]

_store = Store()
_hub = Hub()
_ids = itertools.count(1)

#: A command as clients send it, or typed by hand (inline). A typed one may be an HTTP request as well, `GET /x HTTP/1.1`: then it is that.
_array = regex(rb"\*[1-9][0-9]{0,6}\r\n")
_inline = regex(b"(?i)(?:%s)(?: [^\r\n]*)?\r?\n" % b"|".join(sorted((name.encode() for name in COMMANDS), reverse=True)), 4096)


@hijack(
    match=any_of(_array, all_of(_inline, not_(http1))),
    alpn=("redis",),
    idle_timeout=3600,
    examples=("redis-cli -h {host} -p {port} set greeting hello", "redis-cli --tls --insecure -h {host} -p {port} set greeting hello"),
)
def resp(connection: Connection) -> None:
    """Read commands and answer them until the client quits or ends. Commands that came together are answered together."""
    session = Session(_store, _hub, next(_ids), deliver=lambda push: connection.sendall(encode(push, session.version)))
    reader = CommandReader()
    try:
        while not session.quitting:
            connection.resting = True  # at shutdown nothing is lost here
            data = connection.recv()
            connection.resting = False
            if not data:
                return
            replies: list[bytes] = []
            try:
                for parts in reader.feed(data):
                    replies.append(_reply(session, parts))
                    if session.quitting:
                        break
            except ProtocolError as error:
                replies.append(encode(Error(f"ERR Protocol error: {error}"), session.version))
                session.quitting = True
            connection.sendall(b"".join(replies))
    finally:
        session.leave()


def _reply(session: Session, parts: list[bytes]) -> bytes:
    result = execute(session, parts)
    if isinstance(result, list) and result and all(isinstance(item, Push) for item in result):
        return b"".join(encode(push, session.version) for push in result)
    return encode(result, session.version)
