"""What is done again and again goes on, whatever happens to it once."""

import logging
from time import monotonic

import gevent
import pytest

from muxwsgi.errors import Expired
from muxwsgi.testing import connection_pair
from muxwsgi.wire.every import Every
from muxwsgi.wire.lifeline import Lifeline, sweep
from tests.waiting import until


def test_a_call_that_fails_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def call() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise MemoryError

    every = Every(0.001, call)
    every.start()
    every.start()
    assert every.running
    until(lambda: len(calls) >= 4)
    every.stop()
    every.stop()
    assert not every.running
    seen = len(calls)
    gevent.sleep(0.02)
    assert len(calls) == seen
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True, True]


def test_a_connection_that_cannot_be_swept_costs_no_other_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def bytes_received(self) -> int:
            raise RuntimeError("it was not thought of")

        bytes_sent = bytes_received

    first, _other_end = connection_pair()
    first.idle_timeout = 1.0
    first.lifeline.top = Broken()
    late, far = connection_pair()
    late.deadline = monotonic() - 1
    waiting = [gevent.spawn(first.recv, 1), gevent.spawn(late.recv, 1)]
    gevent.sleep(0)
    lines: list[Lifeline] = [first.lifeline, late.lifeline]
    sweep(lines, monotonic())
    for greenlet, error in zip(waiting, (RuntimeError, Expired), strict=True):
        with pytest.raises(error):
            greenlet.get(timeout=5)
    assert "cannot be swept" in caplog.text
    far.close()
