"""The server against the client of the `h2` package: whatever is asked, in whatever order, and however the bytes are cut."""

from typing import Any

import gevent
import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.http.h2.h2 import HTTP2
from muxwsgi.settings import HTTP2Settings, HTTPSettings
from muxwsgi.testing import connection_pair

SIZES = st.sampled_from([0, 1, 100, 16384, 16385, 70_000])
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "method": st.sampled_from(["GET", "POST", "PUT", "HEAD"]),
            "up": SIZES,
            "down": SIZES,
            "pieces": st.integers(1, 4),
            "wait": st.booleans(),
            "stated": st.booleans(),
            "trailers": st.booleans(),
            "extra": st.dictionaries(st.sampled_from(["x-a", "x-b", "cookie", "accept"]), st.text("abc=;é ", max_size=20).map(str.strip), max_size=4),
        }
    ),
    min_size=1,
    max_size=6,
)


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Sends back the number of bytes that came, and as many as it is asked for, as it is asked to."""
    count = len(environ["wsgi.input"].read())
    down, pieces, wait, stated, trailers = map(int, environ["QUERY_STRING"].split(","))
    fields = [("X-Count", str(count)), ("X-Extra", environ.get("HTTP_X_A", "-"))]
    if stated:
        fields.append(("Content-Length", str(down)))
    elif trailers:
        environ["muxwsgi.response"].trailers = [("X-End", "yes")]
    start_response("200 OK", fields)
    if pieces == 1 and not wait:
        return [bytes(down)]
    return streamed(down, pieces, wait)


def streamed(down: int, pieces: int, wait: int) -> Any:
    for number in range(pieces):
        if wait:
            gevent.sleep(0)
        yield bytes(down * (number + 1) // pieces - down * number // pieces)


class Exchange:
    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.left = request["up"] if request["method"] in ("POST", "PUT") else 0
        self.fields: dict[str, str] = {}
        self.received = 0
        self.trailers: Any = None
        self.ended = False


@settings(max_examples=40, deadline=None)
@given(REQUESTS, st.lists(st.integers(1, 3000), max_size=20), st.sampled_from([0, 4096, 65536]), st.sampled_from([4096, 65535, 1 << 20]))
def test_every_request_is_answered_in_full(requests: list[dict[str, Any]], cuts: list[int], table: int, window: int) -> None:
    server, client = connection_pair()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            HTTP2(application, HTTPSettings(linger=0.1), HTTP2Settings())(server)
        except BaseException as error:
            failures.append(error)
        finally:
            server.finish()

    serving = gevent.spawn(serve)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
    peer.initiate_connection()
    peer.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: table, h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    exchanges: dict[int, Exchange] = {}
    for request in requests:
        number = peer.get_next_available_stream_id()
        each = exchanges[number] = Exchange(request)
        how = [request["down"], request["pieces"], *(int(request[key]) for key in ("wait", "stated", "trailers"))]
        fields = [(":method", request["method"]), (":scheme", "http"), (":authority", "a"), (":path", "/?" + ",".join(map(str, how)))]
        if each.left and request["stated"]:
            fields.append(("content-length", str(each.left)))
        fields += request["extra"].items()  # which the package encodes as UTF-8
        peer.send_headers(number, fields, end_stream=not each.left)

    def speak() -> None:
        for number, each in exchanges.items():
            while each.left and (room := min(each.left, peer.local_flow_control_window(number), peer.max_outbound_frame_size)) > 0:
                each.left -= room
                peer.send_data(number, bytes(room), end_stream=not each.left)
        data = peer.data_to_send()
        while data:
            size = cuts.pop() if cuts else len(data)
            client.sendall(data[:size])
            data = data[size:]
            gevent.sleep(0)

    with gevent.Timeout(60):
        speak()
        while not all(each.ended for each in exchanges.values()):
            received = client.recv()
            assert received, failures
            for event in peer.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    exchanges[event.stream_id].fields = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    exchanges[event.stream_id].received += len(event.data)
                    peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    exchanges[event.stream_id].trailers = dict(event.headers)
                elif isinstance(event, h2.events.StreamEnded):
                    exchanges[event.stream_id].ended = True
                assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event
            speak()
        peer.close_connection()
        client.sendall(peer.data_to_send())
        client.finish()
        serving.join()
    assert not failures
    for each in exchanges.values():
        request = each.request
        assert each.fields[":status"] == "200"
        assert each.fields["x-count"] == str(request["up"] if request["method"] in ("POST", "PUT") else 0)
        assert each.fields["x-extra"] == request["extra"].get("x-a", "-").encode().decode("latin-1")
        head = request["method"] == "HEAD"
        assert each.received == (0 if head else request["down"])
        assert each.trailers == ({"x-end": "yes"} if request["trailers"] and not request["stated"] and not head else None)
