"""The smallest hijacker: what begins with `ECHO ` is sent back."""

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix

__all__ = ["echo"]


@hijack(
    match=prefix(b"ECHO "),
    idle_timeout=60,
    examples=("printf 'ECHO hi\\n' | nc -N {host} {port}", "printf 'ECHO hi\\n' | openssl s_client -quiet -connect {host}:{port}"),
)
def echo(connection: Connection) -> None:
    """Until the client ends, or says nothing for a minute."""
    while data := connection.recv():
        connection.sendall(data)
