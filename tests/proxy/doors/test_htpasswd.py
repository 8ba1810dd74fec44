"""Password files as Apache's own program makes them, changing while they are in use."""

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.doors import htpasswd
from muxwsgi.proxy.doors.access import NotAdmitted
from muxwsgi.proxy.doors.htpasswd import Htpasswd
from tests.proxy.doors.conftest import Clock

#: Options of `htpasswd` by what they make. -C 4 is the cheapest that bcrypt has.
SCHEMES = {"bcrypt": "-B", "apr1": "-m", "sha1": "-s", "sha256": "-2", "sha512": "-5"}
CHEAP = ("-B", "-C", "4")


def line(user: str, password: str, *options: str) -> str:
    """A line as `htpasswd` prints it."""
    made = subprocess.run(["htpasswd", "-n", "-b", *(options or CHEAP), user, password], capture_output=True, text=True, check=True, timeout=30)
    return made.stdout.strip() + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("# the crew\n\n" + line("ann", "pass:word") + line("bob", "bob's"))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    logger = logging.getLogger("muxwsgi")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.propagate = propagate


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_htpasswd_makes_is_understood(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(line("jörg", "pass:wörd", SCHEMES[scheme]))
    users = Htpasswd(path)
    assert [users("jörg", said) for said in ("pass:wörd", "pass:word", "", "pass:wörd ")] == [True, False, False, False]
    assert not users("ann", "pass:wörd")


def test_bcrypt_looks_at_72_bytes_as_htpasswd_does(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(line("ann", "x" * 72))
    users = Htpasswd(path)
    assert users("ann", "x" * 80)
    assert not users("ann", "x" * 71)


def test_a_password_that_cannot_be_one_is_wrong(file: Path) -> None:
    users = Htpasswd(file)
    assert not users("ann", "pass:word\0")
    assert not users("ann", "x" * 100_000)
    assert users.checked == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("ann\n", "line 1: it is not USER:HASH"),
        ("\n:x\n", "line 2: it is not USER:HASH"),
        ("ann:secret\n", "line 1: the password of 'ann' is in an unknown scheme, or not hashed; make it with htpasswd -B"),
        ("ann:hHO58wOzRMQbs\n", "line 1: the password of 'ann' is in a scheme that is not supported: DES-crypt"),
        ("ann:$1$ab$qjXMvbEw8oaL.CzflDtaK/\n", "line 1: the password of 'ann' is in a scheme that is not supported: MD5-crypt"),
        ("ann:$y$j9T$secret\n", "line 1: the password of 'ann' is in a scheme that is not supported: yescrypt"),
        ("ann:$argon2id$v=19$secret\n", "line 1: the password of 'ann' is in a scheme that is not supported: Argon2"),
        ("ann:{SSHA}secret\n", "line 1: the password of 'ann' is in a scheme that is not supported: salted SHA-1"),
        ("ann:$2y$05$A74f5Rpy\n", "line 1: the password of 'ann' is broken: it begins like bcrypt"),
        ("ann:$apr1$vovaywlk\n", "line 1: the password of 'ann' is broken: it begins like apr1"),
        ("ann:{SHA}xx\n", "line 1: the password of 'ann' is broken: it begins like {SHA}"),
        ("ann:\n", "line 1: the password of 'ann'"),
        ("#\nann:{SHA}GpHWL3ymc5liWkNopqtdSjuqYHM=\nann:{SHA}GpHWL3ymc5liWkNopqtdSjuqYHM=\n", "line 3: user 'ann' appears twice"),
        (b"\xff:x\n", "line 1: it is not UTF-8"),
    ],
)
def test_a_broken_line_is_the_operators_error(content: str | bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OperatorError) as refused:
        Htpasswd(path)
    assert str(refused.value).startswith(f"htpasswd: {path}, {complaint}")
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"):
        Htpasswd(tmp_path / "users")


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "users").touch()
    assert not Htpasswd(tmp_path / "users")("ann", "")


def test_what_was_right_is_not_checked_again_for_a_while(file: Path, clock: Clock) -> None:
    users = Htpasswd(file, remember=300, clock=clock)
    for _ in range(5):
        assert users("ann", "pass:word")
    assert users.checked == 1
    assert not users("bob", "pass:word")
    clock.now += 301
    assert users("ann", "pass:word")
    assert users.checked == 3


