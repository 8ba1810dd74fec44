"""`muxwsgi.testing`: `feed`, the laws, and the fixtures. Whoever breaks a law is found, and by the test that is called like it."""

from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from muxwsgi import Connection, Match, OperatorError, hijack
from muxwsgi.cli.new_hijacker import package
from muxwsgi.mux.matchers import Matcher, prefix
from muxwsgi.testing import feed, pieces, verdicts
from muxwsgi.testing.laws import hijacker_laws, matcher_laws

YES, NO, MORE = Match.YES, Match.NO, Match.MORE


def broken(laws: type) -> set[str]:
    """The tests of the class that fail."""
    found = set()
    for name in dir(laws):
        if name.startswith("test_"):
            try:
                getattr(laws(), name)()
            except Exception:
                found.add(name)
    return found


@hijack(match=prefix(b"SAY "))
def say(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        while line := lines.readline(100):
            connection.sendall(line)


def test_pieces_are_whole_and_none_is_empty() -> None:
    assert pieces(b"abcdef", 2, 2, 0, 12, 6) == [b"ab", b"cde", b"f"]
    assert pieces(b"") == []


def test_a_hijacker_is_fed_through_its_matcher() -> None:
    assert feed(say, [b"S", b"AY hel", b"lo\n"]) == b"SAY hello\n"
    assert feed(say, b"no\n") == b""
    assert feed(lambda connection: connection.sendall(connection.recv()), b"whatever") == b"whatever"


def test_a_hijacker_that_takes_silence_is_given_it_at_once() -> None:
    @hijack(takes_silence=True)
    def greet(connection: Connection) -> None:
        connection.sendall(b"220 hello\r\n")
        assert connection.recv() == b""

    assert feed(greet, b"") == b"220 hello\r\n"


def test_more_than_a_buffer_holds_goes_both_ways() -> None:
    data = bytes(range(256)) * 2000
    assert feed(lambda connection: [connection.sendall(part) for part in iter(connection.recv, b"")] and None, data) == data


def test_what_a_hijacker_raises_is_raised_and_one_that_hangs_is_told() -> None:
    def fail(connection: Connection) -> None:
        raise LookupError(connection.recv())

    with pytest.raises(LookupError, match="x"):
        feed(fail, b"x")
    with pytest.raises(TimeoutError, match=r"not returned after 0.05 s; it has answered b'hi' so far"):
        feed(lambda connection: (connection.sendall(b"hi"), gevent.sleep(60)) and None, b"x", timeout=0.05)


def test_a_reset_arrives_as_one() -> None:
    with pytest.raises(ConnectionResetError):
        feed(lambda connection: [connection.recv(), connection.recv()] and None, b"x", reset=True)


def word(data: bytes) -> Match:
    return prefix(b"WORD")(data)


def raises(data: bytes) -> Match:
    return YES if data[3] == ord("D") and data.startswith(b"WORD") else NO


def changes_its_mind(data: bytes) -> Match:
    return NO if len(data) > 4 else word(data)


def remembers(data: bytes, asked: list[bytes] = []) -> Match:  # noqa: B006
    asked.append(data)
    return MORE if len(asked) % 2 and len(data) == 4 else word(data)


def answers_true(data: bytes) -> Match:
    return word(data) is YES  # type: ignore[return-value]


def takes_all(data: bytes) -> Match:
    return YES if data else MORE


MIND = "test_after_yes_or_no_more_bytes_change_nothing"


@pytest.mark.parametrize(
    ("matcher", "law"),
    [
        (word, None),
        (raises, "test_it_never_raises_and_answers_with_a_match"),
        (changes_its_mind, MIND),
        (remembers, "test_the_same_bytes_get_the_same_answer"),
        (answers_true, "test_it_never_raises_and_answers_with_a_match"),
        (takes_all, "test_it_takes_no_other_protocol_from_its_hijacker"),
        (prefix(b"WORK"), "test_what_begins_it_is_taken_and_more_is_waited_for_until_then"),
        (prefix(b"WOR"), "test_what_begins_something_else_is_refused"),
    ],
)
def test_a_matcher_that_breaks_a_law_is_found(matcher: Matcher, law: str | None) -> None:
    found = broken(matcher_laws(matcher, begins=[b"WORD", b"WORD more"], not_begins=[b"WORK", b"GET / HTTP/1.1"]))
    assert (law in found) if law else not found


def test_a_matcher_may_say_which_protocols_it_takes() -> None:
    own = prefix(b"*1\r\n")
    assert broken(matcher_laws(own, begins=[b"*1\r\n$4\r\nPING\r\n"])) == {"test_it_takes_no_other_protocol_from_its_hijacker"}
    assert not broken(matcher_laws(own, begins=[b"*1\r\n$4\r\nPING\r\n"], also=["Redis"]))


def knows_packets(connection: Connection) -> None:
    """Takes what one `recv` returns for one message."""
    while data := connection.recv():
        connection.sendall(data.upper() + b".")


def fails_at_the_end(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        while True:
            line = lines.readline()
            connection.sendall(line.upper())
            if line[-1:] != b"\n":
                raise ValueError("a line without an end")


def hangs_at_the_end(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        while line := lines.readline():
            connection.sendall(line.upper())
            if not line.endswith(b"\n"):
                gevent.sleep(60)


def reads_numbers(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(b"%d\n" % (int(line) + 1))


@pytest.mark.parametrize(
    ("handler", "dialogue", "law"),
    [
        (say, (b"SAY hello\nmore\n", b"SAY hello\nmore\n"), None),
        (say, (b"SAY hello\n", b"SAY bye\n"), "test_it_answers"),
        (knows_packets, (b"hello", b"HELLO."), "test_the_answer_does_not_depend_on_how_the_bytes_were_cut"),
        (knows_packets, (b"hello", b"HELLO."), "test_it_also_answers_byte_by_byte"),
        (fails_at_the_end, (b"a\nb\n", b"A\nB\n"), "test_it_ends_when_the_client_ends_early"),
        (hangs_at_the_end, (b"a\nb\n", b"A\nB\n"), "test_it_ends_when_the_client_ends_early"),
        (reads_numbers, (b"1\n20\n", b"2\n21\n"), "test_no_bytes_make_it_fail_or_hang"),
    ],
)
def test_a_hijacker_that_breaks_a_law_is_found(handler: Callable[[Connection], None], dialogue: tuple[bytes, bytes], law: str | None) -> None:
    found = broken(hijacker_laws(handler, dialogues=[dialogue], timeout=0.05 if law else 5))
    assert (law in found) if law else not found


TestSay = hijacker_laws(say, dialogues=[(b"SAY x\n", b"SAY x\n")])
TestSaysMatcher = matcher_laws(prefix(b"SAY "), begins=[b"SAY x"], not_begins=[b"SAX"])


@pytest.mark.parametrize("name", ["shout", "my-proto", "a.b_c", "x9"])
def test_a_new_package_is_named_as_it_is_asked_to_be(name: str) -> None:
    made = package(name)
    own = name.replace("-", "_").replace(".", "_")
    assert set(made) == {f"muxwsgi_{own}.py", "pyproject.toml", f"test_{own}.py", "README.md"}
    for file, text in made.items():
        assert name == "shout" or "shout" not in text.lower(), file
        if file.endswith(".py"):
            compile(text, file, "exec")
    assert f'\n{name} = "muxwsgi_{own}:{own}"\n' in made["pyproject.toml"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tls", "muxwsgi's own"),
        ("Bad Name", "lower-case letters"),
        ("class", "cannot be the name of a function"),
        ("9p", "cannot be the name of a function"),
        ("get", "is HTTP/1; choose another name"),
    ],
)
def test_a_name_that_cannot_be_used_is_said(name: str, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        package(name)


def test_the_fixtures_serve_what_the_mark_names(pytester: pytest.Pytester) -> None:
    for name, text in package("shout").items():
        (pytester.path / name).write_text(text)
    pytester.makepyfile(
        test_more="""
import pytest
from muxwsgi import hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi_shout import shout

@hijack(match=prefix(b"FAIL"))
def fail(connection):
    raise LookupError("on purpose")

def test_each_call_serves(muxwsgi_serve):
    served = muxwsgi_serve(shout)
    with served["plain"].connect() as client:
        client.sendall(b"SHOUT a\\n")
        assert client.recv(100) == b"SHOUT A\\n"

@pytest.mark.muxwsgi(hijackers=[fail])
def test_one_that_fails(muxwsgi_served):
    with muxwsgi_served["plain"].connect() as client:
        client.sendall(b"FAIL")
        try:
            client.recv(1)
        except ConnectionError:
            pass

def test_without_a_mark(muxwsgi_served):
    pass
"""
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=20, errors=2)
    assert "LookupError: on purpose" in result.stdout.str()
    assert "@pytest.mark.muxwsgi(hijackers=[...])" in result.stdout.str()


def test_what_pytest_imports_in_every_run_imports_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\n\ndef test_nothing():\n    assert not [name for name in sys.modules if name.split('.')[0] in ('gevent', 'greenlet')]")
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from muxwsgi.cli.new_hijacker import new_hijacker

    (tmp_path / "there").mkdir()
    result = CliRunner().invoke(new_hijacker, ["shout", "--into", str(tmp_path / "there")])
    assert isinstance(result.exception, OperatorError)
    assert str(result.exception) == f"{tmp_path}/there: File exists"
    assert verdicts(prefix(b"ab"), b"abc") == [MORE, MORE, YES, YES]
