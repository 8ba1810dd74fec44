"""`muxwsgi.websocket`: WebSockets for applications, with the `websockets` package as the client, and with raw frames."""

import base64
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import gevent.event
import gevent.socket
import pytest
from websockets.exceptions import ConnectionClosed as TheirConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

import muxwsgi
from muxwsgi.http.websocket.deflate import answer_deflate
from muxwsgi.http.websocket.frame import Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.messages import close_payload
from muxwsgi.settings import ServerSettings
from muxwsgi.websocket import ConnectionClosed, WebSocket, accept
from muxwsgi.wire import sweeper
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.ready import Ready
from muxwsgi.wire.transport import ClosedTransport
from tests.waiting import until

T = TypeVar("T")

CLOSE_1000 = b"\x88\x02\x03\xe8"


class Site:
    """An application on a port, and what became of it."""

    def __init__(self, talk: Callable[[WebSocket], Any], options: dict[str, Any]) -> None:
        self.talk = talk
        self.options = options
        self.results: list[Any] = []
        self.clients: list[Raw] = []
        self.server: muxwsgi.Server | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.results.append(self.talk(accept(environ, **self.options)))
        return []

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.addresses[0].rpartition(":")[2])

    def client(self, **more: Any) -> ClientConnection:
        """To be called in a thread."""
        return connect(f"ws://127.0.0.1:{self.port}/", max_size=None, **more)


@contextmanager
def site(talk: Callable[[WebSocket], Any], *, graceful_timeout: float = 5.0, **options: Any) -> Iterator[Site]:
    made = Site(talk, options)
    made.server = muxwsgi.Server(made, ["127.0.0.1:0"], settings=ServerSettings(graceful_timeout=graceful_timeout))
    made.server.start()
    try:
        with gevent.Timeout(30):
            yield made
    finally:
        for client in made.clients:
            client.sock.close()
        made.server.stop(0)


@pytest.fixture(autouse=True)
def sweeps_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "INTERVAL", 0.05)


def echo(ws: WebSocket) -> str:
    for message in ws:
        ws.send(message)
    return "ended"


def in_thread(call: Callable[[], T]) -> T:
    result: T = gevent.get_hub().threadpool.apply(call)
    return result


def request(**fields: str) -> bytes:
    known = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    return ("GET / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in known.items()) + "\r\n").encode()


class Raw:
    """A client that sends what it wants."""

    def __init__(self, site: Site, head: bytes | None = None) -> None:
        site.clients.append(self)
        self.sock = gevent.socket.create_connection(("127.0.0.1", site.port), timeout=15)
        self.sock.sendall(request() if head is None else head)
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.sock.recv(1) or pytest.fail(f"the stream has ended after {self.head!r}")
        self.parser = FrameParser(from_client=False)
        self.frames: list[Frame] = []

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def send(self, opcode: Opcode, data: bytes = b"", **more: Any) -> None:
        self.sock.sendall(encode_frame(Frame(opcode, data, **more), masked=True))

    def next(self) -> Frame | None:
        """The server's next frame; None at the end of the stream."""
        while not self.frames:
            data = self.sock.recv(65536)
            if not data:
                return None
            self.frames += self.parser.feed(data)
        return self.frames.pop(0)

    def code(self) -> int:
        """The code of the Close frame that comes next, behind which the stream ends."""
        frame = self.next()
        assert frame is not None, "the stream has ended without a Close frame"
        assert frame.opcode == Opcode.CLOSE, frame
        return int.from_bytes(frame.data[:2])


def test_texts_and_binary_messages_of_all_sizes_come_back() -> None:
    messages: list[str | bytes] = ["", "hello", "grüße ✓", b"", b"\0\xff", "x" * 126, b"y" * 65536, "z" * 1_000_000]

    def talk() -> list[Any]:
        with served.client() as ws:
            for message in messages:
                ws.send(message)
            return [ws.recv(timeout=10) for _ in messages]

    with site(echo) as served:
        assert in_thread(talk) == messages
        until(lambda: served.results == ["ended"])


@pytest.mark.parametrize("compression", [True, False])
def test_compression_is_agreed_on_only_if_the_application_wants_it(compression: bool) -> None:
    def talk() -> tuple[str | None, Any]:
        with served.client(compression="deflate") as ws:
            assert ws.response is not None
            ws.send("again and again " * 10_000)
            ws.send("short")
            return ws.response.headers.get("Sec-WebSocket-Extensions"), (ws.recv(timeout=10), ws.recv(timeout=10))

    with site(echo, compression=compression) as served:
        extensions, messages = in_thread(talk)
        assert messages == ("again and again " * 10_000, "short")
        assert (extensions is not None) is compression


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
        ),
        (
            "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("permessage-deflate; server_max_window_bits=16", ""),
        ("permessage-deflate; unknown", ""),
        ("", ""),
    ],
)
def test_an_offer_of_compression_is_answered_by_the_first_one_that_can_be_kept(offer: str, answer: str) -> None:
    assert answer_deflate(offer)[1] == answer


