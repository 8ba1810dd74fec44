"""What the operator may set, in frozen dataclasses, checked once, here. Each field's default, unit, bounds and option stand beside it.

Nothing below the command line reads a file or the environment: it is given one of these. A value that is not allowed is an
`OperatorError` that names the setting as the operator wrote it. `muxwsgi/setting.py` has `setting`.
"""

from muxwsgi.settings.admin import AdminSettings
from muxwsgi.settings.bind import BindSettings, ProxyProtocolMode, TLSMode, Transparent
from muxwsgi.settings.development import DevelopmentSettings
from muxwsgi.settings.http import BufferChunked, HTTPSettings
from muxwsgi.settings.http2 import HTTP2Settings
from muxwsgi.settings.logs import LogSettings, SyslogFormat
from muxwsgi.settings.mux import MuxSettings
from muxwsgi.settings.responses import ResponseSettings
from muxwsgi.settings.route import RouteSettings, parse_route, short_route
from muxwsgi.settings.server import ServerSettings
from muxwsgi.settings.system import SystemSettings
from muxwsgi.settings.tls import CertificateFiles, ClientCertificates, TLSSettings, UnknownALPN
from muxwsgi.settings.trust import HeaderMap, TrustSettings
from muxwsgi.settings.upstream import UpstreamServerSettings, UpstreamSettings, parse_upstream
from muxwsgi.settings.worker import WorkerSettings

__all__ = [
    "AdminSettings",
    "BindSettings",
    "BufferChunked",
    "CertificateFiles",
    "ClientCertificates",
    "DevelopmentSettings",
    "HTTP2Settings",
    "HTTPSettings",
    "HeaderMap",
    "LogSettings",
    "ResponseSettings",
    "MuxSettings",
    "ProxyProtocolMode",
    "RouteSettings",
    "ServerSettings",
    "SyslogFormat",
    "SystemSettings",
    "TLSMode",
    "TLSSettings",
    "Transparent",
    "TrustSettings",
    "UnknownALPN",
    "UpstreamServerSettings",
    "UpstreamSettings",
    "WorkerSettings",
    "parse_route",
    "parse_upstream",
    "short_route",
]
