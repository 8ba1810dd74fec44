"""`Counters`: counts what a worker does, in plain integers, and gives the words that `metrics.py` describes.

Events are counted as they happen. HTTP itself counts exchanges (`http/exchange_counts.py`), because a subscriber would cost too much.
Everything else is looked up when the words are made, about once a second.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from muxwsgi.errors import Cut, Expired, HandshakeError, PeerError, TLSError
from muxwsgi.events import Events, Refusal
from muxwsgi.http.exchange_counts import ExchangeCounts
from muxwsgi.observe.metrics import LAG_BUCKETS, OF_WORKERS, PHASES, PLACES, SERVERS, WORDS, Metric
from muxwsgi.wire.lifeline import IDLE, TOO_SLOW, Lifeline

if TYPE_CHECKING:
    from muxwsgi.mux.mux import Decision
    from muxwsgi.upstreams.upstreams import Upstreams
    from muxwsgi.wire.connection import Connection

__all__ = ["Counters", "failure_of"]

#: Connections that may be remembered beyond those that are open, before they are looked at again.
_FORGOTTEN = 1000

_BY_NAME = {metric.name: metric for metric in OF_WORKERS}

#: Words in the text of a failed handshake, and what they mean. OpenSSL's alerts of the client begin with its name for them.
_SAID = (
    ("the peer went away", "disconnected"),
    ("unexpected eof", "disconnected"),
    ("onnection reset", "disconnected"),
    ("roken pipe", "disconnected"),
    ("ALPN", "alpn"),
    ("no application protocol", "alpn"),
    (" alert ", "refused_by_client"),
    ("peer did not return a certificate", "certificate"),
    ("certificate verify failed", "certificate"),
    ("the peer's certificate", "certificate"),
    ("version", "protocol"),
    ("cipher", "protocol"),
    ("http request", "protocol"),
    ("record", "protocol"),
    ("packet", "protocol"),
    ("protocol", "protocol"),
    ("signature", "protocol"),
    ("group", "protocol"),
    ("length", "protocol"),
    ("message", "protocol"),
)


def failure_of(error: BaseException) -> str:
    """Which of `FAILURES` a failed handshake is."""
    if isinstance(error, Expired):
        return "deadline"
    if isinstance(error, ConnectionError):
        return "disconnected"
    text = str(error)
    if isinstance(error, HandshakeError | TLSError):
        for words, reason in _SAID:
            if words in text:
                return reason
    return "other"


class _Tally:
    """The words of one metric that are counted here, by label values."""

    def __init__(self, name: str) -> None:
        metric: Metric = _BY_NAME[name]
        self.place = PLACES[name]
        self.words = [0] * metric.size
        self._at = {"|".join(values): at for at, values in enumerate(metric.series)}

    def add(self, values: str, count: int = 1) -> None:
        self.words[self._at[values]] += count


class Counters:
    """Subscribes to `events`, and lets HTTP count exchanges, from its making on.

    exchanges   the numbers of exchanges
    """

    def __init__(self, events: Events, row_of: Callable[[str], int], server_row_of: Callable[[str], int]) -> None:
        """`row_of` gives each name of a route a row, the same in all workers: see `metrics.ROUTES`. So does `server_row_of` for servers of
        upstreams."""
        self.exchanges = ExchangeCounts()
        self._row_of = row_of
        self._server_row_of = server_row_of
        self._server_rows: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._tallies: list[_Tally] = []
        self._accepted = self._tally("muxwsgi_connections_accepted_total")
        self._closed = self._tally("muxwsgi_connections_closed_total")
        self._routed = self._tally("muxwsgi_route_connections_total")
        self._full = self._tally("muxwsgi_route_limit_reached_total")
        self._failed = self._tally("muxwsgi_route_failures_total")
        self._results = self._tally("muxwsgi_sniff_results_total")
        self._refusals = self._tally("muxwsgi_refusals_total")
        self._handshakes = self._tally("muxwsgi_tls_handshakes_total")
        self._failures = self._tally("muxwsgi_tls_handshake_failures_total")
        self._missed = self._tally("muxwsgi_deadlines_missed_total")
        self._received = self._tally("muxwsgi_received_bytes_total")
        self._sent = self._tally("muxwsgi_sent_bytes_total")
        self._streams = self._tally("muxwsgi_streams_total")
        self._lags = self._tally("muxwsgi_event_loop_lag_seconds")
        self._stream_seconds = 0.0
        self._lag = 0.0
        self._lag_sum = 0.0
        self._outermost: dict[int, Connection] = {}  # the outermost layer of each connection, by its id
        self._late_handshakes: set[int] = set()  # ids of connections whose handshake came too late, until they are closed
        events.subscribe(
            accepted=self._note_accepted,
            decided=self._note_decided,
            refused=self._note_refused,
            handshake=self._note_handshake,
            stream=self._note_stream,
            handover=self._note_handover,
            closed=self._note_closed,
        )
        events.counts = self.exchanges

    def _tally(self, name: str) -> _Tally:
        tally = _Tally(name)
        self._tallies.append(tally)
        return tally

    @property
    def requests(self) -> int:
        """Requests since the start."""
        return sum(self.exchanges.requests)

    # Events

    def _note_accepted(self, connection: "Connection") -> None:
        self._accepted.words[0] += 1

    def _note_decided(self, connection: "Connection", decision: "Decision") -> None:
        self._outermost[connection.id] = connection
        self._results.add(decision.reason.value)
        if decision.route is not None:
            self._routed.words[self._row(decision.route.name)] += 1

    def _note_refused(self, connection: "Connection", refusal: Refusal) -> None:
        self._refusals.add(refusal.kind)
        if refusal.kind == "limit" and refusal.route is not None:
            self._full.words[self._row(refusal.route)] += 1
        elif refusal.kind == "silent":
            self._missed.add("sniff")
        elif refusal.status == 408:
            self._missed.add("request_head" if "head" in refusal.reason else "request_body")

    def _note_handshake(self, connection: "Connection", error: OSError | None) -> None:
        if error is None:
            agreed = connection.tls
            assert agreed is not None
            self._outermost[connection.id] = connection
            version = agreed.version if agreed.version in ("TLSv1.2", "TLSv1.3") else "other"
            self._handshakes.add(f"{version}|{'true' if agreed.resumed else 'false'}")
            return
        reason = failure_of(error)
        self._failures.add(reason)
        if reason == "deadline":
            self._missed.add("handshake")
            self._late_handshakes.add(connection.id)

    def _note_stream(self, connection: "Connection", seconds: float) -> None:
        self._streams.words[0] += 1
        self._stream_seconds += seconds

    def _note_handover(self, connection: "Connection", given: bool) -> None:
        if given:  # the worker that has it from now on counts its bytes and its end
            self._outermost.pop(connection.id, None)

    def _note_closed(self, connection: "Connection", error: BaseException | None) -> None:
        top = self._outermost.pop(connection.id, connection)
        self._received.words[0] += top.bytes_received
        self._sent.words[0] += top.bytes_sent
        late_handshake = connection.id in self._late_handshakes
        self._late_handshakes.discard(connection.id)
        if error is None:
            self._closed.words[0] += 1
        elif isinstance(error, Expired):
            self._closed.add("deadline")
            if not late_handshake:
                self._missed.add(_phase_of(error))
        elif isinstance(error, Cut):
            self._closed.add("cut")
        elif isinstance(error, PeerError | OSError):
            self._closed.add("peer")
        else:
            self._closed.add("error")
            if top.route is not None:
                self._failed.words[self._row(top.route)] += 1

    def _row(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._row_of(name)
        return row

    # Words

    def note_lag(self, seconds: float) -> None:
        """The event loop ran what was due `seconds` too late."""
        self._lag = seconds = max(0.0, seconds)
        self._lag_sum += seconds
        place = 0
        for bound in LAG_BUCKETS:
            if seconds <= bound:
                break
            place += 1
        self._lags.words[place] += 1

    def words(
        self,
        live: Collection[Lifeline],
        *,
        memory: int,
        accepting: bool,
        proxy: Mapping[str, int] | None = None,
        upstreams: "Upstreams | None" = None,
    ) -> list[int]:
        """The words of a worker. `live` are its connections, `memory` is in bytes, and `proxy` has the numbers of a proxy
        (`Proxy.counts`)."""
        words = [0] * WORDS
        for tally in self._tallies:
            words[tally.place : tally.place + len(tally.words)] = tally.words

        def put(name: str, *values: int) -> None:
            words[PLACES[name] : PLACES[name] + len(values)] = values

        exchanges = self.exchanges
        requests = exchanges.requests
        put("muxwsgi_http_requests_total", *requests)
        put("muxwsgi_http_request_duration_seconds", *exchanges.durations, round(exchanges.seconds * 1e6))
        put("muxwsgi_http_responses_incomplete_total", exchanges.incomplete)
        put("muxwsgi_http_request_body_bytes_total", exchanges.received)
        put("muxwsgi_http_response_body_bytes_total", exchanges.sent)
        words[PLACES["muxwsgi_deadlines_missed_total"] + PHASES.index("response")] += exchanges.slow_readers
        put("muxwsgi_stream_seconds_total", round(self._stream_seconds * 1e6))
        words[self._lags.place + len(LAG_BUCKETS) + 1] = round(self._lag_sum * 1e6)
        count = self._put_connections(words, live)
        if len(self._outermost) > count + _FORGOTTEN:  # connections that went to another process have no end here
            alive = {line.top for line in live}
            self._outermost = {number: each for number, each in self._outermost.items() if each in alive}
        if proxy is not None:
            put("muxwsgi_proxy_leaf_certificates_total", *(proxy[name] for name in ("minted", "hits", "evicted", "failed")))
            put("muxwsgi_proxy_leaf_certificates_cached", proxy["leaves"])
            put("muxwsgi_proxy_upstream_connections_total", *(proxy[name] for name in ("opened", "reused", "kept", "refused", "dropped")))
            put("muxwsgi_proxy_upstream_connections_idle", proxy["idle"])
        if upstreams is not None:
            self._put_upstreams(words, upstreams)
            put("muxwsgi_upstream_retries_total", upstreams.retries)
            put("muxwsgi_upstream_refusals_total", *upstreams.refused.values())
            put("muxwsgi_upstream_queue", upstreams.waiting)
        put("muxwsgi_worker_event_loop_lag_seconds", round(self._lag * 1e6))
        put("muxwsgi_worker_resident_memory_bytes", memory)
        put("muxwsgi_worker_connections", count)
        put("muxwsgi_worker_requests", sum(requests))
        put("muxwsgi_worker_accepting", int(accepting))
        return words

    def _put_upstreams(self, words: list[int], upstreams: "Upstreams") -> None:
        """Count what servers of upstreams do."""
        rows = self._server_rows

        def add(name: str, label: str, value: int) -> None:
            row = rows.get(label)
            if row is None:
                if len(rows) >= 4 * SERVERS:  # services may name ever new servers
                    rows.clear()
                row = rows[label] = self._server_row_of(label)
            words[PLACES[name] + row] += value

        for label, server in upstreams.servers():
            add("muxwsgi_upstream_sessions", label, server.taken)
            add("muxwsgi_upstream_usable", label, int(server.is_usable))
        for label, counts in upstreams.counts.items():
            add("muxwsgi_upstream_connections_total", label, counts.connected)
            add("muxwsgi_upstream_connect_failures_total", label, counts.connect_failures)
            add("muxwsgi_upstream_check_failures_total", label, counts.check_failures)
            add("muxwsgi_upstream_downs_total", label, counts.downs)

    def _put_connections(self, words: list[int], live: Iterable[Lifeline]) -> int:
        """Count the connections by route and state. Returns how many there are."""
        first = PLACES["muxwsgi_connections"]
        rows = self._rows
        count = 0
        for line in live:
            top = line.top
            if top is None:
                continue
            name = top.route
            row = 0 if name is None else rows.get(name)
            if row is None:
                row = self._row(name or "")
            words[first + 2 * row + bool(line.resting)] += 1
            count += 1
        return count


def _phase_of(error: Expired) -> str:
    text = str(error)
    return "response" if text == TOO_SLOW else "idle" if text.startswith(IDLE) else "other"