def test_a_message_that_inflates_beyond_the_limit_ends_with_1009() -> None:
    def talk() -> int | None:
        with served.client(compression="deflate") as ws:
            ws.send("0" * 2_000_000)
            with pytest.raises(TheirConnectionClosed):
                ws.recv(timeout=10)
            return ws.close_code

    with site(echo, compression=True, max_size=1_000_000) as served:
        assert in_thread(talk) == 1009


def test_messages_that_inflate_a_thousandfold_let_others_run() -> None:
    """All of them come with one read, and each has a thousand bytes, but a megabyte to inflate and to check."""
    compressor = zlib.compressobj(wbits=-15)
    content = (compressor.compress(b"a" * ((1 << 20) - 1)) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
    bomb = encode_frame(Frame(Opcode.TEXT, content, rsv=4), masked=True)
    turns = [0]

    def count_turns() -> None:
        while True:
            gevent.sleep(0)
            turns[0] += 1

    def talk(ws: WebSocket) -> int:
        begun = [turns[0] for _ in ws]  # no message is waited for
        return len(set(begun))

    with site(talk, compression=True) as made:
        counting = gevent.spawn(count_turns)
        raw = Raw(made, request(**{"Sec-WebSocket-Extensions": "permessage-deflate"}))
        raw.sock.sendall(bomb * 40 + encode_frame(Frame(Opcode.CLOSE, close_payload(1000)), masked=True))
        until(lambda: made.results)
        counting.kill()
    assert made.results[0] >= 20


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Upgrade": "chat"}, 426),
        ({"Sec_WebSocket_Version": "12"}, 426),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Content_Length": "3"}, 400),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:80"}, 101),
        ({"Origin": "https://example.org:8443", "Host": "example.org:8443"}, 101),
        ({"Origin": "https://example.org", "Host": "example.org:443"}, 101),
    ],
)
def test_what_cannot_become_a_websocket_is_refused(fields: dict[str, str], status: int, caplog: pytest.LogCaptureFixture) -> None:
    with site(echo) as served:
        client = Raw(served, request(**fields))
        assert client.status == status
        assert (b"Sec-WebSocket-Version: 13" in client.head) is (status == 426)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "it is the client's fault"


@pytest.mark.parametrize(("origins", "status"), [(("https://app.example",), 101), (("*",), 101), ((), 403)])
def test_the_application_may_say_which_origins_it_serves(origins: tuple[str, ...], status: int) -> None:
    with site(echo, origins=origins) as served:
        assert Raw(served, request(Origin="https://app.example")).status == status


def test_the_best_subprotocol_that_the_client_offers_is_agreed_on() -> None:
    def talk() -> str | None:
        with served.client(subprotocols=["v1", "v2"]) as ws:
            return ws.subprotocol

    with site(lambda ws: ws.close(), subprotocols=("v3", "v2", "v1")) as served:
        assert in_thread(talk) == "v2"


def test_a_fragmented_message_is_one_and_control_frames_may_come_within() -> None:
    with site(echo) as served:
        client = Raw(served)
        client.send(Opcode.TEXT, "grü".encode()[:-1], fin=False)
        client.send(Opcode.PING, b"now")
        client.send(Opcode.CONTINUATION, "grü".encode()[-1:], fin=True)
        pong, message = client.next(), client.next()
        assert pong is not None
        assert (pong.opcode, pong.data) == (Opcode.PONG, b"now")
        assert message is not None
        assert message.data.decode() == "grü"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02hi", 1002),
        (b"\xf1\x80\0\0\0\0", 1002),
        (encode_frame(Frame(Opcode.TEXT, b"\xff"), masked=True, key=bytes(4)), 1007),
        (encode_frame(Frame(Opcode.BINARY, b"x" * 2000), masked=True, key=bytes(4)), 1009),
        (encode_frame(Frame(Opcode.CONTINUATION, b"x"), masked=True, key=bytes(4)), 1002),
    ],
    ids=["not masked", "reserved bits", "not UTF-8", "too long", "continues nothing"],
)
def test_a_fault_of_the_client_ends_with_its_code(frame: bytes, code: int) -> None:
    def talk(ws: WebSocket) -> int:
        with pytest.raises(ConnectionClosed) as closed:
            ws.receive()
        return closed.value.code

    with site(talk, max_size=1000) as served:
        client = Raw(served)
        client.sock.sendall(frame)
        assert client.code() == code
        until(lambda: served.results == [code])


