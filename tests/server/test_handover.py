"""Resting connections go from a worker that retires to one that serves: two servers in one event loop, as two workers of a master."""

import contextlib
import itertools
import os
import resource
import socket
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import gevent.os
import gevent.socket
import gevent.ssl
import pytest

import muxwsgi
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.handover_queue import LONGEST, HandoverQueue
from muxwsgi.server.heartbeat import Heartbeat
from muxwsgi.server.page import SharedPage
from muxwsgi.server.worker import Worker
from muxwsgi.settings import BindSettings, CertificateFiles, HTTPSettings, ServerSettings
from tests.waiting import until

REQUEST = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Process:
    """A server that is one worker, and what its events said."""

    def __init__(self, name: str, page: SharedPage, queue: HandoverQueue, listening: Iterable[Listening], settings: ServerSettings) -> None:
        self.name = name
        self.said: list[str] = []
        self.entry = page.take(0, 1)
        self.heartbeat = Heartbeat(self.entry)
        worker = Worker(0, -1, self.heartbeat, page, self.entry, queue, announces=False)
        own = [copy(each) for each in listening]
        for each in own:
            each.socket = each.socket.dup()
        self.server = muxwsgi.Server(self.answer, settings=settings, listening=own, worker=worker)
        self.server.events.subscribe(
            accepted=lambda connection: self.said.append("accepted"),
            handover=lambda connection, given: self.said.append("given" if given else "taken"),
            closed=lambda connection, error: self.said.append(f"closed after {connection.bytes_received} of {connection.client[1]}"),
        )
        self.server.start()
        self.ending: gevent.Greenlet[..., None] | None = None

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/keeps":
            environ["muxwsgi.connection"].data["kept"] = True
        if environ["PATH_INFO"] == "/slow":
            gevent.sleep(0.3)
        body = f"{self.name} {environ['REMOTE_ADDR']}:{environ.get('REMOTE_PORT')} {environ['SERVER_PORT']}".encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def retire(self) -> None:
        self.ending = gevent.spawn(self.server.stop, grace=True)

    def end(self) -> None:
        if self.ending is None:
            self.server.stop(0)
        else:
            self.server._cut_wanted = True
            self.ending.get(timeout=10)
        self.heartbeat.close()


class Workers:
    def __init__(self, binds: list[BindSettings], settings: ServerSettings) -> None:
        self.settings = settings
        self.page = SharedPage(entries=8)
        self.queue = HandoverQueue()
        self.listening = listen_on(binds, 128)
        self.all: list[Process] = []

    def start(self, name: str, *, binds: list[int] | None = None, **changed: Any) -> Process:
        listening = self.listening if binds is None else [self.listening[at] for at in binds]
        process = Process(name, self.page, self.queue, listening, replace(self.settings, **changed))
        self.all.append(process)
        return process

    def close(self) -> None:
        for process in self.all:
            process.end()
        for each in self.listening:
            each.close()
        self.queue.close()

    def connect(self, at: int = 0) -> "Client":
        return Client(self.listening[at])


