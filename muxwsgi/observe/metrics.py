"""The metrics: names, labels, meanings, and the place of each number among the words that a worker writes into shared memory.

All workers count into words of 64 bits at the same places, so that a reader adds them up. Words that are counters are kept when a worker
has ended, and never go back. Words that are gauges (`GAUGES`) are dropped then. The layout is made of this table, and all workers of a
master are forked from one process.

Names follow Prometheus: a unit in the name, `_total` for counters. No label has a value that a client chooses. Names of routes are the
operator's. They have `ROUTES` rows, and the routes that find no row left share the last one. So do servers of upstreams, with `SERVERS` rows.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from muxwsgi.http.exchange_counts import BUCKETS, METHODS, STATUSES
from muxwsgi.record import record
from muxwsgi.upstreams.state import REFUSALS

__all__ = [
    "EXPIRY", "FAILURES", "GAUGES", "LAG_BUCKETS", "METRICS", "OF_MASTER", "OF_WORKERS", "PHASES", "PLACES", "ROUTES", "SERVERS", "UNDECIDED", "WORDS", "Metric", "markdown"
]  # fmt: skip

#: Rows for routes. The first is for connections that no route has yet, the last for routes that found no row left.
ROUTES = 24
UNDECIDED = "undecided"

#: Rows for servers of upstreams. The last is for those that found no row left.
SERVERS = 64

#: Upper bounds of the buckets of the event loop's delay, seconds.
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Why a TLS handshake failed.
FAILURES = ("deadline", "disconnected", "protocol", "certificate", "alpn", "refused_by_client", "other")

#: The phases of a connection that have a deadline.
PHASES = ("sniff", "handshake", "request_head", "request_body", "response", "idle", "other")

Source = Literal["workers", "each", "master", "certificates"]


@record(kw_only=True)
class Metric:
    """One metric.

    name        as it is exposed, `_total` of counters included
    labels      names of its labels
    series      the label values of each word, in the order of the words; one empty tuple without labels
    buckets     of a histogram: the upper bounds. Its words are a number for each bucket alone, one for what is above the last, and the sum
    scale       what a word is divided by to get the unit in the name; of a histogram, this holds for the sum only
    source      workers: the sum of all workers; each: the value of each worker, with the label `worker`; master: the master's;
                certificates: a value for each certificate, which is no word
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    buckets: tuple[float, ...] = ()
    scale: float = 1
    source: Source = "workers"

    @property
    def size(self) -> int:
        """How many words it has."""
        return len(self.buckets) + 2 if self.buckets else len(self.series)


