"""`Channels`: the admin process's streams to the workers, and questions on them (`server/answers.py`).

A worker whose event loop is blocked does not answer. The wait for it is bounded, and until its late answer has come it is not asked again.
"""

import logging
import socket
from collections.abc import Mapping
from typing import Any

import gevent
import gevent.event
import gevent.socket

from muxwsgi.server.answers import message, read_message
from muxwsgi.server.introductions import receive

__all__ = ["ANSWER_TIME", "Channels"]

log = logging.getLogger("muxwsgi.error")

#: Seconds for an answer.
ANSWER_TIME = 1.0


class Channel:
    """The stream to one worker."""

    def __init__(self, pid: int, stream: gevent.socket.socket) -> None:
        self.pid = pid
        self._stream = stream
        self._serial = 0
        self._waiting: dict[int, gevent.event.AsyncResult] = {}
        self._reader = gevent.spawn(self._read)
        self.ended = False

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; None if it does not come in time, or an earlier answer has not come yet."""
        if self._waiting or self.ended:
            return None
        self._serial += 1
        answer = self._waiting[self._serial] = gevent.event.AsyncResult()
        try:
            self._stream.sendall(message({**question, "serial": self._serial}))
        except OSError:
            self.close()
            return None
        found: dict[str, Any] | None = answer.wait(ANSWER_TIME)
        return found

    def _read(self) -> None:
        try:
            while (answer := read_message(self._stream)) is not None:
                waiting = self._waiting.pop(answer["serial"], None)
                if waiting is not None:
                    waiting.set(answer)
        except OSError:
            pass  # the worker has ended
        except ValueError:
            log.error("worker %d has written nonsense to the admin process", self.pid)
        self.close()

    def close(self) -> None:
        """Give the stream up. Idempotent."""
        self.ended = True
        self._stream.close()
        for waiting in self._waiting.values():
            waiting.set(None)


class Channels:
    """The streams to all workers. `introductions` is what the workers introduce themselves through."""

    def __init__(self, introductions: socket.socket) -> None:
        introductions.setblocking(False)
        self._introductions = gevent.socket.socket(
            introductions.family, introductions.type, introductions.proto, fileno=introductions.detach()
        )
        self._by_pid: dict[int, Channel] = {}

    def start(self) -> None:
        """Take the streams of workers, from now on."""
        gevent.spawn(self._receive)

    def _receive(self) -> None:
        while True:
            try:
                found = receive(self._introductions)
            except EOFError:
                return
            except OSError as error:
                log.error("a worker cannot be asked: %s", error.strerror)
                gevent.sleep(1)
                continue
            for pid in [pid for pid, channel in self._by_pid.items() if channel.ended]:
                del self._by_pid[pid]
            if found is not None:
                pid, stream = found
                stream.setblocking(False)
                self._by_pid[pid] = Channel(pid, gevent.socket.socket(stream.family, stream.type, stream.proto, fileno=stream.detach()))

    def ask(self, pid: int, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer of one worker; None without one."""
        channel = self._by_pid.get(pid)
        return None if channel is None else channel.ask(question)

    def ask_all(self, pids: list[int], question: Mapping[str, Any]) -> dict[int, dict[str, Any] | None]:
        """The answers of workers, which are asked at the same time."""
        asked = {pid: gevent.spawn(self.ask, pid, question) for pid in pids}
        gevent.joinall(list(asked.values()))
        return {pid: greenlet.value for pid, greenlet in asked.items()}
