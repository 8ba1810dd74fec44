"""The application with all that a server puts around it. A proxy needs none of it: it passes bodies and WebSockets on as they arrive."""

import sys
from collections.abc import Callable, Iterable

from muxwsgi.http.added_fields import with_added_fields
from muxwsgi.http.buffering import with_buffering
from muxwsgi.http.environ import WSGIApplication
from muxwsgi.http.root_path import with_root_path
from muxwsgi.settings import ServerSettings
from muxwsgi.wire.peer import TrustedPeers

__all__ = ["wrapped"]


Wrap = Callable[[WSGIApplication], WSGIApplication]


def wrapped(app: WSGIApplication, settings: ServerSettings, around: Iterable[Wrap]) -> WSGIApplication:
    """`app` as the server calls it. Functions of `around` wrap it in their order, the last one outermost."""
    app = with_buffering(app, settings.http.buffer_chunked, settings.http.limit_buffered_body)
    if "geventwebsocket.websocket" in sys.modules:
        from muxwsgi.http.gevent_websocket import with_gevent_websocket

        app = with_gevent_websocket(app)
    app = with_root_path(app, settings.trust.root_path)
    if settings.responses.compress:
        from muxwsgi.http.compression import Compression

        app = Compression(app, settings.responses)
    app = with_added_fields(app, settings.responses, TrustedPeers(settings.trust.forwarders))
    for wrap in around:
        app = wrap(app)
    return app
