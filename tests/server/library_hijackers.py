"""Hijackers around libraries that want a real socket, each in one line. Started by `test_library_hijackers.py`, in a process that is patched.

Prints the address of each, and a line for each connection that has ended: its name, and whether all went well.
"""

from gevent import monkey

monkey.patch_all()

import asyncio
import subprocess
import sys
from typing import Any

import gevent
import rpyc
import websockets.sync.server
from rpyc.core.stream import SocketStream
from websockets.server import ServerProtocol

from muxwsgi import Match, Server, hijack
from muxwsgi.settings import BindSettings, CertificateFiles, MuxSettings, ServerSettings


class Calls(rpyc.Service):  # type: ignore[misc]
    """What the rpyc client calls."""

    def exposed_repeat(self, text: str, times: int) -> str:
        return text * times

    def exposed_call_back(self, function: Any) -> Any:
        return function(20) + 1


def serve_rpyc(sock: Any) -> None:
    rpyc.connect_stream(SocketStream(sock), Calls).serve_all()


def serve_websockets(sock: Any) -> None:
    library_server = websockets.sync.server.Server(sock, lambda sock, address: None)
    connection = websockets.sync.server.ServerConnection(sock, ServerProtocol(max_size=None), library_server, ping_interval=0.2)
    connection.handshake()
    for message in connection:
        connection.send(message)


def serve_process(sock: Any) -> None:
    subprocess.run(["cat"], stdin=sock, stdout=sock, check=True)


def serve_asyncio(sock: Any) -> None:
    async def echo() -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    gevent.get_hub().threadpool.apply(asyncio.run, (echo(),))


def anything(data: bytes) -> Match:
    return Match.YES if data else Match.MORE


def hijacker(name: str, serve: Any) -> Any:
    def serve_and_tell(sock: Any) -> None:
        try:
            serve(sock)
        except BaseException as error:
            print(name, repr(error), flush=True)
            raise
        print(name, "ended", flush=True)

    return hijack(match=anything, name=name, priority=1, takes_silence=True, as_socket=True)(serve_and_tell)


def main() -> None:
    _, certfile, keyfile = sys.argv
    bind = BindSettings(host="127.0.0.1", tls="optional", certificates=(CertificateFiles(certfile=certfile, keyfile=keyfile),))
    settings = ServerSettings(mux=MuxSettings(sniff_timeout=0.3))
    servers = []
    for name in ("rpyc", "websockets", "process", "asyncio"):
        server = Server(lambda environ, start_response: [], [bind], [hijacker(name, globals()[f"serve_{name}"])], settings=settings)
        server.start()
        servers.append(server)
        print(name, server.addresses[0], flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.read)  # until the test is over, or gone
    for server in servers:
        server.stop(0)


if __name__ == "__main__":
    main()
