"""When the admin process calls the service ready: what it reads in shared memory."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from muxwsgi.admin import status as status_module
from muxwsgi.admin.status import DEAF_AFTER, Status
from muxwsgi.server.board import Board
from muxwsgi.server.page import Entry, SharedPage, State


class Service(SimpleNamespace):
    """Two workers that serve, and the time since their event loops ran."""

    entries: list[Entry]
    status: Status

    def unready(self, monkeypatch: pytest.MonkeyPatch, after: float = 0.0) -> list[str]:
        """What is said so many seconds after the last heartbeat of the first worker."""
        last = self.entries[0].heartbeat
        assert last is not None
        monkeypatch.setattr(status_module, "monotonic", lambda: last + after)
        return self.status.unready()


@pytest.fixture
def service() -> Iterator[Service]:
    page, board = SharedPage(entries=4), Board()
    board.put("muxwsgi_workers_wanted", 2)
    channels: Any = None
    entries = [page.take(number, 1) for number in range(2)]
    for pid, entry in enumerate(entries, 100):
        entry.pid, entry.state = pid, State.SERVING
        entry.beat()
    yield Service(entries=entries, status=Status(page, board, channels, {}))
    page.close()


def test_a_worker_that_is_late_leaves_the_service_ready_if_another_one_runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.unready(monkeypatch) == []
    words = service.entries[1]._words
    words[service.entries[1]._at + 8] -= int((DEAF_AFTER + 1) * 1e9)  # its heartbeat
    assert service.unready(monkeypatch) == []
    assert service.unready(monkeypatch, DEAF_AFTER + 1) == ["0 of 2 workers are ready"]


@pytest.mark.parametrize("state", [State.BLOCKED, State.BOOTING, State.RETIRING, State.ENDING])
def test_a_worker_that_does_not_serve_is_missing(service: Service, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    service.entries[1].state = state
    assert service.unready(monkeypatch) == ["1 of 2 workers are ready"]
    service.entries[1].state = State.LEAVING
    assert service.unready(monkeypatch) == []
