"""Nobody gets what is another's. Any clients, any requests, any framing and cuts, servers and clients that break off where they like:
each client reads answers to its own requests, in their order, whole or visibly cut."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxwsgi.proxy.proxy import Proxy
from tests.proxy.accounts import clean_process, frozen_heap, settle  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import Road, field, read_answer, read_chunks, read_exactly

pytestmark = pytest.mark.usefixtures("clean_process")


@dataclass(frozen=True)
class Plan:
    """One exchange.

    size        bytes of the request's body, -1 for none
    chunked     the request's framing
    answer      framing of the response: length, chunks or close
    length      bytes of the response's body
    cut         where the server breaks off, in bytes of the response; None for nowhere
    keep        whether the server keeps the connection
    surplus     what it sends beyond its response
    piece       bytes that either side sends at once
    early       whether the server answers before it reads the body
    """

    size: int
    chunked: bool
    answer: str
    length: int
    cut: int | None
    keep: bool
    surplus: bool
    piece: int
    early: bool


plans = st.builds(
    Plan,
    size=st.sampled_from([-1, 0, 1, 500, 70_000]),
    chunked=st.booleans(),
    answer=st.sampled_from(["length", "length", "chunks", "close"]),
    length=st.sampled_from([0, 1, 300, 5000, 70_000]),
    cut=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 80_000)),
    keep=st.booleans(),
    surplus=st.sampled_from([False, False, False, True]),
    piece=st.sampled_from([1000, 7, 333, 100_000]),
    early=st.sampled_from([False, False, False, True]),
)

#: What one client does: its exchanges, whether it sends them all at once, and after how many bytes of answers it leaves.
clients = st.tuples(st.lists(plans, min_size=1, max_size=5), st.booleans(), st.one_of(st.none(), st.none(), st.integers(0, 2000)))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    size = max(size, len(data) // 50)  # a cut here and there is enough
    for at in range(0, len(data), size):
        yield data[at : at + size]


def body_of(mark: bytes, length: int) -> bytes:
    """`length` bytes, each of which tells whose they are."""
    return (mark * (length // len(mark) + 1))[:length]


def request(road: Road, mark: str, plan: Plan) -> bytes:
    fields = [f"X-Mark: {mark}"]
    body = body_of(mark.encode(), max(plan.size, 0))
    if plan.size >= 0:
        fields.append("Transfer-Encoding: chunked" if plan.chunked else f"Content-Length: {plan.size}")
        if plan.chunked:
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, 9000)) + b"0\r\n\r\n"
    return road.request(f"/{mark}", *fields, method="GET" if plan.size < 0 else "POST") + body


def response(mark: bytes, plan: Plan) -> bytes:
    body = body_of(mark, plan.length)
    head = b"HTTP/1.1 200 OK\r\nX-Mark: %b\r\n" % mark
    if not plan.keep:
        head += b"Connection: close\r\n"
    if plan.answer == "length":
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if plan.answer == "close":
        return head + b"\r\n" + body
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces(body, 4000)) + b"0\r\n\r\n"


class Server:
    """Answers by the plan of the request's mark."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        self.faults: list[str] = []

    def __call__(self, sock: Any) -> None:
        while head := read_head(sock):
            if not head.endswith(b"\r\n\r\n"):
                return
            (mark,) = field(head, "X-Mark")
            plan = self.plans[mark]
            if not plan.early:
                try:
                    body = read_chunks(sock)[0] if plan.chunked and plan.size >= 0 else read_exactly(sock, max(plan.size, 0))
                except EOFError:
                    return  # its client has left
                if body != body_of(mark.encode(), max(plan.size, 0)):
                    self.faults.append(f"{mark} came with another body")
            data = response(mark.encode(), plan)
            if plan.surplus and plan.answer != "close":
                data += b"HTTP/1.1 200 OK\r\nX-Mark: forged\r\nContent-Length: 6\r\n\r\nforged"
            if plan.cut is not None and plan.cut < len(data):
                sock.sendall(data[: plan.cut])
                return
            for piece in pieces(data, plan.piece):
                sock.sendall(piece)
                gevent.sleep(0)
            if not plan.keep or plan.answer == "close" or plan.early:
                return


