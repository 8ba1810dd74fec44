"""muxwsgi's side of the proxy loads: `muxwsgi run tests.bench.proxy_app:proxy`. BENCH_PROXY_MODE is forward, answer or tunnel."""

import os

from werkzeug.wrappers import Response

from muxwsgi.proxy import Proxy
from tests.bench.applications.hello import BODY

mode = os.environ.get("BENCH_PROXY_MODE", "forward")
proxy = Proxy()
if mode == "tunnel":
    proxy.on_connect().accept()
else:
    proxy.on_connect().mitm()
if mode == "answer":
    proxy.on_request().do(lambda request, ctx: Response(BODY, content_type="text/plain"))
