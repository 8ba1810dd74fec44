"""`Status`: what the admin process knows: of shared memory without waiting, and of workers by asking them."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any

from muxwsgi import __version__
from muxwsgi.admin.channels import Channels
from muxwsgi.build import BUILD
from muxwsgi.observe.exposition import Readings, values_of
from muxwsgi.observe.metrics import PLACES, WORDS
from muxwsgi.server.board import Board
from muxwsgi.server.page import Entry, SharedPage, State

__all__ = ["Status"]

#: Seconds without a heartbeat after which a worker does not count as ready.
DEAF_AFTER = 5.0

#: Connections in one answer at most.
CONNECTIONS = 1000

_STATES = [state.value for state in State]


@dataclass(frozen=True, slots=True)
class Worker:
    """What the shared page says of one worker."""

    entry: Entry
    pid: int
    number: int
    generation: int
    state: State
    started: float
    heartbeat: float | None

    @property
    def serves(self) -> bool:
        """Whether it accepts connections, as the master sees it, which knows after `timeout` seconds that an event loop is blocked."""
        return self.state in (State.SERVING, State.LEAVING)

    @property
    def is_ready(self) -> bool:
        """Whether it serves, and its event loop runs."""
        return self.serves and self.heartbeat is not None and monotonic() - self.heartbeat < DEAF_AFTER


class Status:
    """Reads and asks."""

    def __init__(self, page: SharedPage, board: Board, channels: Channels, configuration: Mapping[str, Any]) -> None:
        """`configuration` is shown as it is: the options that differ from their defaults."""
        self._page = page
        self._board = board
        self.channels = channels
        self._configuration = configuration

    # Without waiting

    def workers(self) -> list[Worker]:
        """The workers that live, by number and age."""
        found = [
            Worker(entry, entry.pid, entry.number, entry.generation, entry.state, entry.started, entry.heartbeat)
            for entry in self._page.entries()
            if entry.pid
        ]
        return sorted(found, key=lambda worker: (worker.number, worker.started))

    def unready(self) -> list[str]:
        """Why the service is not ready; empty if it is."""
        reasons = []
        if self._board.get("muxwsgi_draining"):
            reasons.append("draining")
        if self._board.get("muxwsgi_stopping"):
            reasons.append("stopping")
        wanted = self._board.get("muxwsgi_workers_wanted")
        workers = self.workers()
        # On an overloaded machine any worker may be late for a moment. Others get the new clients then.
        ready = len({worker.number for worker in workers if worker.serves}) if any(worker.is_ready for worker in workers) else 0
        if ready < max(wanted, 1):
            reasons.append(f"{ready} of {wanted} workers are ready")
        return reasons

    def readings(self) -> Readings:
        """The words of all processes."""
        workers = self.workers()
        master = self._board.words()
        states = [0] * len(_STATES)
        for worker in workers:
            states[_STATES.index(worker.state.value)] += 1
        master["muxwsgi_workers"] = states
        # Of two workers with one number, the younger one has taken the other's place.
        words = {worker.number: worker.entry.read() or [] for worker in workers}
        sums = self._page.totals()
        return Readings(
            workers=words,
            sums=sums + [0] * (WORDS - len(sums)),
            master=master,
            routes=self._board.routes(),
            servers=self._board.servers(),
            certificates=self._board.certificates(),
        )

    def summary(self) -> dict[str, Any]:
        """All of it but counters, as JSON."""
        now, board = monotonic(), self._board
        started = board.get("muxwsgi_start_time_seconds") / 1e6
        unready = self.unready()
        return {
            "version": __version__,
            "build": BUILD,
            "pid": os.getppid(),
            "started": started,
            "uptime": round(time() - started, 3),
            "generation": board.get("muxwsgi_generation"),
            "ready": not unready,
            "unready": unready,
            "workers_wanted": board.get("muxwsgi_workers_wanted"),
            "workers": [self._described(worker, now) for worker in self.workers()],
            "certificates": [
                {"bind": row.bind, "name": row.name, "not_after": datetime.fromtimestamp(row.not_after, UTC).isoformat()}
                for row in self._board.certificates()
            ],
            "configuration": self._configuration,
        }

    def _described(self, worker: Worker, now: float) -> dict[str, Any]:
        words = worker.entry.read() or [0] * WORDS
        return {
            "pid": worker.pid,
            "number": worker.number,
            "generation": worker.generation,
            "state": worker.state.value,
            "ready": worker.is_ready,
            "age": round(now - worker.started, 3),
            "heartbeat_age": None if worker.heartbeat is None else round(now - worker.heartbeat, 3),
            "connections": words[PLACES["muxwsgi_worker_connections"]],
            "requests": words[PLACES["muxwsgi_worker_requests"]],
            "memory": words[PLACES["muxwsgi_worker_resident_memory_bytes"]],
            "lag": words[PLACES["muxwsgi_worker_event_loop_lag_seconds"]] / 1e6,
            "blocked_by": self._board.reported(worker.pid) if worker.state is State.BLOCKED else None,
        }

    def counters(self) -> dict[str, Any]:
        """All metrics: of those without labels the value, of others a list of labels and values."""
        found: dict[str, Any] = {}
        for metric, values in values_of(self.readings()):
            labels = (*metric.labels, "worker") if metric.source == "each" else metric.labels
            if metric.buckets:
                ((_, words),) = values
                assert isinstance(words, tuple)
                found[metric.name] = {
                    "buckets": [[bound, word] for bound, word in zip((*metric.buckets, None), words[:-1], strict=True)],
                    "sum": words[-1] / metric.scale,
                }
            elif labels:
                found[metric.name] = [{"labels": dict(zip(labels, own, strict=True)), "value": value} for own, value in values]
            else:
                found[metric.name] = values[0][1]
        return found

    # By asking

    def ask_all(self, question: Mapping[str, Any]) -> dict[int, dict[str, Any] | None]:
        """The answers of all workers by pid, None of those that do not answer in time."""
        return self.channels.ask_all([worker.pid for worker in self.workers()], question)

    def connections(self, after: str, limit: int) -> dict[str, Any]:
        """A page of connections, in the order of pid and id. `after` is the last one of the page before, as `PID.ID`; "" for the first
        page. `next` is what to ask with for the next page, None if there is none. `unanswered` are pids of workers that are blocked."""
        pid_after, id_after = _numbers(after) if after else (0, 0)
        limit = max(1, min(limit, CONNECTIONS))
        found: list[dict[str, Any]] = []
        unanswered = []
        following = None
        for worker in sorted(self.workers(), key=lambda worker: worker.pid):
            if worker.pid < pid_after:
                continue
            last = id_after if worker.pid == pid_after else 0
            while following is None:
                left = limit - len(found)
                if not left:
                    following = f"{worker.pid}.{last}"
                    break
                answer = self.channels.ask(worker.pid, {"ask": "connections", "after": last, "limit": left})
                if answer is None or "error" in answer:
                    unanswered.append(worker.pid)
                    break
                for each in answer["connections"]:
                    last = each["id"]
                    found.append({**each, "id": f"{worker.pid}.{last}", "worker": worker.number})
                if not answer["more"]:
                    break
            if following is not None:
                break
        return {"connections": found, "next": following, "unanswered": unanswered}

    def close(self, connection: str) -> bool | None:
        """Cut the connection `PID.ID`. None if its worker does not answer."""
        pid, number = _numbers(connection)
        if pid not in [worker.pid for worker in self.workers()]:
            return False
        answer = self.channels.ask(pid, {"ask": "close", "id": number})
        return None if answer is None else bool(answer.get("closed"))

    def from_any(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer of the first worker that is ready, because all have the same. None without one."""
        for worker in self.workers():
            if worker.is_ready and (answer := self.channels.ask(worker.pid, question)) is not None:
                return {name: value for name, value in answer.items() if name != "serial"}
        return None

    # Acting

    def set_readiness(self, server: str, readiness: str) -> list[int] | None:
        """Set a server of an upstream to ready, drain or maint in all workers, also in those that start later. Returns pids of those that
        did not answer; None if there is no such server."""
        before = self._board.readiness(server)
        noted = self._board.put_readiness(server, readiness)  # first, because a worker that starts now is not asked
        answers = self.ask_all({"ask": "readiness", "server": server, "readiness": readiness})
        known = [answer.get("known") for answer in answers.values() if answer is not None]
        if not any(known) and (known or not noted):
            if noted:
                self._board.put_readiness(server, before)
            return None
        return [pid for pid, answer in answers.items() if answer is None]

    def drain(self, on: bool) -> None:
        """Let /readyz say that the service drains, or no more."""
        self._board.put("muxwsgi_draining", int(on))

    def set_log_level(self, level: int, name: str) -> list[int]:
        """Set the level of all workers, also of those that start later; 0: as configured. Returns pids of those that did not answer."""
        self._board.log_level = level
        return [pid for pid, answer in self.ask_all({"ask": "log_level", "level": name}).items() if answer is None]

    def tell_master(self, number: signal.Signals) -> None:
        """Send the master a signal."""
        os.kill(os.getppid(), number)


def _numbers(connection: str) -> tuple[int, int]:
    """The pid and the id of `PID.ID`. Raises `ValueError`."""
    pid, _, number = connection.partition(".")
    if not (pid.isascii() and pid.isdigit() and number.isascii() and number.isdigit() and len(connection) < 40):
        raise ValueError(f"{connection!r} is not the id of a connection, such as 4711.23")
    return int(pid), int(number)