def converse(road: Road, name: str, todo: list[Plan], at_once: bool, leaves_after: int | None) -> None:
    """One client's connection. Raises `AssertionError` for a byte that is not its own."""
    sock = road.client()
    marks = [f"{name}.{number};" for number in range(len(todo))]
    sending = None
    received = 0
    try:
        if at_once:
            everything = b"".join(request(road, mark, plan) for mark, plan in zip(marks, todo, strict=True))
            sending = gevent.spawn(send, sock, everything, todo[0].piece)
        for mark, plan in zip(marks, todo, strict=True):
            if not at_once:
                send(sock, request(road, mark, plan), plan.piece)
            if leaves_after is not None and received >= leaves_after:
                return
            try:
                answer = read_answer(sock)
            except (EOFError, ConnectionError):
                return  # cut, and visibly so
            if answer.status == 502:
                assert mark.partition(".")[0] and b"forged" not in answer.body
            else:
                assert answer.status == 200
                assert field(answer.head, "X-Mark") == [mark]
                whole = body_of(mark.encode(), plan.length)
                # A body that ends with its connection has no other end: a cut of it is invisible to everybody.
                assert answer.body == whole or (plan.answer == "close" and whole.startswith(answer.body))
            received += len(answer.body)
            if field(answer.head, "Connection") == ["close"]:
                return
    finally:
        if sending is not None:
            sending.kill()
        sock.close()


def send(sock: Any, data: bytes, piece: int) -> None:
    try:
        for part in pieces(data, piece):
            sock.sendall(part)
            gevent.sleep(0)
    except OSError:
        pass  # what was answered meanwhile is read


def meddle(proxy: Proxy) -> None:
    """Rules that read every other body whole, and change nothing."""

    def is_chosen(message: Any, ctx: Any) -> bool:
        return len(ctx.request.headers["X-Mark"]) % 2 == 0 or ctx.request.headers["X-Mark"][-2] in "02"

    proxy.on_request(is_chosen).do(lambda request, ctx: setattr(ctx, "user_data", {"body": request.get_data()}))
    proxy.on_response(is_chosen).do(lambda response, ctx: setattr(ctx, "user_data", {"body": response.get_data()}))


def check(lab: Lab, way: str, rules: bool, everybody: list[tuple[list[Plan], bool, int | None]]) -> None:
    servers = [Server(), Server()]
    tls = way == "tls"
    ports = [lab.serve_raw(server, tls=tls) for server in servers]
    roads = [Road(lab, way, ports[0])]
    if rules:
        meddle(roads[0].proxy)
    roads.append(Road(lab, "plain" if way == "plain" else "more", ports[1], proxy=roads[0].proxy))
    roads[1].port, roads[1].way = roads[0].port, way
    roads[1].authority = roads[0].authority.rpartition(":")[0] + f":{ports[1]}"
    talking = []
    for number, (todo, at_once, leaves_after) in enumerate(everybody):
        which = number % 2
        for at, plan in enumerate(todo):
            servers[which].plans[f"c{number}.{at};"] = plan
        talking.append(gevent.spawn(converse, roads[which], f"c{number}", todo, at_once, leaves_after))
    gevent.joinall(talking, timeout=30)
    for greenlet in talking:
        greenlet.get(block=False)
    assert [server.faults for server in servers] == [[], []]
    settle(lab)
    assert sorted({flow.id for flow in lab.flows}) == sorted(flow.id for flow in lab.flows)


@pytest.mark.parametrize(("way", "rules", "examples"), [("plain", False, 40), ("plain", True, 40), ("tunnel", False, 15), ("tls", False, 15)])
def test_every_client_reads_answers_to_its_own_requests_in_order_whole_or_visibly_cut(
    way: str, rules: bool, examples: int, authority: Any, make_certificate: Any
) -> None:
    certificate = make_certificate()

    @settings(max_examples=examples, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))
    @given(everybody=st.lists(clients, min_size=2, max_size=6))
    def run(everybody: list[tuple[list[Plan], bool, int | None]]) -> None:
        with ExitStack() as stack:
            check(Lab(stack, authority, certificate), way, rules, everybody)

    run()
