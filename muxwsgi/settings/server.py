"""Everything a server needs beside its application and its hijackers."""


from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting, shared
from muxwsgi.settings.bind import BindSettings
from muxwsgi.settings.http import HTTPSettings
from muxwsgi.settings.http2 import HTTP2Settings
from muxwsgi.settings.mux import MuxSettings
from muxwsgi.settings.responses import ResponseSettings
from muxwsgi.settings.route import RouteSettings
from muxwsgi.settings.sections import BIND, PROCESS, ROUTES
from muxwsgi.settings.tls import ClientCertificates, TLSSettings, UnknownALPN
from muxwsgi.settings.trust import TrustSettings
from muxwsgi.settings.upstream import UpstreamSettings

__all__ = ["ServerSettings"]


@record(kw_only=True)
class ServerSettings:
    """Everything a server needs beside its application and its hijackers. What is about TLS holds for every bind that has it."""

    binds: tuple[BindSettings, ...] = (BindSettings(host="127.0.0.1", port=8000),)
    http: HTTPSettings = HTTPSettings()
    http2: HTTP2Settings = HTTP2Settings()
    mux: MuxSettings = MuxSettings()
    routes: tuple[RouteSettings, ...] = ()
    upstreams: tuple[UpstreamSettings, ...] = ()
    trust: TrustSettings = TrustSettings()
    responses: ResponseSettings = ResponseSettings()
    client_certificates: ClientCertificates = shared(TLSSettings, "client_certificates")
    client_ca: str | None = shared(TLSSettings, "client_ca")
    ciphers: str | None = shared(TLSSettings, "ciphers")
    unknown_alpn: UnknownALPN = shared(TLSSettings, "unknown_alpn")
    handshake_timeout: float = shared(TLSSettings, "handshake_timeout")
    fallback: str = setting(
        "close",
        "What happens to bytes that no route matches: close, http (answers 400), forward:HOST:PORT or a hijacker.",
        section=ROUTES,
        unit="HANDLER",
    )
    silence: str = setting(
        "close",
        "What happens to connections on which the client waits for the server to speak: as for fallback.",
        section=ROUTES,
        unit="HANDLER",
    )
    backlog: int = setting(2048, "Connections that the kernel keeps until they are accepted.", section=BIND, unit="N", at_least=1)
    reuse_port: bool = setting(
        False,
        "Give each worker a listening socket of its own (SO_REUSEPORT). A connection then waits for one worker, also if others are idle.",
        section=BIND,
    )
    max_connections: int = setting(
        0,
        "The most connections that each process serves at once, 0 for no limit; further ones wait in the backlog.",
        section=BIND,
        unit="N",
        flags=("--worker-connections",),
        at_least=0,
    )
    graceful_timeout: float = setting(
        30.0,
        "Seconds that open exchanges and hijacked connections have to end at shutdown.",
        section=PROCESS,
        unit="SECONDS",
        at_least=0,
    )

    def __post_init__(self) -> None:
        if not self.binds:
            raise OperatorError("bind: no address to listen on")
        check(self)

    def tls_of(self, bind: BindSettings) -> TLSSettings:
        """The TLS settings of one of the binds."""
        return TLSSettings(
            certificates=bind.certificates,
            client_certificates=self.client_certificates,
            client_ca=self.client_ca,
            handshake_timeout=self.handshake_timeout,
            ciphers=self.ciphers,
            unknown_alpn=self.unknown_alpn,
        )