def test_the_clients_close_is_answered_and_ends_the_iteration() -> None:
    with site(echo) as served:
        client = Raw(served)
        client.send(Opcode.CLOSE, close_payload(1001, "leaving"))
        assert client.code() == 1001
        assert client.next() is None
        until(lambda: served.results == ["ended"])


def test_a_connection_that_breaks_is_no_orderly_close() -> None:
    def talk(ws: WebSocket) -> int:
        try:
            echo(ws)
        except ConnectionClosed as closed:
            return closed.code
        return 0

    with site(talk) as served:
        client = Raw(served)
        client.sock.close()
        until(lambda: served.results == [1006])


def test_close_waits_for_the_clients_close_and_drops_what_comes_before() -> None:
    def talk(ws: WebSocket) -> int | None:
        ws.close(4000, "enough")
        return ws.close_code

    with site(talk) as served:
        client = Raw(served)
        assert client.code() == 4000
        client.send(Opcode.TEXT, b"crossed")
        assert served.results == []
        client.send(Opcode.CLOSE, close_payload(4000))
        until(lambda: served.results == [4000])
        assert client.next() is None


def test_close_gives_up_on_a_client_that_does_not_answer() -> None:
    def talk(ws: WebSocket) -> int | None:
        ws.close()
        return ws.close_code

    with site(talk, close_timeout=0.2) as served:
        client = Raw(served)
        assert client.code() == 1000
        until(lambda: served.results == [1006])


def test_an_application_that_fails_closes_with_1011_and_one_that_returns_with_1000(caplog: pytest.LogCaptureFixture) -> None:
    def fails(ws: WebSocket) -> None:
        raise ZeroDivisionError

    with site(fails) as served:
        client = Raw(served)
        assert client.code() == 1011
        client.send(Opcode.CLOSE, close_payload(1011))
        assert client.next() is None, "the stream ends in order: the Close frame says that it was cut short"
    assert "ZeroDivisionError" in caplog.text
    with site(lambda ws: None) as served:
        assert Raw(served).code() == 1000


def test_receive_has_a_timeout_and_the_websocket_goes_on_after_it() -> None:
    def talk(ws: WebSocket) -> str | bytes:
        with pytest.raises(TimeoutError):
            ws.receive(timeout=0.05)
        ws.send("late?")
        return ws.receive(timeout=10)

    with site(talk) as served:
        client = Raw(served)
        assert client.next() is not None
        client.send(Opcode.TEXT, b"here")
        until(lambda: served.results == ["here"])


def test_pings_are_answered_and_a_close_is_seen_by_an_application_that_only_sends() -> None:
    go_on = gevent.event.Event()

    def talk(ws: WebSocket) -> int:
        go_on.wait(10)
        ws.send("one")
        go_on.clear()
        go_on.wait(10)
        with pytest.raises(ConnectionClosed) as closed:
            ws.send("two")
        return closed.value.code

    with site(talk) as served:
        client = Raw(served)
        client.send(Opcode.PING, b"?")
        until(lambda: waiting_bytes(served) > 0)
        go_on.set()
        pong, one = client.next(), client.next()
        assert pong is not None
        assert pong.opcode == Opcode.PONG
        assert one is not None
        assert one.data == b"one"
        client.send(Opcode.CLOSE, close_payload(1000))
        until(lambda: waiting_bytes(served) > 0)
        go_on.set()
        until(lambda: served.results == [1000])


def waiting_bytes(served: Site) -> int:
    """Bytes in the kernel's buffers that the server has not read."""
    assert served.server is not None
    import fcntl
    import struct
    import termios

    (line,) = served.server._lines
    number = line.top.descriptor()  # type: ignore[union-attr]
    return int(struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, b"\0" * 4))[0])


