"""The forward proxy: a WSGI application that takes connections over, and asks its own inner mux about what runs in them.

    from muxwsgi.proxy import Proxy, Response, req_host_is

What rules are written with is here. The names are loaded on first use, so that `muxwsgi ca` does not import gevent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muxwsgi.dial.upstream_choice import NoProxy, UpstreamChoice
    from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
    from muxwsgi.http.websocket.frame import Frame, Opcode
    from muxwsgi.proxy.certificates.authority import Authority
    from muxwsgi.proxy.context import Context
    from muxwsgi.proxy.doors.access import Access
    from muxwsgi.proxy.doors.htpasswd import Htpasswd
    from muxwsgi.proxy.fault import Fault, Phase
    from muxwsgi.proxy.proxy import Proxy
    from muxwsgi.proxy.rules.actions import CONTINUE, DROP, Accept, Chunk, Hijack, Mitm, Refused, Reject
    from muxwsgi.proxy.rules.blocklist import BlockList
    from muxwsgi.proxy.rules.conditions import (
        all_of,
        any_of,
        content_type_is,
        dst_host_is,
        header_matches,
        is_localhost,
        method_is,
        not_,
        port_is,
        protocol_is,
        req_host_is,
        req_host_matches,
        src_ip_is,
        status_code_is,
        url_has_prefix,
        url_is,
        url_matches,
    )
    from muxwsgi.proxy.rules.message import Request, Response
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.records.flow import Flow

#: Modules by their names from here. A name that begins with a dot is beside this package.
_HOMES = {
    "doors.access": ("Access",),
    "rules.actions": ("CONTINUE", "DROP", "Accept", "Chunk", "Hijack", "Mitm", "Refused", "Reject"),
    "certificates.authority": ("Authority",),
    "rules.blocklist": ("BlockList",),
    "rules.conditions": (
        "all_of",
        "any_of",
        "content_type_is",
        "dst_host_is",
        "header_matches",
        "is_localhost",
        "method_is",
        "not_",
        "port_is",
        "protocol_is",
        "req_host_is",
        "req_host_matches",
        "src_ip_is",
        "status_code_is",
        "url_has_prefix",
        "url_is",
        "url_matches",
    ),
    "context": ("Context",),
    "fault": ("Fault", "Phase"),
    ".records.flow": ("Flow",),
    ".http.websocket.frame": ("Frame", "Opcode"),
    "doors.htpasswd": ("Htpasswd",),
    "rules.message": ("Request", "Response"),
    "proxy": ("Proxy",),
    "settings": ("ProxySettings",),
    ".dial.upstream_choice": ("NoProxy", "UpstreamChoice"),
    ".dial.upstream_proxy": ("DIRECT", "UpstreamProxy"),
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CONTINUE",
    "DIRECT",
    "DROP",
    "Accept",
    "Access",
    "Authority",
    "BlockList",
    "Chunk",
    "Context",
    "Fault",
    "Flow",
    "Frame",
    "Hijack",
    "Htpasswd",
    "Mitm",
    "NoProxy",
    "Opcode",
    "Phase",
    "Proxy",
    "ProxySettings",
    "Refused",
    "Reject",
    "Request",
    "Response",
    "UpstreamChoice",
    "UpstreamProxy",
    "all_of",
    "any_of",
    "content_type_is",
    "dst_host_is",
    "header_matches",
    "is_localhost",
    "method_is",
    "not_",
    "port_is",
    "protocol_is",
    "req_host_is",
    "req_host_matches",
    "src_ip_is",
    "status_code_is",
    "url_has_prefix",
    "url_is",
    "url_matches",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
