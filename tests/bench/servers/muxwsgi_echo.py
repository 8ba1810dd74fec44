"""muxwsgi with a WSGI application and a hijacker on one port. The hijacker's protocol begins as `echoes.MAGIC` says."""

import muxwsgi
from muxwsgi.mux.matchers import prefix
from muxwsgi.wire.frames import keep_frames
from tests.bench.echoes import MAGIC
from tests.bench.servers.arguments import read


@muxwsgi.hijack(match=prefix(MAGIC))
def echo(connection: muxwsgi.Connection) -> None:
    while data := connection.recv():
        connection.sendall(data)


arguments = read()
keep_frames()  # as `muxwsgi run` does
muxwsgi.Server(arguments.application(), binds=[f"127.0.0.1:{arguments.port}"], hijackers=[echo]).serve_forever()
