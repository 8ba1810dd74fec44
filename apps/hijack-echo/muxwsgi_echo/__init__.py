"""The smallest hijacker: what begins with `ECHO ` is sent back."""

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix

__all__ = ["echo"]


@hijack(
    match=prefix(b"ECHO "),
    idle_timeout=60,
    examples=(
        "echo ECHO hi | nc -N {host} {port}",
        "(echo ECHO hi; sleep 1) | openssl s_client -quiet -no_ign_eof -connect {host}:{port}",
    ),
)
def echo(connection: Connection) -> None:
    """Until the client ends, or says nothing for a minute."""
    while data := connection.recv():
        connection.sendall(data)
