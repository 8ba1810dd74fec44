"""`Request` and `Response` for rules: werkzeug's classes, for messages that a proxy forwards.

A proxy must not change what rules do not change. So fields keep their order, case and repetitions, the target keeps its escapes, and
werkzeug's corrections are off. Bodies stream unless a rule reads the whole body. `Request.outgoing()` and `to_wsgi()` return the message
with the changes of the rules, and with the matching framing.

Parts of a message are parsed at their first use, because most rules only need the host.
"""

from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT
from muxwsgi.proxy.rules.request import Outgoing, Request
from muxwsgi.proxy.rules.response import Response, to_wsgi

__all__ = ["BUFFER_LIMIT", "Outgoing", "Request", "Response", "to_wsgi"]
