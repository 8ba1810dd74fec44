"""`Watched`: a worker's part in metrics and control: it writes its counters into shared memory, and answers the admin process."""

import logging
from typing import TYPE_CHECKING

from muxwsgi.server.health import Health
from muxwsgi.server.metrics import ServerMetrics
from muxwsgi.upstreams.state import Readiness

if TYPE_CHECKING:
    from muxwsgi.cli.workers import Role
    from muxwsgi.server.answers import Answers
    from muxwsgi.server.server import Server

__all__ = ["Watched", "health_of"]


def health_of(role: "Role") -> Health | None:
    """The health checks on the binds of the service; None if the options ask for none."""
    path = role.admin.health_path
    if path is None:
        return None
    board = role.board
    return Health(path, lambda: "draining" if board.get("muxwsgi_draining") else None)


class Watched:
    """Watches `server` for the master and its admin process. Does nothing if no option asks for it."""

    def __init__(self, role: "Role", server: "Server") -> None:
        """Counts from now on."""
        self._entry = role.worker.entry
        self._board = role.board
        self._server = server
        self._metrics: ServerMetrics | None = None
        self._answers: "Answers | None" = None
        self._down: dict[str, int] = {}
        if not role.admin.watched:
            role.introductions.close()
            return
        from muxwsgi.server.answers import Answers

        self._metrics = ServerMetrics(server, role.board.row_of, role.board.server_row_of)
        self._answers = Answers(server, role.introductions, _set_level)
        level = role.board.log_level
        if level:
            _set_level(logging.getLevelName(level))

    def start(self) -> None:
        """Write and answer from now on."""
        if self._metrics is not None and self._answers is not None:
            self._server.upstreams.begin_down(self._board.down())
            self._write(self._metrics.words())
            self._metrics.watch(self._write)
            self._answers.start()

    def stop(self) -> None:
        """Write the counters for the last time. The server has ended."""
        if self._metrics is not None and self._answers is not None:
            self._answers.stop()
            self._metrics.unwatch()
            self._entry.write(self._metrics.words())


    def _take_readiness(self) -> None:
        """Take what the operator said about servers of upstreams before this worker began, or before it could be asked."""
        for name, said in self._board.said().items():
            self._server.upstreams.set_readiness(name, Readiness(said))

    def _note_down(self) -> None:
        """Note which servers of upstreams this worker finds down, for those that start later."""
        down = self._server.upstreams.down()
        if down != self._down:
            for name in down.keys() | self._down.keys():
                self._board.put_down(self._board.server_row_of(name), down.get(name, 0))
            self._down = down

    def _write(self, words: list[int]) -> None:
        self._entry.write(words)
        self._take_readiness()
        self._note_down()
        if self._metrics is not None and self._server.accepting:  # certificates of the workers that serve, also after a reload that failed
            self._board.put_certificates(self._metrics.certificates())


def _set_level(level: str) -> None:
    """Set the level of the error log. Loggers that the operator's configuration of logging gives a level keep it."""
    logging.getLogger("muxwsgi").setLevel(level.upper())