class Client:
    """A client that keeps its connection."""

    def __init__(self, listening: Listening) -> None:
        family = gevent.socket.AF_UNIX if isinstance(listening.name, str) else gevent.socket.AF_INET
        self.sock = gevent.socket.socket(family)
        self.sock.settimeout(10)
        self.sock.connect(listening.name)
        self.head = b""

    def ask(self, path: bytes = b"") -> str:
        self.send(path)
        return self.answer()

    def send(self, path: bytes = b"") -> None:
        self.sock.sendall(REQUEST % path)

    def answer(self) -> str:
        """The name of the worker that answers."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(4096)
            assert more, "closed"
            data += more
        self.head, _, body = data.partition(b"\r\n\r\n")
        if self.sock.family != socket.AF_UNIX:
            assert body.split()[1:] == [b"127.0.0.1:%d" % self.sock.getsockname()[1], b"%d" % self.sock.getpeername()[1]]
        return body.split()[0].decode()

    def at_end(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def begin(*binds: BindSettings, **settings: Any) -> Workers:
        made.append(Workers(list(binds) or [BindSettings(host="127.0.0.1")], ServerSettings(**settings)))
        return made[-1]

    yield begin
    for workers in made:
        workers.close()


def test_a_resting_connection_goes_to_the_worker_that_serves_and_nobody_connects_again(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    clients = [workers.connect() for _ in range(20)]
    assert {client.ask() for client in clients} == {"old"}
    new = workers.start("new")
    old.retire()
    until(lambda: old.ending is not None and old.ending.dead)
    assert {client.ask() for client in clients} == {"new"}
    assert all(b"Connection: close" not in client.head for client in clients)
    assert old.said == ["accepted"] * 20 + ["given"] * 20 and new.said == ["taken"] * 20
    assert (new.entry.connections, new.entry.accepted) == (20, 20)
    port = clients[0].sock.getsockname()[1]
    for client in clients:
        client.close()
    until(lambda: len(new.said) == 40)
    assert f"closed after {2 * len(REQUEST % b'')} of {port}" in new.said, "the bytes of both"
    assert "accepted" not in new.said


def test_a_request_that_is_sent_at_that_moment_is_answered_once(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    clients = [workers.connect() for _ in range(50)]
    for client in clients:
        client.ask()
    workers.start("new")
    answered = []

    def go_on(client: Client) -> None:
        for turn in itertools.count():
            if turn >= 40 and "given" in old.said:
                return
            answered.append(client.ask())
            gevent.sleep(0)

    asking = [gevent.spawn(go_on, client) for client in clients]
    old.retire()
    gevent.joinall(asking, timeout=10, raise_error=True)
    assert all(task.ready() for task in asking), "no connection was given to the new worker"
    assert len(answered) >= 50 * 40 and set(answered) <= {"old", "new"}


def test_a_connection_that_is_handed_over_closes_when_it_would_have_closed(start: Callable[..., Workers]) -> None:
    workers = start(http=HTTPSettings(keep_alive=33))
    old = workers.start("old")
    client = workers.connect()
    client.ask()
    until(lambda: next(iter(old.server._lines)).promised)
    due = next(iter(old.server._lines)).deadline
    new = workers.start("new", http=HTTPSettings(keep_alive=99))
    old.retire()
    until(lambda: new.said and next(iter(new.server._lines)).promised)
    assert next(iter(new.server._lines)).deadline == pytest.approx(due, abs=0.1)
    next(iter(new.server._lines)).deadline = 1.0
    until(client.at_end)


def test_a_request_under_way_is_answered_by_the_worker_that_has_it(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    client = workers.connect()
    client.ask()
    client.send(b"slow")
    gevent.sleep(0.05)
    new = workers.start("new")
    old.retire()
    assert client.answer() == "old"
    until(lambda: new.said == ["taken"])
    assert client.ask() == "new"


def test_what_a_handler_keeps_of_a_connection_keeps_it_where_it_is(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    keeps, part = workers.connect(), workers.connect()
    assert keeps.ask(b"keeps") == "old"
    assert part.ask() == "old"
    part.sock.sendall((REQUEST % b"")[:20])  # a request under way
    gevent.sleep(0.05)
    new = workers.start("new")
    old.retire()
    gevent.sleep(1.2)  # they are told to close then
    part.sock.sendall((REQUEST % b"")[20:])
    for client in (keeps, part):
        assert (client.ask() if client is keeps else client.answer()) == "old"
        assert b"Connection: close" in client.head
    assert new.said == []


def test_tls_ends_by_grace(start: Callable[..., Workers], make_certificate: Callable[[], CertificateFiles]) -> None:
    workers = start(BindSettings(host="127.0.0.1", tls="optional", certificates=(make_certificate(),)))
    old = workers.start("old")
    plain, tls = workers.connect(), workers.connect()
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = gevent.ssl.CERT_NONE
    tls.sock = context.wrap_socket(tls.sock)
    assert plain.ask() == tls.ask() == "old"
    new = workers.start("new")
    old.retire()
    until(lambda: new.said == ["taken"])
    assert plain.ask() == "new"
    gevent.sleep(1.2)
    assert tls.ask() == "old" and b"Connection: close" in tls.head


def test_connections_of_a_bind_that_others_have_not_end_by_grace(start: Callable[..., Workers], tmp_path: Path) -> None:
    workers = start(BindSettings(host="127.0.0.1"), BindSettings(path=str(tmp_path / "socket")))
    old = workers.start("old")
    kept, gone = workers.connect(0), workers.connect(1)
    assert kept.ask() == gone.ask() == "old"
    new = workers.start("new", binds=[0])
    old.retire()
    until(lambda: new.said == ["taken"])
    assert kept.ask() == "new"
    gevent.sleep(1.2)
    assert gone.ask() == "old" and b"Connection: close" in gone.head
    assert new.said == ["taken"]


def test_unix_sockets_are_handed_over_too(start: Callable[..., Workers], tmp_path: Path) -> None:
    workers = start(BindSettings(path=str(tmp_path / "socket")))
    old = workers.start("old")
    client = workers.connect()
    assert client.ask() == "old"
    workers.start("new")
    old.retire()
    until(lambda: old.ending is not None and old.ending.dead)
    assert client.ask() == "new"


def test_without_another_worker_connections_end_by_grace(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    client = workers.connect()
    client.ask()
    old.retire()
    gevent.sleep(0.1)
    assert client.ask() == "old" and b"Connection: close" in client.head
    assert old.said[:1] == ["accepted"] and "given" not in old.said


def test_a_stop_hands_nothing_over(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    client = workers.connect()
    client.ask()
    new = workers.start("new")
    old.ending = gevent.spawn(old.server.stop)
    assert client.at_end()
    assert new.said == [] and "given" not in old.said


@pytest.mark.parametrize("grace", [True, False])
def test_workers_that_all_end_leave_nothing_in_the_queue(start: Callable[..., Workers], grace: bool) -> None:
    workers = start()
    first, second = workers.start("first"), workers.start("second")
    clients = [workers.connect() for _ in range(10)]
    for client in clients:
        client.ask()
    second.server._handover.stop()  # type: ignore[union-attr]  # it is about to end, and the first one does not know
    first.retire()
    until(lambda: first.ending is not None and first.ending.dead)
    second.ending = gevent.spawn(second.server.stop, grace=grace)
    if grace:
        gevent.sleep(0.1)
        assert {client.ask() for client in clients} == {"second"}
        assert all(b"Connection: close" in client.head for client in clients)
    assert all(client.at_end() for client in clients)
    until(lambda: second.ending is not None and second.ending.dead)
    assert workers.queue.get() is None


def test_what_no_other_worker_has_room_for_is_served_by_the_one_that_ends(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    clients = [workers.connect() for _ in range(4)]
    for client in clients:
        client.ask()
    new = workers.start("new", max_connections=3)
    old.retire()
    until(lambda: new.said.count("taken") == 3)
    assert not new.entry.accepts
    until(lambda: old.said.count("given") == 4 and "taken" in old.said)
    taken = {line.top.client[1] for line in new.server._lines}  # type: ignore[attr-defined,union-attr]
    (waiting,) = (client for client in clients if client.sock.getsockname()[1] not in taken)
    assert waiting.ask() == "old"
    assert {client.ask() for client in clients if client is not waiting} == {"new"}


def test_a_queue_that_is_full_is_tried_again(start: Callable[..., Workers]) -> None:
    workers = start()
    old = workers.start("old")
    clients = [workers.connect() for _ in range(20)]
    for client in clients:
        client.ask()
    new = workers.start("new")
    new.server._handover.stop()  # type: ignore[union-attr]
    filled = 0
    with contextlib.closing(socket.socket()) as other:
        while workers.queue.put(other.fileno(), b"x" * 4000):
            filled += 1
    old.retire()
    gevent.sleep(0.2)
    assert "given" not in old.said
    for _ in range(filled):
        entry = workers.queue.get()
        assert entry is not None
        os.close(entry[0])
    new.server._handover._receiver = gevent.spawn(new.server._handover._receive)  # type: ignore[union-attr]
    until(lambda: new.said == ["taken"] * 20)
    assert {client.ask() for client in clients} == {"new"}


@pytest.mark.parametrize("message", [b"nonsense", b"[]", b'{"client": "a"}', b'{"bind": 1, "client": "a", "server": "b", "new": 1}'])
def test_a_message_of_another_version_costs_its_connection_and_no_other(start: Callable[..., Workers], message: bytes) -> None:
    workers = start()
    old = workers.start("old")
    client = workers.connect()
    client.ask()
    new = workers.start("new")
    new.server._handover.stop()  # type: ignore[union-attr]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert workers.queue.put(theirs.fileno(), message)
    new.server._handover._receiver = gevent.spawn(new.server._handover._receive)  # type: ignore[union-attr]
    old.retire()
    until(lambda: new.said == ["taken"])
    assert client.ask() == "new"


def test_a_process_without_a_free_descriptor_leaves_the_queue_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = HandoverQueue()
    read_end, write_end = os.pipe()
    assert queue.put(read_end, b"first") and queue.put(write_end, b"second")
    assert not queue.put(read_end, b"x" * (LONGEST + 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            queue.get()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # A process that can open only one more takes one.
    gevent.sleep(0)
    free = os.dup(read_end)
    os.close(free)
    monkeypatch.setattr(os, "close", gevent.os.close)  # as in a worker
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        first = queue.get()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        monkeypatch.undo()
    second = queue.get()
    assert first is not None and second is not None and (first[1], second[1]) == (b"first", b"second")
    os.write(second[0], b"through both")
    assert os.read(first[0], 100) == b"through both"
    assert not os.get_inheritable(first[0])
    assert queue.get() is None
    for fd in (first[0], second[0], read_end, write_end):
        os.close(fd)
    queue.close()
