"""An application that starts processes in every way that Python has, and tells what they found."""

import contextlib
import gc
import json
import multiprocessing
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
import gevent.os
import gevent.queue

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

fork = multiprocessing.get_context("fork")

lock = threading.Lock()


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/")
    if name == "rows":
        return rows(start_response)
    started = time.monotonic()
    result = globals()[f"view_{name}"](environ)
    body = json.dumps({"result": result, "pid": os.getpid(), "seconds": time.monotonic() - started}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def rows(start_response: "StartResponse") -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(25):
        yield b"row %d\n" % number
        time.sleep(0.02)


def note(text: str) -> None:
    with open(os.environ["NOTES"], "a") as file:
        file.write(text + "\n")


def view_hello(environ: "WSGIEnvironment") -> str:
    return "hello"


# multiprocessing


def square(number: int) -> int:
    time.sleep(0.05)
    return number * number


def put_squares(queue: Any, numbers: list[int]) -> None:
    for number in numbers:
        queue.put(square(number))


def view_process(environ: "WSGIEnvironment") -> list[int]:
    return processed(fork)


def view_spawn(environ: "WSGIEnvironment") -> list[int]:
    return processed(multiprocessing.get_context("spawn"))


def view_forkserver(environ: "WSGIEnvironment") -> list[int]:
    return processed(multiprocessing.get_context("forkserver"))


def processed(context: Any) -> list[int]:
    queue = context.Queue()
    process = context.Process(target=put_squares, args=(queue, [1, 2, 3]))
    process.start()
    found = [queue.get() for _ in range(3)]
    process.join()
    return [*found, process.exitcode]


def view_terminate(environ: "WSGIEnvironment") -> int:
    """At once: a signal that comes during the fork counts too."""
    process = fork.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(20)
    return process.exitcode


def view_pool(environ: "WSGIEnvironment") -> list[int]:
    with fork.Pool(2) as pool:
        return pool.map(square, [1, 2, 3, 4])


def view_executor(environ: "WSGIEnvironment") -> list[int]:
    with ProcessPoolExecutor(2, mp_context=fork) as executor:
        return list(executor.map(square, [1, 2, 3, 4]))


def view_pipe(environ: "WSGIEnvironment") -> int:
    """A child that answers late: whoever waits for it must not hold others up."""
    here, there = fork.Pipe()
    process = fork.Process(target=answer_late, args=(there,))
    process.start()
    found: int = here.recv()
    process.join()
    return found


def answer_late(there: Any) -> None:
    time.sleep(0.6)
    there.send(42)


def view_large_message(environ: "WSGIEnvironment") -> list[int]:
    """There and back, more than a pipe holds, and by a pair of sockets."""
    queue = fork.Queue()
    here, there = fork.Pipe()
    process = fork.Process(target=send_back, args=(there, queue))
    process.start()
    here.send(b"x" * 3_000_000)
    found = [len(queue.get()), len(here.recv())]
    process.join()
    return found


def send_back(there: Any, queue: Any) -> None:
    message = there.recv()
    queue.put(message)
    there.send(message)


def view_locks(environ: "WSGIEnvironment") -> list[int]:
    """Greenlets and a process that want the same lock and semaphore."""
    shared, value = fork.Lock(), fork.Value("i", 0)
    process = fork.Process(target=add, args=(shared, value))
    process.start()
    greenlets = [gevent.spawn(add, shared, value) for _ in range(3)]
    gevent.joinall(greenlets, raise_error=True)
    process.join()
    return [value.value, process.exitcode]


def add(shared: Any, value: Any) -> None:
    for _ in range(10):
        with shared:
            seen = value.value
            time.sleep(0.001)
            value.value = seen + 1


def view_manager(environ: "WSGIEnvironment") -> list[int]:
    with fork.Manager() as manager:
        shared = manager.list()
        process = fork.Process(target=shared.append, args=(7,))
        process.start()
        process.join()
        return list(shared)


def in_child(work: Callable[[], object], context: Any = fork) -> object:
    """What `work` returns in a forked child."""
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(work()))
    process.start()
    found = queue.get()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the child ended with {process.exitcode}")
    return found


