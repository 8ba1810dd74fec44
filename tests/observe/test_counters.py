"""Counters: what clients do, and the numbers that come of it, by the names of `observe/metrics.py`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

import muxwsgi
from muxwsgi.errors import Cut, Expired, HandshakeError
from muxwsgi.http.exchange_counts import METHODS, STATUSES, ExchangeCounts
from muxwsgi.mux.matchers import prefix
from muxwsgi.observe.certificates import ROWS, rows_of
from muxwsgi.observe.counters import failure_of
from muxwsgi.observe.exposition import Readings, expose
from muxwsgi.observe.metrics import METRICS, OF_WORKERS, PLACES, ROUTES, UNDECIDED, WORDS
from muxwsgi.proxy import Proxy, ProxySettings
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.server.metrics import Rows, ServerMetrics
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    if path == "/take":
        environ["muxwsgi.hijack"]().sendall(b"taken")
        return []
    if path == "/fail":
        raise LookupError("lost")
    body = environ["wsgi.input"].read()
    start_response({"/missing": "404 Not Found", "/odd": "299 Odd", "/high": "999 High"}.get(path, "200 OK"), [])
    return [b"hello " + body]


@muxwsgi.hijack(match=prefix(b"ECHO "))
def echo(connection: Connection) -> None:
    connection.sendall(connection.recv())


class Served:
    def __init__(self, server: muxwsgi.Server) -> None:
        self.server = server
        self.metrics = ServerMetrics(server)
        self.ended = 0
        server.events.subscribe(closed=self._note)

    def _note(self, connection: object, error: object) -> None:
        self.ended += 1

    def connect(self) -> gevent.socket.socket:
        host, _, port = self.server.addresses[0].rpartition(":")
        return gevent.socket.create_connection((host, int(port)), timeout=20)

    def say(self, *texts: bytes) -> None:
        """Say each text on a connection of its own, and read to the end."""
        for text in texts:
            before = self.ended
            with self.connect() as client:
                client.sendall(text)
                read_to_end(client)
            until(lambda before=before: self.ended > before)

    def samples(self) -> dict[str, float]:
        """Each sample of the text, as `name{label=value,...}`."""
        text, media_type = self.metrics.expose()
        assert media_type.startswith("text/plain")
        return samples_of(prometheus_text(text.decode()))


def samples_of(families: Any) -> dict[str, float]:
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def read_to_end(client: Any) -> bytes:
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack, gevent.Timeout(30):

        def run(app: Any = application, *hijackers: Any, bind: str = "") -> Served:
            settings = ServerSettings(
                http=HTTPSettings(request_head_timeout=0.3, linger=0.2), mux=MuxSettings(sniff_timeout=0.2), handshake_timeout=0.3
            )
            served = Served(muxwsgi.Server(app, ["127.0.0.1:0" + bind], hijackers=list(hijackers), settings=settings))
            served.server.start()
            stack.callback(served.server.stop, 0)
            return served

        yield run


# Exchanges


def test_exchanges_are_counted_by_method_and_status(start: Callable[..., Served]) -> None:
    served = start()
    kept = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    post = b"POST /missing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345"
    served.say(kept * 3 + GET, post, GET.replace(b"GET / ", b"BREW /odd "), GET.replace(b"/ ", b"/fail "), GET.replace(b"/ ", b"/high "))
    served.say(GET.replace(b"/ ", b"/take "), b"GET / HTTP/1.1\r\n\r\n")
    found = {name: value for name, value in served.samples().items() if name.startswith("muxwsgi_http_requests_total")}
    assert found == {
        "muxwsgi_http_requests_total{method=GET,status=200}": 4,
        "muxwsgi_http_requests_total{method=POST,status=404}": 1,
        "muxwsgi_http_requests_total{method=other,status=2xx}": 1,
        "muxwsgi_http_requests_total{method=GET,status=500}": 1,
        "muxwsgi_http_requests_total{method=GET,status=5xx}": 1,
        "muxwsgi_http_requests_total{method=GET,status=taken}": 1,
        "muxwsgi_http_requests_total{method=other,status=400}": 1,
    }
    samples = served.samples()
    assert samples["muxwsgi_http_request_duration_seconds_count"] == 9
    assert samples["muxwsgi_http_request_duration_seconds_bucket{le=+Inf}"] == 9
    assert 0 < samples["muxwsgi_http_request_duration_seconds_sum"] < 30
    assert samples["muxwsgi_http_request_body_bytes_total"] == 5
    assert samples["muxwsgi_worker_requests{worker=0}"] == 10


def test_a_duration_is_in_all_buckets_that_are_not_smaller() -> None:
    counts = ExchangeCounts()
    for seconds in (0.0005, 0.001, 0.004, 5, 100):
        counts.note_refusal(400, seconds)
    words = [0] * WORDS
    first = PLACES["muxwsgi_http_request_duration_seconds"]
    words[first : first + 20] = [*counts.durations, round(counts.seconds * 1e6)]
    samples = samples_of(prometheus_text(expose(Readings(workers={0: words}, sums=words))[0].decode()))
    bucket = "muxwsgi_http_request_duration_seconds_bucket{{le={}}}"
    assert [samples[bucket.format(bound)] for bound in ("0.001", "0.0025", "0.005", "2.5", "5.0", "60.0", "+Inf")] == [2, 2, 3, 3, 4, 4, 5]
    assert samples["muxwsgi_http_request_duration_seconds_sum"] == 105.0055
    assert counts.requests[METHODS.index("other") * len(STATUSES) + STATUSES.index("400")] == 5


def test_no_method_or_status_of_a_peer_makes_a_new_series(start: Callable[..., Served]) -> None:
    served = start()
    served.say(*(GET.replace(b"GET", b"M%d" % number) for number in range(20)))
    names = [name for name in served.samples() if "muxwsgi_http_requests_total" in name]
    assert names == ["muxwsgi_http_requests_total{method=other,status=200}"]


# Connections


def test_connections_are_counted_by_what_became_of_them(start: Callable[..., Served]) -> None:
    served = start(application, echo)
    served.say(GET, b"ECHO hello", b"\x00garbage", b"")
    with served.connect() as client:
        client.shutdown(gevent.socket.SHUT_WR)
        read_to_end(client)
    until(lambda: served.ended == 5)
    samples = served.samples()
    assert samples["muxwsgi_connections_accepted_total"] == 5
    assert samples["muxwsgi_connections_closed_total{reason=ok}"] == 5
    assert samples["muxwsgi_route_connections_total{route=http}"] == 1
    assert samples["muxwsgi_route_connections_total{route=echo}"] == 1
    assert samples["muxwsgi_sniff_results_total{result=matched}"] == 2
    assert samples["muxwsgi_sniff_results_total{result=unmatched}"] == 1
    assert samples["muxwsgi_sniff_results_total{result=silent}"] == 1
    assert samples["muxwsgi_sniff_results_total{result=ended}"] == 1
    assert samples["muxwsgi_refusals_total{kind=unmatched}"] == 1
    assert samples["muxwsgi_deadlines_missed_total{phase=sniff}"] == 1
    assert samples["muxwsgi_streams_total"] == 1
    assert samples["muxwsgi_received_bytes_total"] == len(GET) + len(b"ECHO hello")
    assert samples["muxwsgi_sent_bytes_total"] > 100


def test_open_connections_are_shown_by_route_and_state(start: Callable[..., Served]) -> None:
    release = gevent.event.Event()

    @muxwsgi.hijack(match=prefix(b"x"), limit=1)
    def busy(connection: Connection) -> None:
        release.wait(20)

    served = start(application, busy)
    with served.connect() as first, served.connect() as second:
        first.sendall(b"x")
        second.sendall(GET.replace(b"close", b"keep-alive"))
        second.recv(1000)
        until(lambda: served.samples().get("muxwsgi_connections{route=http,state=idle}") == 1)
        until(lambda: served.samples().get("muxwsgi_connections{route=busy,state=active}") == 1)
        served.say(b"x")
        samples = served.samples()
        assert samples["muxwsgi_route_limit_reached_total{route=busy}"] == 1
        assert samples["muxwsgi_refusals_total{kind=limit}"] == 1
        assert samples["muxwsgi_worker_connections{worker=0}"] == 2
        release.set()


def test_a_handler_that_fails_and_a_client_that_is_late(start: Callable[..., Served]) -> None:
    @muxwsgi.hijack(match=prefix(b"x"))
    def broken(connection: Connection) -> None:
        raise LookupError("lost")

    @muxwsgi.hijack(match=prefix(b"idle"), idle_timeout=0.1)
    def idle(connection: Connection) -> None:
        connection.recv(4)
        connection.recv(1)

    served = start(application, broken, idle)
    served.say(b"x", b"idle", b"GET / HTTP/1.1\r\nHost:")
    samples = served.samples()
    assert samples["muxwsgi_connections_closed_total{reason=error}"] == 1
    assert samples["muxwsgi_route_failures_total{route=broken}"] == 1
    assert samples["muxwsgi_route_failures_total{route=idle}"] == 0
    assert samples["muxwsgi_connections_closed_total{reason=deadline}"] == 1
    assert samples["muxwsgi_deadlines_missed_total{phase=idle}"] == 1
    assert samples["muxwsgi_deadlines_missed_total{phase=request_head}"] == 1
    assert samples["muxwsgi_refusals_total{kind=refused}"] == 1


def test_handshakes_are_counted_by_version_and_by_reason(start: Callable[..., Served], make_certificate: Callable[[], CertificateFiles]) -> None:
    certificate = make_certificate()
    served = start(bind=f",certfile={certificate.certfile},keyfile={certificate.keyfile}")
    trusting = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(certificate.certfile)
    with trusting.wrap_socket(served.connect(), server_hostname="localhost") as client:
        client.sendall(GET)
        read_to_end(client)
    strict = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    with served.connect() as plain, pytest.raises(gevent.ssl.SSLCertVerificationError):
        strict.wrap_socket(plain, server_hostname="localhost")
    served.say(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00")  # a ServerHello
    served.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # half of a ClientHello, and nothing more
    until(lambda: served.ended == 4)
    samples = served.samples()
    assert samples["muxwsgi_tls_handshakes_total{resumed=false,version=TLSv1.3}"] == 1
    failed = {name[len("muxwsgi_tls_handshake_failures_total{reason=") : -1]: value for name, value in samples.items() if "failures_total{reason=" in name and "tls" in name}
    assert {name: value for name, value in failed.items() if value} == {"refused_by_client": 1, "protocol": 1, "deadline": 1}
    assert samples["muxwsgi_deadlines_missed_total{phase=handshake}"] == 1
    assert samples["muxwsgi_deadlines_missed_total{phase=other}"] == 0
    assert samples["muxwsgi_received_bytes_total"] == len(GET)


def test_certificates_are_shown_with_their_expiry(
    start: Callable[..., Served], make_certificate: Callable[[], CertificateFiles], tmp_path: Path
) -> None:
    certificate = make_certificate()
    served = start(bind=f",certfile={certificate.certfile},keyfile={certificate.keyfile}")
    name = "muxwsgi_certificate_expiry_timestamp_seconds"
    found = {key: value for key, value in served.samples().items() if key.startswith(name)}
    leaf = x509.load_pem_x509_certificate(Path(certificate.certfile).read_bytes())
    assert found == {f"{name}{{bind={served.server.addresses[0].removeprefix('https://')},name=localhost}}": leaf.not_valid_after_utc.timestamp()}
    assert served.metrics.certificates() is served.metrics.certificates()
    plain = start()
    assert not [key for key in plain.samples() if key.startswith(name)]

    authority = Authority.create(tmp_path / "ca")
    proxy = start(Proxy(ProxySettings(default_action="mitm"), authority=authority))
    ((labels, value),) = [(key, value) for key, value in proxy.samples().items() if key.startswith(name)]
    assert labels.startswith(f"{name}{{bind=proxy CA,name=muxwsgi CA ") and value == authority.ends.timestamp()


def made_certificate(subject: str, names: list[str], days: int) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=days))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_of_certificates_with_one_name_the_first_to_expire_is_shown() -> None:
    begins = 1767225600
    certificates = [
        ("a", made_certificate("CN=common", ["x.example", "y.example"], 3)),
        ("a", made_certificate("CN=other", ["x.example"], 2)),
        ("b", made_certificate("CN=common", [], 1)),
        ("b", made_certificate("O=organization", [], 4)),
    ]
    assert rows_of(certificates) == [
        ("b", "common", begins + 86400),
        ("a", "x.example", begins + 2 * 86400),
        ("b", "O=organization", begins + 4 * 86400),
    ]
    assert len(rows_of([(f"{number}", certificates[0][1]) for number in range(100)])) == ROWS


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Expired("the deadline of this phase is over"), "deadline"),
        (ConnectionResetError(104, "Connection reset by peer"), "disconnected"),
        (HandshakeError(103, "TLS handshake: the peer went away"), "disconnected"),
        (HandshakeError(103, "TLS handshake: no shared cipher"), "protocol"),
        (HandshakeError(103, "TLS handshake: unsupported protocol"), "protocol"),
        (HandshakeError(103, "TLS handshake: wrong version number"), "protocol"),
        (HandshakeError(103, "TLS handshake: http request"), "protocol"),
        (HandshakeError(103, "TLS handshake: peer did not return a certificate"), "certificate"),
        (HandshakeError(103, "TLS handshake: sslv3 alert certificate unknown"), "refused_by_client"),
        (HandshakeError(103, "TLS handshake: tlsv1 alert unknown ca"), "refused_by_client"),
        (HandshakeError(71, "TLS handshake: of the ALPN ids that the client offers none is served here: 'x'"), "alpn"),
        (HandshakeError(103, "TLS handshake: never heard of"), "other"),
        (Cut(), "other"),
    ],
)
def test_the_reason_of_a_failed_handshake(error: BaseException, reason: str) -> None:
    assert failure_of(error) == reason


# Words and text


def test_routes_share_rows_when_there_are_too_many() -> None:
    rows = Rows(ROUTES, UNDECIDED)
    assert [rows.row_of(f"route {number}") for number in range(40)] == [*range(1, ROUTES - 1), *[ROUTES - 1] * (40 - ROUTES + 2)]
    assert rows.row_of("route 3") == 4


def test_the_text_is_openmetrics_if_the_scraper_accepts_it(start: Callable[..., Served]) -> None:
    served = start()
    served.say(GET)
    text, media_type = served.metrics.expose("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    assert samples_of(open_metrics(text.decode()))["muxwsgi_http_requests_total{method=GET,status=200}"] == 1


def test_the_delay_of_the_event_loop_is_measured(start: Callable[..., Served]) -> None:
    served = start()
    written: list[list[int]] = []
    served.metrics.watch(written.append)
    until(lambda: written)
    served.metrics.unwatch()
    samples = served.samples()
    assert samples["muxwsgi_event_loop_lag_seconds_count"] == len(written) == 1
    assert samples["muxwsgi_event_loop_lag_seconds_sum"] == samples["muxwsgi_worker_event_loop_lag_seconds{worker=0}"]
    assert len(written[0]) == WORDS
    assert samples["muxwsgi_worker_resident_memory_bytes{worker=0}"] > 1 << 20


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS:
        assert metric.name.startswith("muxwsgi_") and metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert len(metric.series) == len(set(metric.series)) and all(len(values) == len(metric.labels) for values in metric.series)
    families = [metric.name.removesuffix("_total") for metric in METRICS]
    assert len(families) == len(set(families))  # OpenMetrics knows a counter by its name without _total
    assert len(PLACES) == len(OF_WORKERS) and WORDS <= 1000  # a slot of the shared page has 8 KiB
