"""The loads: what the clients do, to what, and who takes part by default."""

from dataclasses import dataclass

from tests.bench.clients import Calls, Client, H2Load, Handshakes, Nothing, Relayed, Reloads, Starts, Tunnels, TwoAtOnce, WebSockets, Wrk
from tests.bench.visitors import NUMBER

__all__ = ["GROUPS", "LOADS", "Load"]

#: What a browser sends: ten fields beside Host.
BROWSER_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cache-Control: max-age=0",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Dest: document",
    "Cookie: session=eyJ1c2VyIjo0Mn0.ZzK1Cg.4cN0b7Qm1yYk9wF2n3h5x8t6v0s; theme=dark",
)

GROUPS = {
    "http": "HTTP/1.1 with a WSGI application",
    "stream": "Bytes that are not HTTP, and both on one port",
    "relay": "Bytes passed on to a server",
    "http2": "HTTP/2 with a WSGI application",
    "websocket": "WebSocket echo",
    "files": "Files",
    "idle": "64 busy connections beside many idle ones",
    "memory": "Memory of an idle connection",
    "proxy": "A forward proxy, HTTPS through CONNECT",
    "grpc": "gRPC through a forward proxy that looks into it",
    "start": "From the start to the first answer",
    "workers": "Several workers",
    "reload": "Requests lost in reloads",
}

WORKER = "tests.bench.applications.worker:application"
HELLO = "tests.bench.applications.hello:application"
CHECKSUM = "tests.bench.applications.checksum:application"
WEBSOCKET = "tests.bench.applications.websocket_echo:application"
DOWNLOAD = "tests.bench.applications.download:application"
FILE = "tests.bench.applications.file:application"
STREAM = "tests.bench.applications.stream:application"
FLASK = "tests.bench.applications.flask_json:application"
DJANGO = "tests.bench.applications.django_page:application"

_WSGI = (
    *("muxwsgi", "bjoern", "granian", "uwsgi", "uwsgi-gevent", "gunicorn-gevent", "gunicorn-gthread"),
    *("waitress", "cheroot", "pywsgi", "hypercorn"),
)
_SOME = ("muxwsgi", "bjoern", "granian", "uwsgi", "gunicorn-gevent", "waitress")
_TLS = ("muxwsgi", "nginx", "granian", "gunicorn-gevent", "gunicorn-gthread", "cheroot", "pywsgi", "hypercorn")
_FEW = ("muxwsgi", "nginx", "bjoern", "granian", "gunicorn-gevent")
_FEW_TLS = ("muxwsgi", "nginx", "granian", "gunicorn-gevent")
_PROCESSES = ("muxwsgi", "granian", "uwsgi", "gunicorn-gevent")
_HTTP2 = ("muxwsgi", "nghttpd", "nginx-http2", "granian-http2", "gunicorn-http2", "hypercorn")
_HTTP2_APPLICATIONS = ("muxwsgi", "granian-http2", "gunicorn-http2", "hypercorn")
_FILES = ("muxwsgi-static", "nginx-files", "gunicorn-files", "granian-static")
_WEBSOCKETS = ("muxwsgi", "picows", "websockets", "granian-rsgi", "gevent-websocket")
_RELAYS = ("muxwsgi-relay", "haproxy", "nginx-stream", "sslh")
_PROXIES = ("muxwsgi-proxy", "mitmproxy", "proxy.py", "squid")


@dataclass(frozen=True, kw_only=True)
class Load:
    """`client` does it to the peers in `peers`.

    app       the WSGI application that servers run
    path      what is asked for; `body`, where there is one, is posted
    tls       whether clients speak TLS to the peer
    idle      connections that sit idle meanwhile
    workers   processes that serve
    front     what stands between the clients and the peer: nginx or haproxy, with kept connections
    mode      what a proxy does with a tunnel: forward (MITM, upstream), grpc (the same, in HTTP/2), answer (MITM, by itself) or tunnel (relay)
    rounds    turns that are enough, where more would say the same
    note      a sentence for whoever reads the figures, where the title does not say enough
    """

    name: str
    group: str
    title: str
    client: Client
    peers: tuple[str, ...]
    app: str = HELLO
    path: str = "/"
    body: bytes = b""
    tls: bool = False
    idle: int = 0
    workers: int = 1
    front: str = ""
    mode: str = ""
    rounds: int = 99
    note: str = ""


