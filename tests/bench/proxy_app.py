"""muxwsgi's side of the proxy loads: `muxwsgi run tests.bench.proxy_app:proxy`.

BENCH_PROXY_MODE is forward, grpc, answer or tunnel; BENCH_PROXY_ORIGIN the file with the certificate that the origin is verified with.
"""

import os

from muxwsgi.proxy import Proxy, ProxySettings, Response
from tests.bench.applications.hello import BODY

mode = os.environ["BENCH_PROXY_MODE"]
proxy = Proxy(ProxySettings(upstream_ca=os.environ["BENCH_PROXY_ORIGIN"]))
if mode == "tunnel":
    proxy.on_connect().accept()
else:
    proxy.on_connect().mitm()
if mode == "answer":
    proxy.on_request().do(lambda request, ctx: Response(BODY, content_type="text/plain"))