def _each(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


_ROUTE_ROWS = tuple(str(row) for row in range(ROUTES))  # replaced by the names when they are read

_SERVER_ROWS = tuple((str(row),) for row in range(SERVERS))  # likewise

OF_WORKERS = (
    Metric(
        name="muxwsgi_connections_accepted_total", kind="counter", help="Connections that were accepted, whatever they spoke."
    ),
    Metric(
        name="muxwsgi_connections_closed_total",
        kind="counter",
        help="Connections that have ended, by reason: ok; peer (the client broke the protocol or left in the middle); deadline; cut (a drain was "
        "over); error (the handler failed).",
        labels=("reason",),
        series=_each("ok", "peer", "deadline", "cut", "error"),
    ),
    Metric(
        name="muxwsgi_connections",
        kind="gauge",
        help="Connections that are open, by route and state: active, or idle (between two requests, or before the first byte). Within TLS the "
        "route is that of the decrypted stream.",
        labels=("route", "state"),
        series=tuple((row, state) for row in _ROUTE_ROWS for state in ("active", "idle")),
    ),
    Metric(
        name="muxwsgi_route_connections_total",
        kind="counter",
        help="Connections for which a route was chosen, also if it was full then. A TLS connection counts for the TLS route, and again for the route inside of TLS.",
        labels=("route",),
        series=_each(*_ROUTE_ROWS),
    ),
    Metric(
        name="muxwsgi_route_limit_reached_total",
        kind="counter",
        help="Connections that were closed because their route was at its limit.",
        labels=("route",),
        series=_each(*_ROUTE_ROWS),
    ),
    Metric(
        name="muxwsgi_route_failures_total",
        kind="counter",
        help="Connections whose handler failed: a hijacker raised an error that is not the client's. The error log has its traceback.",
        labels=("route",),
        series=_each(*_ROUTE_ROWS),
    ),
    Metric(
        name="muxwsgi_sniff_results_total",
        kind="counter",
        help="Decisions by the first bytes: matched; alpn (decided by TLS); only (a bind with one route asks nothing); late and unmatched (no "
        "route said yes); silent (no byte came in time); ended (the client left before its first byte); drained.",
        labels=("result",),
        series=_each("matched", "alpn", "only", "late", "unmatched", "silent", "ended", "drained"),
    ),
    Metric(
        name="muxwsgi_refusals_total",
        kind="counter",
        help="Connections and requests that were not served: unmatched, silent, ended and drained as above, without a route for them; limit (the "
        "route was full); untrusted (the peer may not connect to a port with the PROXY protocol); refused (a "
        "request that the HTTP engine answered with an error).",
        labels=("kind",),
        series=_each("unmatched", "silent", "ended", "drained", "limit", "untrusted", "refused"),
    ),
    Metric(
        name="muxwsgi_tls_handshakes_total",
        kind="counter",
        help="TLS handshakes that were completed, by version, and by whether an earlier session was resumed.",
        labels=("version", "resumed"),
        series=tuple((version, resumed) for version in ("TLSv1.2", "TLSv1.3", "other") for resumed in ("false", "true")),
    ),
    Metric(
        name="muxwsgi_tls_handshake_failures_total",
        kind="counter",
        help="TLS handshakes that failed: deadline; disconnected; protocol (version, cipher, not TLS at all); certificate (the client's); alpn "
        "(no common protocol); refused_by_client (it sent an alert, for example because it does not trust the certificate); other.",
        labels=("reason",),
        series=_each(*FAILURES),
    ),
    Metric(
        name="muxwsgi_deadlines_missed_total",
        kind="counter",
        help="Deadlines and minimum rates that clients missed, by phase.",
        labels=("phase",),
        series=_each(*PHASES),
    ),
    Metric(
        name="muxwsgi_http_requests_total",
        kind="counter",
        help="Requests by method and status of the response. Methods and statuses that are rare are counted together (other, 4xx and the like). "
        "The status is taken if the application took the connection over (WebSocket, CONNECT), and none if the client had left before.",
        labels=("method", "status"),
        series=tuple((method, status) for method in METHODS for status in STATUSES),
    ),
    Metric(
        name="muxwsgi_http_request_duration_seconds",
        kind="histogram",
        help="Time from the end of a request's head to the end of its response. Connections that were taken over are not in it.",
        buckets=BUCKETS,
        scale=1e6,
    ),
    Metric(
        name="muxwsgi_http_responses_incomplete_total",
        kind="counter",
        help="Responses that were begun and not completed: the client left, was too slow, or the application failed in the middle.",
    ),
    Metric(
        name="muxwsgi_http_request_body_bytes_total", kind="counter", help="Bytes of request bodies that were read, without framing."
    ),
    Metric(
        name="muxwsgi_http_response_body_bytes_total", kind="counter", help="Bytes of response bodies that were sent, without framing."
    ),
    Metric(
        name="muxwsgi_received_bytes_total",
        kind="counter",
        help="Bytes received on connections that have ended, as their handlers read them: within TLS, decrypted.",
    ),
    Metric(name="muxwsgi_sent_bytes_total", kind="counter", help="Bytes sent on connections that have ended, as their handlers wrote them."),
    Metric(name="muxwsgi_streams_total", kind="counter", help="Streams other than HTTP that have ended: hijackers, relays, connections taken over."),
    Metric(name="muxwsgi_stream_seconds_total", kind="counter", help="Seconds that these streams lasted, together.", scale=1e6),
    Metric(
        name="muxwsgi_proxy_leaf_certificates_total",
        kind="counter",
        help="Certificates of intercepted hosts: minted, found in the cache (hit), dropped from it (evicted), failed.",
        labels=("event",),
        series=_each("minted", "hit", "evicted", "failed"),
    ),
    Metric(name="muxwsgi_proxy_leaf_certificates_cached", kind="gauge", help="Certificates of intercepted hosts in the cache."),
    Metric(
        name="muxwsgi_proxy_upstream_connections_total",
        kind="counter",
        help="Connections to upstreams of the proxy: opened, reused from the pool, kept in it, not kept (refused), closed in it (dropped).",
        labels=("event",),
        series=_each("opened", "reused", "kept", "refused", "dropped"),
    ),
    Metric(name="muxwsgi_proxy_upstream_connections_idle", kind="gauge", help="Connections to upstreams that rest in the pool."),
    Metric(
        name="muxwsgi_upstream_sessions",
        kind="gauge",
        help="Connections to a server of an upstream that are open, with those that are being made. The server is UPSTREAM/SERVER.",
        labels=("server",),
        series=_SERVER_ROWS,
    ),
    Metric(
        name="muxwsgi_upstream_usable",
        kind="gauge",
        help="How many workers send new connections to the server: it is up, and the operator has not set it to drain or maint.",
        labels=("server",),
        series=_SERVER_ROWS,
    ),
    Metric(
        name="muxwsgi_upstream_connections_total", kind="counter", help="Connections to a server that were made.", labels=("server",), series=_SERVER_ROWS
    ),
    Metric(
        name="muxwsgi_upstream_connect_failures_total",
        kind="counter",
        help="Attempts to connect to a server that failed. Another server may have been tried then.",
        labels=("server",),
        series=_SERVER_ROWS,
    ),
    Metric(
        name="muxwsgi_upstream_check_failures_total", kind="counter", help="Checks of a server that failed.", labels=("server",), series=_SERVER_ROWS
    ),
    Metric(
        name="muxwsgi_upstream_downs_total",
        kind="counter",
        help="How often a server went down, as each worker sees it.",
        labels=("server",),
        series=_SERVER_ROWS,
    ),
    Metric(name="muxwsgi_upstream_retries_total", kind="counter", help="Attempts to connect after one that failed."),
    Metric(
        name="muxwsgi_upstream_refusals_total",
        kind="counter",
        help="Connections that were closed without a server: down (none can be used); queue_full and queue_timeout (all are at maxconn); failed (each "
        "attempt failed).",
        labels=("reason",),
        series=_each(*REFUSALS),
    ),
    Metric(name="muxwsgi_upstream_queue", kind="gauge", help="Connections that wait because all servers are at maxconn."),
    Metric(
        name="muxwsgi_event_loop_lag_seconds",
        kind="histogram",
        help="How late the event loop runs what is due, looked at once a second in each worker. It rises when an application computes for long.",
        buckets=LAG_BUCKETS,
        scale=1e6,
    ),
    Metric(
        name="muxwsgi_worker_event_loop_lag_seconds",
        kind="gauge",
        help="How late the event loop of this worker was the last time.",
        scale=1e6,
        source="each",
    ),
    Metric(name="muxwsgi_worker_resident_memory_bytes", kind="gauge", help="Memory of this worker that is in RAM.", source="each"),
    Metric(name="muxwsgi_worker_connections", kind="gauge", help="Connections that this worker serves.", source="each"),
    Metric(name="muxwsgi_worker_requests", kind="gauge", help="Requests that this worker has served since it started.", source="each"),
    Metric(name="muxwsgi_worker_accepting", kind="gauge", help="1 if this worker accepts connections, 0 if it ends.", source="each"),
)

#: Words that the master writes, and the process of the admin bind (`muxwsgi_draining`).
OF_MASTER = (
    Metric(
        name="muxwsgi_workers",
        kind="gauge",
        help="Worker processes by state. A worker that is leaving or blocked is replaced by another one, and then ends.",
        labels=("state",),
        series=_each("booting", "serving", "leaving", "blocked", "retiring", "ending"),
        source="master",
    ),
    Metric(name="muxwsgi_workers_wanted", kind="gauge", help="Worker processes that there should be.", source="master"),
    Metric(name="muxwsgi_worker_starts_total", kind="counter", help="Worker processes that were started.", source="master"),
    Metric(
        name="muxwsgi_worker_failures_total",
        kind="counter",
        help="Worker processes that ended by themselves: boot (before they were ready), exit, signal (killed from outside, or crashed).",
        labels=("reason",),
        series=_each("boot", "exit", "signal"),
        source="master",
    ),
    Metric(
        name="muxwsgi_worker_blocked_total", kind="counter", help="Worker processes that were replaced because their event loop was blocked.", source="master"
    ),
    Metric(name="muxwsgi_worker_kills_total", kind="counter", help="Worker processes that the master killed.", source="master"),
    Metric(
        name="muxwsgi_reloads_total", kind="counter", help="Reloads.", labels=("result",), series=_each("ok", "failed"), source="master"
    ),
    Metric(name="muxwsgi_generation", kind="gauge", help="Number of the generation of workers that serves: 1, and 1 more with each reload.", source="master"),
    Metric(name="muxwsgi_start_time_seconds", kind="gauge", help="When the master started, seconds since the epoch.", scale=1e6, source="master"),
    Metric(name="muxwsgi_stopping", kind="gauge", help="1 from the beginning of a stop on.", source="master"),
    Metric(name="muxwsgi_draining", kind="gauge", help="1 while `muxwsgi ctl drain` holds: /readyz answers 503.", source="master"),
)

EXPIRY = Metric(
    name="muxwsgi_certificate_expiry_timestamp_seconds",
    kind="gauge",
    help="When a certificate expires, seconds since the epoch: those of binds, and those of the proxy's CA (bind=\"proxy CA\"). The name is the first that it "
    "is for. Of two with the same labels, the one that expires first; of more than 64, those that expire first.",
    labels=("bind", "name"),
    series=(),
    source="certificates",
)

METRICS = (*OF_WORKERS, *OF_MASTER, EXPIRY)


def _laid_out(metrics: Sequence[Metric]) -> tuple[Mapping[str, int], int]:
    places, size = {}, 0
    for metric in metrics:
        places[metric.name] = size
        size += metric.size
    return places, size


#: The place of the first word of each metric among the words of a worker, and how many words there are.
PLACES, WORDS = _laid_out(OF_WORKERS)

#: The places of words that are not kept when their worker has ended.
GAUGES = frozenset(PLACES[metric.name] + at for metric in OF_WORKERS if metric.kind == "gauge" for at in range(metric.size))


def markdown() -> str:
    """The table of docs/observability.md."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = (*metric.labels, "worker") if metric.source == "each" else metric.labels
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {shown} | {metric.help} |")
    return "\n".join(lines)
