"""What the admin process does: it serves the admin bind and the control socket. It is a child of the master, and runs no application.

Its servers are ordinary ones, with few connections and short deadlines. Each has connections of its own, so that clients of the admin bind
cannot keep `muxwsgi ctl` from the control socket.
"""

import gc
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muxwsgi.record import record
from muxwsgi.server.binds import Listening
from muxwsgi.server.board import Board
from muxwsgi.server.introductions import Introductions
from muxwsgi.server.page import SharedPage

if TYPE_CHECKING:
    from muxwsgi.server.server import Server

__all__ = ["AdminServing", "serve"]

log = logging.getLogger("muxwsgi.error")

#: Connections of the admin bind, and of the control socket. A client that sends nothing loses its own after 2 s.
MOST = 512


@record(kw_only=True)
class AdminServing:
    """What the admin process needs.

    admin, control      the listening sockets; None without one
    token               what clients of the admin bind must send; None: nothing
    configuration       the options that differ from their defaults, as they are shown
    log_level           of error logs, as configured
    """

    admin: Listening | None
    control: Listening | None
    token: str | None
    configuration: Mapping[str, Any]
    log_level: str
    page: SharedPage
    board: Board
    introductions: Introductions


def serve(serving: AdminServing) -> None:
    """Serve until the process is killed. Called after the fork, in a process without gevent."""
    from muxwsgi.patch import patch_all

    patch_all()
    import gevent

    from muxwsgi.admin.application import AdminApplication
    from muxwsgi.admin.channels import Channels
    from muxwsgi.admin.status import Status

    channels = Channels(serving.introductions.in_admin())
    channels.start()
    status = Status(serving.page, serving.board, channels, serving.configuration)
    servers = []
    if serving.admin is not None:
        servers.append(_server(AdminApplication(status, token=serving.token), [serving.admin]))
    if serving.control is not None:
        servers.append(_server(AdminApplication(status, control=True, log_level=serving.log_level), [serving.control]))
    gc.collect()
    gevent.get_hub().SYSTEM_ERROR = ()
    for server in servers:
        server.start()
    gevent.event.Event().wait()


def _server(application: Any, listening: Sequence[Listening]) -> "Server":
    from muxwsgi.server.server import Server
    from muxwsgi.settings import HTTPSettings, MuxSettings, ServerSettings

    http = HTTPSettings(request_head_timeout=3.0, keep_alive=30.0, limit_request_body=65536, server_header="")
    settings = ServerSettings(http=http, mux=MuxSettings(sniff_timeout=2.0), max_connections=MOST)
    return Server(application, settings=settings, listening=listening)