def test_a_silent_client_is_pinged_and_one_that_does_not_answer_is_given_up() -> None:
    def talk(ws: WebSocket) -> int:
        with pytest.raises(ConnectionClosed) as closed:
            ws.receive()
        return closed.value.code

    with site(talk, ping_interval=0.1, ping_timeout=0.1) as served:
        client = Raw(served)
        for _ in range(2):
            ping = client.next()
            assert ping is not None
            assert ping.opcode == Opcode.PING
            client.send(Opcode.PONG, ping.data)
        assert client.next() is not None
        until(lambda: served.results == [1006])


def test_a_server_that_drains_says_so_with_1001() -> None:
    def talk(ws: WebSocket) -> int | None:
        echo(ws)
        return ws.close_code

    with site(talk) as served:
        client = Raw(served)
        client.send(Opcode.TEXT, b"hi")
        assert client.next() is not None
        assert served.server is not None
        stopping = gevent.spawn(served.server.stop)
        assert client.code() == 1001
        client.send(Opcode.CLOSE, close_payload(1001))
        stopping.join()
        assert served.results == [1001]


def test_greenlets_may_send_while_one_receives() -> None:
    def talk(ws: WebSocket) -> None:
        senders = [gevent.spawn(lambda n=n: [ws.send(f"{n}" * 20_000) for _ in range(20)]) for n in range(5)]
        assert ws.receive() == "enough"
        gevent.joinall(senders, raise_error=True)

    def read() -> set[Any]:
        with served.client() as ws:
            got = [ws.recv(timeout=10) for _ in range(100)]
            ws.send("enough")
            return set(got)

    with site(talk) as served:
        assert in_thread(read) == {f"{n}" * 20_000 for n in range(5)}


def test_a_burst_of_messages_and_pings_is_answered_in_order() -> None:
    """Answers to short messages are written together, and long ones without being joined to anything."""
    sizes = [125, 0, 70_000, 3, 126, 20_000, 65_535, 65_536, 1, 200_000, 16_383, 16_384, 9, 1 << 20, 5] * 3

    with site(echo) as served:
        client = Raw(served)
        burst = b""
        for number, size in enumerate(sizes):
            burst += encode_frame(Frame(Opcode.BINARY, bytes([number]) * size), masked=True)
            burst += encode_frame(Frame(Opcode.PING, bytes([number])), masked=True)
        sending = gevent.spawn(client.sock.sendall, burst)
        pongs = []
        for number, size in enumerate(sizes):
            while (frame := client.next()) is not None and frame.opcode == Opcode.PONG:
                pongs.append(frame.data)
            assert frame is not None
            assert frame.data == bytes([number]) * size
        while len(pongs) < len(sizes) and (frame := client.next()) is not None:
            pongs.append(frame.data)
        assert pongs == [bytes([number]) for number in range(len(sizes))]
        sending.get()


def test_an_answer_is_written_while_the_application_waits_for_something_else() -> None:
    """It is kept because another message waits, but only until the greenlet of the application waits."""
    seen = gevent.event.Event()

    def talk(ws: WebSocket) -> str | bytes:
        first = ws.receive()
        ws.send(first)
        assert seen.wait(10)
        return ws.receive()

    with site(talk) as served:
        client = Raw(served)
        client.sock.sendall(b"".join(encode_frame(Frame(Opcode.TEXT, text), masked=True) for text in (b"one", b"two")))
        frame = client.next()
        assert frame is not None
        assert frame.data == b"one"
        seen.set()
        assert client.code() == 1000
        client.send(Opcode.CLOSE, close_payload(1000))
        until(lambda: served.results == ["two"])


def test_an_answer_comes_before_a_close_and_is_not_lost() -> None:
    def talk(ws: WebSocket) -> None:
        ws.send(ws.receive())
        ws.close(4001)

    with site(talk) as served:
        client = Raw(served)
        client.sock.sendall(b"".join(encode_frame(Frame(Opcode.TEXT, text), masked=True) for text in (b"one", b"two")))
        frame = client.next()
        assert frame is not None
        assert frame.data == b"one"
        assert client.code() == 4001


def test_only_one_greenlet_receives() -> None:
    def talk(ws: WebSocket) -> str:
        other = gevent.spawn(ws.receive)
        gevent.sleep(0)
        with pytest.raises(RuntimeError):
            ws.receive()
        return str(other.get())

    with site(talk) as served:
        client = Raw(served)
        client.send(Opcode.TEXT, b"once")
        until(lambda: served.results == ["once"])


