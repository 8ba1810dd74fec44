"""Rules, as a user's own module has them, and a proxy that is made in it.

muxwsgi proxy --rules tests.proxy.clients.filters:add_rules
muxwsgi run 'tests.proxy.clients.filters:create_proxy("CA-FOLDER", "ROOT")'
"""

import socket
from dataclasses import replace
from pathlib import Path

from muxwsgi.dial.resolve import Resolved, system_resolver
from muxwsgi.proxy import Context, Frame, Opcode, Proxy, ProxySettings, Request, Response, UpstreamChoice, content_type_is, url_has_prefix
from muxwsgi.proxy.certificates.authority import Authority

__all__ = ["add_rules", "create_proxy"]


def resolver(name: str, port: int) -> list[Resolved]:
    """site.test is here."""
    return [(socket.AF_INET, "127.0.0.1")] if name == "site.test" else system_resolver(name, port)


def add_rules(proxy: Proxy) -> None:
    @proxy.on_request(url_has_prefix("/answered"))
    def answer(request: Request, ctx: Context) -> Response:
        return Response(f"answered for {request.url}\n")

    @proxy.on_frame(url_has_prefix("/socket"))
    def polite(frame: Frame, ctx: Context) -> Frame | None:
        if frame.opcode is Opcode.TEXT and frame.from_client and frame.data == b"hello":
            return replace(frame, data=b"good morning")
        return None

    def rewrite(response: Response, ctx: Context) -> None:
        response.data = response.data.replace(b"as it was served", b"as it was rewritten")

    proxy.on_response(content_type_is("text/html")).do(rewrite)


def create_proxy(ca_folder: str, root: str) -> Proxy:
    proxy = Proxy(
        ProxySettings(default_action="mitm", upstream_ca=root),
        authority=Authority.load(Path(ca_folder)),
        upstreams=UpstreamChoice(),
        resolver=resolver,
    )
    add_rules(proxy)
    return proxy