LOADS: tuple[Load, ...] = (
    Load(name="hello", group="http", title="hello, keep-alive", client=Wrk(), peers=("muxwsgi", "nginx", *_WSGI[1:])),
    Load(name="hello-tls", group="http", title="hello, keep-alive, TLS", client=Wrk(), peers=_TLS, tls=True),
    Load(name="browser", group="http", title="a browser's ten fields", client=Wrk(fields=BROWSER_FIELDS), peers=_FEW),
    Load(
        name="browser-tls", group="http", title="a browser's ten fields, TLS", client=Wrk(fields=BROWSER_FIELDS), peers=_FEW_TLS, tls=True
    ),
    Load(
        name="browser-varied",
        group="http",
        title="a browser's ten fields, another visitor with every request",
        client=Wrk(fields=BROWSER_FIELDS, varied=True),
        peers=_FEW,
        note=(
            f"Path, query, Cookie and User-Agent differ with every request: {NUMBER:,} requests made beforehand, sent in turn. "
            "muxwsgi remembers the last head of a connection. In the other loads it comes again; here only the names of its fields do, and the answer."
        ),
    ),
    Load(name="flask", group="http", title="Flask, JSON", client=Wrk(), peers=_WSGI, app=FLASK, path="/api/entries/7"),
    Load(name="django", group="http", title="Django, a template", client=Wrk(), peers=_SOME, app=DJANGO, path="/results/"),
    Load(name="post", group="http", title="POST of 1 KiB", client=Wrk(), peers=_SOME, app=CHECKSUM, body=bytes(range(256)) * 4),
    Load(name="stream", group="http", title="1 MiB in 64 chunks", client=Wrk(connections=16), peers=_SOME, app=STREAM),
    Load(name="pipeline", group="http", title="16 requests pipelined", client=Wrk(pipeline=16), peers=_FEW),
    Load(
        name="churn",
        group="http",
        title="a connection per request",
        client=Wrk(fields=("Connection: close",)),
        peers=(*_FEW, "uwsgi", "pywsgi"),
    ),
    Load(name="churn-tls", group="http", title="a TLS handshake per request", client=Handshakes(), peers=(*_FEW_TLS, "pywsgi"), tls=True),
    Load(
        name="churn-resumed",
        group="http",
        title="a resumed TLS handshake per request",
        client=Handshakes(resumed=True),
        peers=(*_FEW_TLS, "pywsgi"),
        tls=True,
    ),
    Load(
        name="dispatch",
        group="stream",
        title="accept, peek, decide, echo: a connection per message",
        client=Wrk(echo="close"),
        peers=("muxwsgi-echo", "bare-streamserver"),
    ),
    Load(
        name="echo",
        group="stream",
        title="an echo on connections that stay",
        client=Wrk(echo="keep-alive"),
        peers=("muxwsgi-echo", "bare-streamserver"),
    ),
    Load(
        name="mixed",
        group="stream",
        title="45 connections HTTP, 19 hijacked, one port",
        client=TwoAtOnce(Wrk(connections=45), Wrk(connections=19, echo="keep-alive")),
        peers=("muxwsgi-echo", "bare-mux"),
    ),
    *(
        Load(
            name=f"relay-{kind}{f'-{number}' if number > 1 else ''}{'-tls' if tls else ''}",
            group="relay",
            title=f"{title}{', TLS to the relay' if tls else ''}",
            client=Relayed(kind, number),
            peers=_RELAYS,
            tls=tls,
            note=note,
        )
        for tls in (False, True)
        for kind, number, title, note in (
            ("echo", 1, "round trips of 64 bytes, 1 connection", ""),
            ("echo", 64, "round trips of 64 bytes, 64 connections", ""),
            ("connect", 1, "a connection per round trip", ""),
            ("down", 1, "a stream from the server", "A request is a MiB, so CPU is milliseconds per GB."),
            ("up", 1, "a stream to the server", "A request is a MiB, so CPU is milliseconds per GB."),
        )
    ),
    *(
        Load(
            name=f"relay-idle{'-tls' if tls else ''}",
            group="relay",
            title=f"memory of an idle pair{', TLS to the relay' if tls else ''}",
            client=Nothing(),
            idle=1_000,
            rounds=1,
            peers=_RELAYS,
            tls=tls,
        )
        for tls in (False, True)
    ),
    *(
        Load(name=f"idle-{idle}", group="idle", title=f"64 busy, {idle:,} idle", client=Wrk(), peers=_FEW, idle=idle)
        for idle in (0, 1_000, 10_000)
    ),
    Load(
        name="memory",
        group="memory",
        title="plain",
        client=Nothing(),
        idle=1_000,
        rounds=1,
        peers=("muxwsgi", "bare-openssl", "nginx", "bjoern", "granian", "gunicorn-gevent", "pywsgi"),
    ),
    Load(
        name="memory-tls",
        group="memory",
        title="TLS",
        client=Nothing(),
        idle=1_000,
        rounds=1,
        tls=True,
        peers=("muxwsgi", "bare-openssl", "nginx", "granian", "gunicorn-gevent", "pywsgi"),
    ),
    Load(name="mitm-forward", group="proxy", title="MITM, kept alive, forwarded", client=Tunnels(), peers=_PROXIES, mode="forward"),
    Load(
        name="mitm-answer", group="proxy", title="MITM, kept alive, answered by the proxy", client=Tunnels(), peers=_PROXIES, mode="answer"
    ),
    Load(
        name="fresh-forward",
        group="proxy",
        title="MITM, CONNECT and handshake per request, forwarded",
        client=Tunnels(fresh=True),
        peers=_PROXIES,
        mode="forward",
    ),
    Load(
        name="fresh-answer",
        group="proxy",
        title="MITM, CONNECT and handshake per request, answered by the proxy",
        client=Tunnels(fresh=True),
        peers=_PROXIES,
        mode="answer",
    ),
    Load(name="start", group="start", title="hello", client=Starts(), peers=_PROCESSES),
    Load(name="start-tls", group="start", title="hello, TLS", client=Starts(), peers=("muxwsgi", "granian", "gunicorn-gevent"), tls=True),
    Load(name="start-flask", group="start", title="Flask", client=Starts(), peers=_PROCESSES, app=FLASK, path="/api/entries/7"),
    *(
        Load(
            name=f"workers-{number}",
            group="workers",
            title=f"{number} {'worker' if number == 1 else 'workers'}, hello",
            client=Wrk(),
            peers=("muxwsgi", "granian", "gunicorn-gevent"),
            app=WORKER,
            workers=number,
            note="All workers share one processor. Connections are those of the 64 that the worker with the fewest and the one with the most got."
            if number == 1
            else "",
        )
        for number in (1, 2, 4)
    ),
    *(
        Load(
            name=f"reload-{front or 'direct'}",
            group="reload",
            title=title,
            client=Reloads(),
            peers=_PROCESSES,
            app=WORKER,
            workers=2,
            front=front,
            rounds=1,
        )
        for front, title in (("", "direct"), ("nginx", "behind nginx, kept connections"), ("haproxy", "behind HAProxy, kept connections"))
    ),
    *(
        Load(
            name=f"http2-{connections}x{streams}{'-varied' if varied else ''}{'-tls' if tls else ''}",
            group="http2",
            title=f"hello, {connections} connections, {streams} streams each{', another path each time' if varied else ''}{', TLS' if tls else ''}",
            client=H2Load(connections, streams, varied),
            peers=tuple(peer for peer in _HTTP2 if not varied or peer != "nghttpd"),
            path="/",
            tls=tls,
        )
        for connections, streams, varied, tls in (
            *((1, 32, varied, tls) for varied in (False, True) for tls in (False, True)),
            *((8, 1, False, tls) for tls in (False, True)),
            *((64, 8, False, tls) for tls in (False, True)),
        )
    ),
    Load(
        name="http2-post",
        group="http2",
        title="POST of 1 KiB, 1 connection, 32 streams",
        client=H2Load(1, 32),
        peers=_HTTP2_APPLICATIONS,
        app=CHECKSUM,
        body=bytes(range(256)) * 4,
    ),
    Load(
        name="http2-up",
        group="http2",
        title="POST of 1 MiB, 1 connection, 4 streams",
        client=H2Load(1, 4),
        peers=_HTTP2_APPLICATIONS,
        app=CHECKSUM,
        body=bytes(range(256)) * 4096,
    ),
    Load(
        name="http2-down",
        group="http2",
        title="1 MiB down, 1 connection, 4 streams",
        client=H2Load(1, 4),
        peers=("muxwsgi", "nghttpd", "nginx-files-http2", "granian-http2", "gunicorn-http2", "hypercorn"),
        app=DOWNLOAD,
        path="/1m",
    ),
    *(
        Load(
            name=f"file-{name}{'-tls' if tls else ''}",
            group="files",
            title=f"{title}{', TLS' if tls else ''}",
            client=Wrk(connections=4 if name == "100m" else 16),
            peers=_FILES,
            app=FILE,
            path=f"/files/{name}",
            tls=tls,
        )
        for tls in (False, True)
        for name, title in (("1k", "1 KiB"), ("1m", "1 MiB"), ("100m", "100 MiB"))
    ),
    *(
        Load(
            name=f"websocket-{short}{'-16' if in_flight > 1 else ''}{'-deflate' if deflate else ''}",
            group="websocket",
            title=f"{title}, {in_flight} in flight{', permessage-deflate' if deflate else ''}",
            client=WebSockets(size, in_flight, deflate),
            peers=_WEBSOCKETS,
            app=WEBSOCKET,
            note="On one connection. A request is a message that has come back." if (size, in_flight, deflate) == (125, 1, False) else "",
        )
        for deflate in (False, True)
        for size, short, title in ((125, "125", "125 bytes"), (1 << 16, "64k", "64 KiB"), (1 << 20, "1m", "1 MiB"))
        for in_flight in (1, 16)
    ),
    *(
        Load(
            name=f"grpc-{in_flight}",
            group="grpc",
            title=f"unary calls, {in_flight} in flight",
            client=Calls(in_flight),
            peers=("muxwsgi-proxy", "mitmproxy"),
            mode="grpc",
        )
        for in_flight in (1, 16)
    ),
    Load(name="tunnel", group="proxy", title="relayed untouched, kept alive", client=Tunnels(), peers=_PROXIES, mode="tunnel"),
)