def test_what_was_wrong_is_checked_each_time(file: Path) -> None:
    users = Htpasswd(file)
    assert [users("ann", "wrong"), users("ann", "wrong")] == [False, False]
    assert users.checked == 2


def test_somebody_unknown_costs_as_much_as_somebody_known(file: Path) -> None:
    users = Htpasswd(file)
    assert not users("eve", "pass:word")  # the password of who is compared with in her place
    assert users.checked == 1


def test_many_at_once_with_one_password_are_checked_once(file: Path) -> None:
    users = Htpasswd(file)
    asking = [gevent.spawn(users, "ann", "pass:word") for _ in range(50)]
    assert [greenlet.get() for greenlet in asking] == [True] * 50
    assert users.checked == 1


def test_who_goes_away_takes_nobodys_answer_along(file: Path) -> None:
    users = Htpasswd(file)
    first, second = gevent.spawn(users, "ann", "pass:word"), gevent.spawn(users, "ann", "pass:word")
    gevent.sleep(0)
    first.kill()
    assert second.get() is True


def test_the_hub_goes_on_while_a_password_is_checked(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(line("ann", "pass:word", "-B", "-C", "10"))
    users = Htpasswd(tmp_path / "users")
    turns = 0

    def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    turning = gevent.spawn(turn)
    assert users("ann", "pass:word")
    turning.kill()
    assert turns > 20


def test_a_flood_of_passwords_is_turned_away(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "WAITING", 5)
    users = Htpasswd(file)
    asking = [gevent.spawn(users, "ann", str(n)) for n in range(20)]
    for greenlet in asking:
        greenlet.join()
    assert [greenlet.value for greenlet in asking[:5]] == [False] * 5
    assert all(isinstance(greenlet.exception, NotAdmitted) and greenlet.exception.status == 503 for greenlet in asking[5:])
    assert users("ann", "pass:word")


def test_what_is_remembered_is_bounded_and_what_is_in_use_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "REMEMBERED", 2)
    file.write_text(file.read_text() + line("eve", "eve's"))
    users = Htpasswd(file)
    for user, password, checked in (("ann", "pass:word", 1), ("bob", "bob's", 2), ("ann", "pass:word", 2), ("eve", "eve's", 3), ("ann", "pass:word", 3), ("bob", "bob's", 4)):
        assert users(user, password)
        assert users.checked == checked


def test_a_changed_file_counts_within_a_second(file: Path, clock: Clock) -> None:
    users = Htpasswd(file, clock=clock)
    assert users("ann", "pass:word")
    file.write_text(line("ann", "another"))
    clock.now += 0.9
    assert users("ann", "pass:word")  # not looked at yet
    clock.now += 0.1
    assert not users("ann", "pass:word")
    assert users("ann", "another")
    assert not users("bob", "bob's")


def test_a_password_that_is_being_checked_when_the_file_changes_is_not_remembered(file: Path, clock: Clock) -> None:
    users = Htpasswd(file, clock=clock)
    first = gevent.spawn(users, "ann", "pass:word")
    gevent.sleep(0)
    gevent.sleep(0)  # it is in its thread now
    file.write_text(line("ann", "another"))
    clock.now += 1
    assert not users("ann", "pass:word")
    first.get()
    assert not users("ann", "pass:word")


def test_a_file_that_breaks_is_complained_about_once_and_what_it_said_goes_on(file: Path, clock: Clock, errors: Callable[[], list[str]]) -> None:
    users = Htpasswd(file, clock=clock)
    whole = file.read_text()
    for broken in (lambda: file.write_text(whole + "eve:plain\n"), lambda: os.unlink(file)):
        before = len(errors())
        broken()
        for _ in range(3):
            clock.now += 1
            assert users("ann", "pass:word")
        assert len(errors()) == before + 1
    assert "line 5: the password of 'eve'" in errors()[0]
    assert "No such file" in errors()[1]
    file.write_text(line("eve", "new"))
    clock.now += 1
    assert users("eve", "new")
    assert not users("ann", "pass:word")
