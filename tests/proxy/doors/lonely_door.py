"""A transparent door in a process of its own: says its port, tells each client where it wanted to go, and prints whom it refused.

python -m tests.proxy.doors.lonely_door redirect|tproxy ADDRESS
"""

import socket
import sys
from typing import Any

import gevent

from muxwsgi.errors import PeerError
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.door import Reply
from muxwsgi.proxy.doors.transparent import TransparentDoor
from muxwsgi.server.binds import make_transparent
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener


def tell(connection: Connection, door: str, destination: tuple[str, int], reply: Reply) -> None:
    reply(None)
    connection.sendall(f"{door} to {destination[0]} port {destination[1]}\n".encode())


def main(way: Any, address: str) -> None:
    listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    listening.setblocking(False)
    if way == "tproxy":
        make_transparent(listening)
    door = TransparentDoor(Access(open=True), tell, way, listening.getsockname())

    def serve(connection: Connection) -> None:
        try:
            door(connection)
        except PeerError as error:
            print(error, flush=True)
        finally:
            connection.finish()

    print(listening.getsockname()[1], flush=True)
    Listener(listening, serve).start()
    gevent.get_hub().join()


if __name__ == "__main__":
    main(*sys.argv[1:])