def view_work_in_child(environ: "WSGIEnvironment") -> object:
    """Greenlets, threads, timers, processes and sockets of a child."""
    inherited, other_end = socket.socketpair()
    gevent.spawn(echo_upper, other_end)
    with lock:
        pass

    def work() -> object:
        thread = threading.Thread(target=time.sleep, args=(0.01,))
        thread.start()
        thread.join()
        with gevent.Timeout(5):
            gevent.joinall([gevent.spawn(gevent.sleep, 0.01) for _ in range(3)])
        with lock:
            pass
        inherited.sendall(b"ping")
        answer = inherited.recv(100)
        inherited.close()
        nested = in_child(lambda: os.getppid()) == os.getpid()
        pooled = gevent.get_hub().threadpool.apply(square, (3,))
        return [
            subprocess.check_output(["echo", "hi"]).decode(),
            answer.decode(),
            nested,
            pooled,
            socket.getaddrinfo("127.0.0.1", 80)[0][4][0],
        ]

    return in_child(work)


def echo_upper(sock: socket.socket) -> None:
    sock.sendall(sock.recv(100).upper())


def sockets() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{fd}")
            if link.startswith("socket:"):
                found.append(link)
    return sorted(found)


def view_sockets(environ: "WSGIEnvironment") -> object:
    """The sockets of the parent, and those that a child has."""
    return [sockets(), in_child(sockets)]


def view_connection_in_child(environ: "WSGIEnvironment") -> object:
    """What a child is told that reads or writes its parent's connection."""
    connection = environ["muxwsgi.connection"]

    def work() -> object:
        found = []
        for use in (lambda: connection.sendall(b"x" * 100), lambda: connection.recv(), lambda: connection.shutdown(socket.SHUT_RDWR)):
            try:
                use()
            except OSError as error:
                found.append(error.errno)
        connection.close()
        return found

    return in_child(work)


def view_input_in_child(environ: "WSGIEnvironment") -> object:
    """The child reads a body of which nothing has come yet; then the parent does."""

    def work() -> object:
        try:
            return environ["wsgi.input"].read(4).decode()
        except OSError as error:
            return error.errno

    child = in_child(work)
    return [child, environ["wsgi.input"].read(4).decode()]


def view_signals(environ: "WSGIEnvironment") -> object:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    return in_child(lambda: [str(signal.getsignal(number)) for number in numbers] + [sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))])


def view_application_signals(environ: "WSGIEnvironment") -> object:
    """Which of the application's handlers run here and in a child: gevent's, Python's, and gevent's again, taken in the child."""
    seen: list[str] = []
    by_gevent = gevent.signal_handler(signal.SIGUSR2, seen.append, "usr2")
    signal.signal(signal.SIGWINCH, lambda number, frame: seen.append("winch"))

    def work() -> object:
        seen.clear()
        before = str(signal.getsignal(signal.SIGUSR2)), caught(signal.SIGUSR2)
        again = gevent.signal_handler(signal.SIGUSR2, seen.append, "usr2 again")
        os.kill(os.getpid(), signal.SIGWINCH)
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.1)
        again.cancel()
        return [*before, *sorted(seen)]

    try:
        child = in_child(work)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGWINCH)
        time.sleep(0.1)
        return [sorted(seen), child]
    finally:
        by_gevent.cancel()
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)


def caught(number: int) -> bool:
    """As the kernel has it."""
    with open("/proc/self/status") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


# os.fork


def view_fork_and_exit(environ: "WSGIEnvironment") -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.05)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def view_fork_and_sys_exit(environ: "WSGIEnvironment") -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.05)
        sys.exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def view_fork_and_raise(environ: "WSGIEnvironment") -> int:
    pid = os.fork()
    if pid == 0:
        raise LookupError("raised in the child")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def view_fork_and_return(environ: "WSGIEnvironment") -> object:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.05)
        return "a child's answer"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def view_fork_and_stream(environ: "WSGIEnvironment") -> object:
    """In the child the rest of the response is made, and goes nowhere."""
    pid = os.fork()
    if pid == 0:
        environ["muxwsgi.response"].start_response("200 OK", [])
        return environ["muxwsgi.response"].send(rows(lambda status, headers: None))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def view_fork_in_greenlet(environ: "WSGIEnvironment") -> int:
    def fork_there() -> int:
        pid = os.fork()
        if pid == 0:
            sys.exit(9)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    found: int = gevent.spawn(fork_there).get()
    return found


