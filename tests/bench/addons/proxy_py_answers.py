"""proxy.py answers every request inside a tunnel by itself. (It connects to the origin all the same: it needs its certificate.)"""

from proxy.http.parser import HttpParser, httpParserTypes
from proxy.http.proxy import HttpProxyBasePlugin
from proxy.http.responses import okResponse

BODY = b"Hello, World!"


class Answers(HttpProxyBasePlugin):
    def handle_client_request(self, request: HttpParser) -> HttpParser | None:
        if request.is_https_tunnel:
            return request
        self.client.queue(okResponse(BODY, headers={b"Content-Type": b"text/plain"}))
        # A request that a plugin answers stays the current one, and the next would be appended to it.
        request.__init__(httpParserTypes.REQUEST_PARSER)
        return None