def test_memory_is_bounded_while_an_application_sends_and_never_receives() -> None:
    def talk(ws: WebSocket) -> int:
        for _ in range(50):
            ws.send("tick")
            gevent.sleep(0.005)
        return int(ws._message is not None) + len(ws._frames)

    with site(talk) as served:
        client = Raw(served)
        client.sock.settimeout(0.2)
        flood = encode_frame(Frame(Opcode.TEXT, b"x" * 1000), masked=True) * 60
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                client.sock.sendall(flood)
                if served.results:
                    break
            else:
                pytest.fail("the server has taken everything")
            raise TimeoutError
        until(lambda: len(served.results) == 1)
        assert served.results[0] < 200


def test_a_client_that_sends_pings_without_end_does_not_keep_an_application_from_sending() -> None:
    class Flooded(ClosedTransport):
        """A transport from which something can be read at any time."""

        sent = b""
        pings = encode_frame(Frame(Opcode.PING, b""), masked=True) * 1000

        def recv(self, n: int, timeout: float | None) -> bytes:
            return self.pings[:n]

        def sendall(self, data: Any, timeout: float | None) -> None:
            self.sent += data

    flooded = Flooded(Lifeline(Ready()), "")
    ws = WebSocket(Connection(flooded, client="", server=""))
    with gevent.Timeout(10):
        ws.send("now")
    assert flooded.sent.endswith(b"\x81\x03now")


def test_clients_that_send_much_at_the_same_time_get_their_own_messages_back() -> None:
    """What is read of them comes into the same memory."""
    sizes = (0, 70_000, 1, 125, 4096, 126, 300_000, 16_383, 16_384, 65_535, 65_536, 1 << 20, 3)

    def talk(number: int) -> bool:
        sent = [(number * 1_000_003 + at).to_bytes(4) * (size // 4) + b"\1" * (size % 4) for at, size in enumerate(sizes)] * 3
        client = Raw(served)
        sending = gevent.spawn(client.sock.sendall, b"".join([encode_frame(Frame(Opcode.BINARY, data), masked=True) for data in sent]))
        received, content = [], b""
        while len(received) < len(sent):
            frame = client.next()
            assert frame is not None
            content += frame.data
            if frame.fin:
                received.append(content)
                content = b""
        sending.get()
        return received == sent

    with site(echo) as served, gevent.Timeout(60):
        talks = [gevent.spawn(talk, number) for number in range(4)]
        assert [each.get() for each in talks] == [True] * 4


@pytest.mark.parametrize("size", [10, 100_000])
def test_many_small_messages_behind_a_long_one_are_all_received(size: int) -> None:
    with site(echo) as served, gevent.Timeout(30):
        client = Raw(served)
        long = encode_frame(Frame(Opcode.BINARY, b"x" * size), masked=True)
        small = encode_frame(Frame(Opcode.TEXT, b"s"), masked=True)
        sending = gevent.spawn(client.sock.sendall, long * 2 + small * 30_000 + encode_frame(Frame(Opcode.TEXT, b"last"), masked=True))
        received = b""
        while not received.endswith(b"\x81\4last"):
            received += client.sock.recv(1 << 16)
        assert received.endswith(b"\x81\1s" * 30_000 + b"\x81\4last")
        sending.get()


def test_a_faulty_frame_behind_long_ones_ends_the_websocket_at_once() -> None:
    with site(echo) as served, gevent.Timeout(30):
        client = Raw(served)
        for _ in range(2):
            client.send(Opcode.BINARY, b"x" * 100_000)
            assert client.next() == Frame(Opcode.BINARY, b"x" * 100_000, from_client=False)
        client.sock.sendall(b"\x83\x80")
        assert client.code() == 1002


def test_a_refusal_reaches_flask_as_an_http_exception() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask(__name__)

    @app.get("/")
    def index() -> Any:
        accept(flask.request.environ)
        raise AssertionError("it was refused")

    server = muxwsgi.Server(app, ["127.0.0.1:0"])
    server.start()
    try:
        with gevent.Timeout(10), gevent.socket.create_connection(("127.0.0.1", int(server.addresses[0].rpartition(":")[2]))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 426 ")
    finally:
        server.stop(0)


def test_a_client_that_is_refused_by_the_package_sees_the_status() -> None:
    def talk() -> int:
        with pytest.raises(InvalidStatus) as refused:
            served.client(origin="https://elsewhere.example")
        return refused.value.response.status_code

    with site(echo) as served:
        assert in_thread(talk) == 403
