"""The board that a master shares with its children, and the way by which its admin process gets a stream to each worker. With real forks."""

import os
import socket
from collections.abc import Callable
from contextlib import closing

from muxwsgi.observe.certificates import ROWS, CertificateRow
from muxwsgi.observe.metrics import OF_MASTER, ROUTES, SERVERS
from muxwsgi.server.board import BLOCK, Board
from muxwsgi.server.introductions import Introductions, receive


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in a forked process. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def ended_well(*pids: int) -> bool:
    return all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)


def test_workers_that_start_together_give_a_route_one_row() -> None:
    board = Board()
    names = [f"route {number}" for number in range(10)]
    assert ended_well(*(in_child(lambda turn=turn: [board.row_of(name) for name in names[turn:] + names[:turn]]) for turn in range(8)))
    assert board.routes()[0] == "undecided"
    assert sorted(board.routes()[1:]) == sorted(names)
    assert [board.routes()[board.row_of(name)] for name in names] == names


def test_routes_beyond_the_last_row_share_it_and_long_names_are_cut() -> None:
    board = Board()
    long = "ä" * 100
    assert board.row_of(long) == board.row_of(long) == 1
    assert board.routes()[1] == "ä" * 32
    assert [board.row_of(f"{number}") for number in range(40)][-1] == ROUTES - 1
    assert len(board.routes()) == ROUTES - 1


def test_what_an_operator_says_of_a_server_is_kept_by_its_row() -> None:
    board = Board()
    assert board.readiness("shop/a") == "" and not board.put_readiness("shop/a", "drain")
    assert ended_well(in_child(lambda: [board.server_row_of(name) for name in ("shop/a", "shop/b")]))
    assert board.servers() == ["shop/a", "shop/b"] and board.routes() == ["undecided"]
    assert ended_well(in_child(lambda: board.put_readiness("shop/b", "maint")))
    assert (board.readiness("shop/a"), board.readiness("shop/b")) == ("", "maint")
    assert board.said() == {"shop/b": "maint"}
    assert [board.server_row_of(f"{number}") for number in range(70)][-1] == SERVERS - 1
    assert not board.put_readiness("69", "drain")
    board.put_down(0, 4711)
    board.put_down(SERVERS - 1, 4712)  # the row that servers share
    assert board.down() == {"shop/a": 4711}
    board.put_down(0, 0)
    assert board.down() == {}


def test_the_words_of_the_master_and_its_report_are_seen_by_all() -> None:
    board = Board()
    board.put("muxwsgi_workers_wanted", 4)
    board.add("muxwsgi_reloads_total", 1)
    assert ended_well(in_child(lambda: board.put("muxwsgi_draining", 1)))
    words = board.words()
    assert set(words) == {metric.name for metric in OF_MASTER}
    assert (words["muxwsgi_workers_wanted"], words["muxwsgi_reloads_total"], words["muxwsgi_draining"]) == ([4], [0, 1], [1])
    board.report(17, "GET '/x' from 192.0.2.1\n" + "x" * 20000)
    assert board.reported(18) is None
    assert (board.reported(17) or "").startswith("GET '/x' from 192.0.2.1\nxx")
    board.report(18, "short")
    assert (board.reported(17), board.reported(18)) == (None, "short")
    assert board.log_level == 0
    board.log_level = 10
    assert board.log_level == 10


def test_certificates_are_those_that_were_put_last_and_a_torn_row_is_left_out() -> None:
    board = Board()
    assert board.certificates() == []
    rows = [CertificateRow(f"[::1]:{number}", "ä" * 100, 2_000_000_000 + number) for number in range(ROWS + 5)]
    assert ended_well(in_child(lambda: board.put_certificates(rows)))
    assert board.certificates() == [row._replace(name="ä" * 64) for row in rows[:ROWS]]
    last = [CertificateRow("unix:" + "x" * 200, "a.example", -1), CertificateRow("proxy CA", "", 1 << 40)]
    board.put_certificates(last)
    assert board.certificates() == [CertificateRow(("unix:" + "x" * 200)[:112], "a.example", -1), last[1]]
    board._map[-ROWS * 256 + 20] ^= 1
    assert board.certificates() == [last[1]]


def test_each_worker_introduces_itself_also_before_the_admin_process_listens() -> None:
    introductions = Introductions()

    def work() -> None:
        introductions.in_worker()
        stream = introductions.introduce()
        assert stream is not None
        assert stream.recv(10) == b"question"
        stream.sendall(b"answer")

    pids = [in_child(work), in_child(work)]
    admin = introductions.in_admin()
    found = dict(filter(None, (receive(admin) for _ in pids)))
    assert set(found) == set(pids)
    for stream in found.values():
        with closing(stream):
            stream.sendall(b"question")
            assert stream.recv(10) == b"answer"
    assert ended_well(*pids)


def test_introductions_that_nobody_takes_are_bounded() -> None:
    introductions = Introductions()
    introductions.in_worker()
    made: list[socket.socket] = []
    while (stream := introductions.introduce()) is not None:
        made.append(stream)
        assert len(made) < 10_000
    for stream in made:
        stream.close()
    introductions.close()


def test_workers_get_different_numbers_and_the_first_ones_are_small() -> None:
    board = Board()
    reading, writing = os.pipe()

    def work() -> None:
        numbers = board.numbers("flows")
        own = [next(numbers) for _ in range(2 * BLOCK + 1)]
        assert own == sorted(own)
        os.write(writing, f"{own[0]} {own[BLOCK]} {own[-1]}\n".encode())

    assert next(board.numbers("flows")) == 1 and next(board.numbers("sessions")) == 1
    assert ended_well(*(in_child(work) for _ in range(4)))
    os.close(writing)
    with open(reading) as stream:
        starts = [int(number) for number in stream.read().split()]
    assert sorted(starts) == [1 + BLOCK * block for block in range(1, 13)]
