"""`Request` and `Response` as rules see them: werkzeug's, but of a message that passes through.

A gateway must send on what it was given. So fields keep their order, case and repetitions, the target keeps its escapes, bodies
stream unless a rule asks for all of one, and nothing is corrected that no rule touched. What a rule did change, `Request.outgoing()` and
`to_wsgi()` hand on exactly, with the framing that goes with it.

Everything is made when it is asked for: most rules look at a host and go.
"""

from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT
from muxwsgi.proxy.rules.request import Outgoing, Request
from muxwsgi.proxy.rules.response import Response, to_wsgi

__all__ = ["BUFFER_LIMIT", "Outgoing", "Request", "Response", "to_wsgi"]
