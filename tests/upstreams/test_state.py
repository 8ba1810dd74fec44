"""Up and down, by failures in a row; the slow start, with a clock that the test turns."""

import pytest

from muxwsgi.upstreams.state import Counts, Readiness, ServerState

from .servers import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> ServerState:
    return ServerState(clock, Counts())


def test_fall_and_rise_count_in_a_row_from_the_start(state: ServerState) -> None:
    assert [state.note_check("no answer", 2, 3) for _ in range(2)] == [False, False]
    assert not state.note_check(None, 2, 3)
    assert [state.note_check("no answer", 2, 3) for _ in range(3)] == [False, False, True]
    assert not state.up
    assert not state.note_check(None, 2, 3)
    assert not state.note_check("no answer", 2, 3)
    assert [state.note_check(None, 2, 3) for _ in range(2)] == [False, True]
    assert state.up and state.counts.downs == 1


def test_failures_of_connections_count_one_after_the_other(state: ServerState, clock: Clock) -> None:
    outcomes = []
    for _ in range(3):
        clock.now += 1
        outcomes.append(state.note_failure("refused", clock(), 3))
    assert outcomes == [False, False, True]
    assert state.last_failure == "refused"


def test_a_burst_of_failures_is_one_observation(state: ServerState, clock: Clock) -> None:
    began = clock()
    clock.now += 5
    assert not any(state.note_failure("no answer", began, 2) for _ in range(1000))
    assert state.failures == 1
    assert state.note_failure("no answer", clock() + 1, 2)


def test_a_connection_that_works_begins_the_count_anew(state: ServerState, clock: Clock) -> None:
    for _ in range(10):
        clock.now += 1
        assert not state.note_failure("refused", clock(), 2)
        state.note_success()
    assert state.up


def test_connections_that_work_do_not_hide_that_checks_fail(state: ServerState) -> None:
    outcomes = []
    for _ in range(3):
        outcomes.append(state.note_check("wrong answer", 2, 3))
        state.note_success()
    assert outcomes == [False, False, True]


def test_what_was_begun_before_a_server_went_down_changes_nothing_more(state: ServerState, clock: Clock) -> None:
    assert state.note_failure("refused", clock(), 1)
    clock.now += 1
    assert not state.note_failure("refused", clock(), 1)
    state.note_success()
    assert not state.up and state.counts.downs == 1


def test_a_slow_start_begins_when_a_server_comes_up_again(state: ServerState, clock: Clock) -> None:
    assert state.risen(10) == 1.0  # not when the process begins
    state.note_check("x", 1, 1)
    state.note_check(None, 1, 1)
    assert state.risen(10) == 0.05
    clock.now += 5
    assert state.risen(10) == 0.5
    assert state.risen(0) == 1.0
    clock.now += 5
    assert state.risen(10) == 1.0


def test_the_operators_word_stands_beside_up_and_down(state: ServerState) -> None:
    assert state.set_readiness(Readiness.DRAIN)
    assert not state.set_readiness(Readiness.DRAIN)
    assert state.up
    state.note_check("x", 1, 1)
    assert state.set_readiness(Readiness.READY)
    assert not state.up