def view_fork_in_thread(environ: "WSGIEnvironment") -> int:
    """In a thread of the kernel. gevent waits for children in the main thread only, so a pipe tells what the child found."""
    from_child, to_parent = os.pipe()

    def fork_there() -> None:
        if gevent.os.fork_gevent() == 0:
            os.write(to_parent, b"%d" % len(sockets()))
            os._exit(0)

    gevent.get_hub().threadpool.apply(fork_there)
    os.close(to_parent)
    gevent.socket.wait_read(from_child)
    with open(from_child) as file:
        return int(file.read())


def view_fork_in_loop(environ: "WSGIEnvironment") -> object:
    """By a callback of the event loop."""
    started: list[int] = []

    def fork_there() -> None:
        pid = os.fork()
        if pid:
            started.append(pid)

    gevent.get_hub().loop.run_callback(fork_there)
    while not started:
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(os.waitpid(started[0], 0)[1])


def view_fork_beside_others(environ: "WSGIEnvironment") -> int:
    """Another greenlet is asleep meanwhile, and must wake up in one process only."""
    sleeping = gevent.spawn(lambda: (time.sleep(0.2), note(f"woke up in {os.getpid()}")))
    pid = os.fork()
    if pid == 0:
        time.sleep(0.5)
        os._exit(0)
    os.waitpid(pid, 0)
    sleeping.join()
    return pid


def view_wake_others(environ: "WSGIEnvironment") -> object:
    """The child sets an event, puts into a queue, kills and forgets: greenlets of its parent sleep on."""
    event, queue = gevent.event.Event(), gevent.queue.Queue()

    def ends(name: str, wait: Callable[[], object]) -> None:
        try:
            wait()
        finally:
            note(f"{name} in {os.getpid()}")

    lock.acquire()
    forgotten = [gevent.spawn(ends, "event", event.wait), gevent.spawn(ends, "queue", queue.get), gevent.spawn(ends, "lock", lock.acquire)]
    killed = [gevent.spawn(ends, "killed", gevent.event.Event().wait)]
    gevent.sleep(0.01)

    def work() -> str:
        event.set()
        queue.put(1)
        lock.release()
        gevent.kill(killed[0])
        killed.clear()
        forgotten.clear()
        gc.collect()
        gevent.sleep(0.1)
        with lock:
            pass
        return gevent.spawn(lambda: "still here").get()

    found = in_child(work)
    event.set()
    queue.put(1)
    lock.release()
    gevent.killall(killed)
    gevent.joinall(forgotten)
    lock.release()
    return found


def view_pty(environ: "WSGIEnvironment") -> object:
    """A child with a terminal, which sleeps in its own loop."""
    pid, terminal = pty.fork()
    if pid == 0:
        time.sleep(0.05)
        os.write(1, b"%d sockets" % len(sockets()))
        os._exit(0)
    gevent.socket.wait_read(terminal)
    found = os.read(terminal, 100)
    os.close(terminal)
    return found.decode()


def view_orphan(environ: "WSGIEnvironment") -> int:
    """A child that stays."""
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    return pid


# without a fork by Python


def view_subprocess(environ: "WSGIEnvironment") -> object:
    return [
        subprocess.check_output(["echo", "hi"]).decode(),
        subprocess.run(["sh", "-c", "exit 3"]).returncode,
        subprocess.run(["sleep", "60"], preexec_fn=lambda: os.kill(os.getpid(), signal.SIGTERM)).returncode,
    ]


def view_posix_spawn(environ: "WSGIEnvironment") -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit $(ls -l /proc/self/fd | grep -c socket:)"], dict(os.environ))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
