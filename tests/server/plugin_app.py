"""A module with a hijacker. `test_plugin_logs.py` installs it."""

import logging

import gevent

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix

log = logging.getLogger(__name__)


@hijack(match=prefix(b"LOG "), priority=1)
def logs(connection: Connection) -> None:
    level, _, text = connection.recv().decode().removeprefix("LOG ").partition(" ")
    log.log(getattr(logging, level.upper()), "from the module: %s", text)
    connection.log.log(getattr(logging, level.upper()), "from the connection: %s", text)
    gevent.spawn(int, text)
    gevent.sleep(0.01)
    connection.sendall(b"done")
