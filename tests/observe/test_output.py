"""Bytes on a descriptor that nobody may wait for."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.observe.output import Output

AT_MOST = 200_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["own description", "another user's pipe"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Output]]:
    """A pipe that somebody else shares, as standard output is: the reader's descriptor, and the output."""
    reader, writer = os.pipe()
    if request.param == "another user's pipe":

        def refused(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refused)
            output = Output(writer, shared=True, at_most=AT_MOST)
    else:
        output = Output(writer, shared=True, at_most=AT_MOST)
    yield reader, output
    output.close()
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def drained(reader: int, output: Output) -> bytes:
    """All that is written when somebody reads."""
    os.set_blocking(reader, False)
    data = b""
    while True:
        output.flush()
        try:
            data += os.read(reader, 1 << 20)
        except BlockingIOError:
            if not output.waiting:
                return data


def test_what_the_pipe_takes_is_in_it_when_write_returns(pipe: tuple[int, Output]) -> None:
    reader, output = pipe
    output.write(b"a line\n")
    assert not output.waiting
    assert os.read(reader, 100) == b"a line\n"


def test_what_it_does_not_take_waits_in_order_and_whole_and_the_rest_is_counted(pipe: tuple[int, Output]) -> None:
    reader, output = pipe
    lines = [b"%06d" % number + b"x" * 993 + b"\n" for number in range(500)]
    for line in lines:
        with contextlib.suppress(BlockingIOError):
            output.write(line)
    assert output.waiting and output.lost > 0
    received = drained(reader, output).splitlines(keepends=True)
    assert received == lines[: len(lines) - output.lost]
    assert len(received) * 1000 > AT_MOST
    output.write(b"again\n")
    assert drained(reader, output) == b"again\n"


def test_the_flags_of_a_shared_descriptor_stay_as_they_are(pipe: tuple[int, Output]) -> None:
    _, output = pipe
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            output.write(b"x" * 1000)
    assert os.get_blocking(output._fd)


def test_a_reader_that_is_gone_costs_what_waits_for_it_too(pipe: tuple[int, Output]) -> None:
    reader, output = pipe
    for _ in range(150):
        output.write(b"x" * 999 + b"\n")
    assert output.waiting
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        output.write(b"\n")
    assert not output.waiting and output.lost > 80


def test_a_terminal_that_was_stopped_holds_nobody_up() -> None:
    """As with Ctrl-S."""
    import termios

    primary, secondary = pty.openpty()
    termios.tcflow(secondary, termios.TCOOFF)
    output = Output(secondary, shared=True)
    for _ in range(100):
        output.write(b"x" * 1000)
    assert output.waiting
    output.close()
    os.close(primary)
    os.close(secondary)


def test_a_file_that_the_application_puts_in_its_place_is_followed_and_a_socket_is_not() -> None:
    import socket

    (first, writer), (second, other) = os.pipe(), os.pipe()
    output = Output(writer, shared=True)
    output.write(b"one")
    os.dup2(other, writer)
    output.write(b"two")
    client, server = socket.socketpair()
    os.dup2(server.fileno(), writer)  # the descriptor was closed, and a client's connection has got its number
    output.write(b"three")
    assert (os.read(first, 100), os.read(second, 100)) == (b"one", b"twothree")
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    output.close()
    client.close()
    server.close()
    for fd in (first, writer, second, other):
        os.close(fd)


def test_a_forked_child_writes_nothing_that_waited_in_its_parent() -> None:
    reader, writer = os.pipe()
    output = Output(writer, shared=True, at_most=AT_MOST)
    for _ in range(150):
        output.write(b"p" * 999 + b"\n")
    assert output.waiting
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if not output.waiting:
                output.write(b"of the child\n")
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    data = drained(reader, output)
    assert data.count(b"p") == 150 * 999, "once"
    output.close()
    os.close(reader)
    os.close(writer)


def test_threads_do_not_mix_their_lines() -> None:
    reader, writer = os.pipe()
    output = Output(writer, shared=True, at_most=1 << 30)

    def write(letter: bytes) -> None:
        for _ in range(300):
            output.write(letter * 4999 + b"\n")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    received = b""
    while len(received) < 3 * 300 * 5000:
        output.flush()
        received += os.read(reader, 65536)
    for thread in threads:
        thread.join()
    assert all(len(set(line)) == 1 and len(line) == 4999 for line in received.splitlines())
    output.close()
    os.close(reader)
    os.close(writer)


def test_half_a_line_on_a_full_disk_is_ended_before_the_next(tmp_path: object) -> None:
    import resource
    from pathlib import Path

    path = Path(str(tmp_path)) / "file"
    output = Output(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            output.write(b"0123456789abcdef\n")
        with pytest.raises(OSError, match="File too large"):
            output.write(b"lost\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    output.write(b"whole\n")
    assert path.read_bytes() == b"0123456789\nwhole\n"
    assert output.lost == 2
    output.close()


PRINTING_IN_A_HANDLER = """
import signal, sys
from muxwsgi.observe.standard_streams import take_streams

take_streams()
count = 0

def note(number, frame):
    global count
    count += 1
    sys.stderr.buffer.write(b"%d from the handler\\n" % count)

signal.signal(signal.SIGALRM, note)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
while count < 1000:
    sys.stderr.buffer.write(b"from the program\\n")
signal.setitimer(signal.ITIMER_REAL, 0)
sys.stderr.flush()
"""


def test_a_signal_handler_that_prints_in_the_middle_of_a_write_does_not_wait_for_it() -> None:
    """A destructor may do the same. With a lock that its own thread waits for, this never ends."""
    command = [sys.executable, "-c", PRINTING_IN_A_HANDLER]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=60, text=True, check=True)
    lines = ended.stderr.splitlines()
    assert {line for line in lines if "handler" not in line} == {"from the program"}
    handlers = [line for line in lines if "handler" in line]  # one handler may interrupt another, so their order is open
    assert len(handlers) >= 1000 and sorted(handlers) == sorted(f"{number} from the handler" for number in range(1, len(handlers) + 1))
