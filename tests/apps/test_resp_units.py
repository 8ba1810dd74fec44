"""The Redis hijacker from the inside: its parser, its store, its commands over a connection in memory."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import gevent
import muxwsgi_resp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muxwsgi_resp.commands import COMMANDS
from muxwsgi_resp.protocol import MAX_BULK, CommandReader, Error, ProtocolError, encode
from muxwsgi_resp.session import MAX_QUEUED, Hub, Session, execute
from muxwsgi_resp.store import Refused, Store, pattern, weight

from muxwsgi import OperatorError
from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.mux.match import Match
from muxwsgi.testing import connection_pair, feed
from muxwsgi.wire.connection import Connection

SERVER = muxwsgi_resp.resp(muxwsgi_resp.Options())


def as_array(parts: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


@settings(max_examples=150, deadline=None)
@given(commands=st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=4), max_size=6), data=st.data())
def test_any_cut_of_any_pipeline_gives_the_same_commands(commands: list[list[bytes]], data: st.DataObject) -> None:
    sent = b"".join(map(as_array, commands))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=10)))
    reader = CommandReader()
    read = [part for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True) for part in reader.feed(sent[start:end])]
    assert read == commands


@settings(max_examples=100, deadline=None)
@given(sent=st.one_of(st.binary(max_size=60), st.lists(st.sampled_from([b"*", b"$", b"1", b"2", b"\r\n", b"a", b'"', b" "]), max_size=12).map(b"".join)))
def test_any_bytes_come_out_the_same_whole_and_one_at_a_time(sent: bytes) -> None:
    def read(pieces: list[bytes]) -> list[Any]:
        reader = CommandReader()
        out: list[Any] = []
        try:
            for piece in pieces:
                for parts in reader.feed(piece):
                    out.append(parts)
        except ProtocolError as error:
            out.append(str(error))
        return out

    assert read([sent]) == read([bytes([byte]) for byte in sent])


def test_inline_commands_may_escape_as_in_redis() -> None:
    line = b'set "a \\"b\\"\\x00\\n" \'it\\\'s\' back\\slash\r\n'
    assert list(CommandReader().feed(line)) == [[b"set", b'a "b"\x00\n', b"it's", b"back\\slash"]]


def test_inline_commands_are_split_at_spaces_and_quotes() -> None:
    assert list(CommandReader().feed(b"PING\r\n\r\nSET  a 'b c' \"d\"\n")) == [[b"PING"], [b"SET", b"a", b"b c", b"d"]]


@pytest.mark.parametrize(
    "sent",
    [
        b"*x\r\n",
        b"*99999999\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$%d\r\n" % (MAX_BULK + 1),
        b"*1\r\n$1\r\nabc",
        b"*1\r\n$" + b"1" * 100,
        b'SET a "b\r\n',
        b"a" * 100_000,
        b"a" * 100_000 + b"\r\n",
    ],
)
def test_what_is_no_resp_is_a_protocol_error(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(CommandReader().feed(sent))


def test_replies_in_both_versions() -> None:
    assert encode({b"a": [1, None, True, 1.5], "b": {b"x"}}, 2) == b"*4\r\n$1\r\na\r\n*4\r\n:1\r\n$-1\r\n:1\r\n$3\r\n1.5\r\n$1\r\nb\r\n*1\r\n$1\r\nx\r\n"
    assert encode({b"a": [1, None, True, 1.5], "b": {b"x"}}, 3) == b"%2\r\n$1\r\na\r\n*4\r\n:1\r\n_\r\n#t\r\n,1.5\r\n$1\r\nb\r\n~1\r\n$1\r\nx\r\n"
    assert encode(Error("ERR a\r\nb"), 2) == b"-ERR a  b\r\n"


def test_globs_are_those_of_redis() -> None:
    for glob, fits, not_fits in (
        (b"h?llo", b"hello", b"hllo"),
        (b"h*o", b"heeeo", b"heee"),
        (b"h[ae]llo", b"hallo", b"hillo"),
        (b"h[^e]llo", b"hallo", b"hello"),
        (b"a\\*b", b"a*b", b"axb"),
        (b"*", b"any\nthing", None),
    ):
        assert pattern(glob)(fits)
        assert not_fits is None or not pattern(glob)(not_fits)


def test_the_store_expires_and_keeps_its_bound() -> None:
    now = 1000.0
    store = Store(most=1000, clock=lambda: now)
    store.set(b"short", b"x", expiry=1001)
    store.set(b"long", b"x")
    now = 1002.0
    assert store.get(b"short") is None and store.get(b"long") == b"x"
    with pytest.raises(Refused, match="OOM"):
        store.set(b"big", b"x" * 2000)
    assert store.get(b"big") is None
    store.delete(b"long")
    assert store.used == 0 and len(store) == 0


def test_many_that_expired_make_room_for_those_that_come() -> None:
    now = 1000.0
    store = Store(most=100_000, clock=lambda: now)
    for number in range(100):
        store.set(b"long%d" % number, b"x", expiry=9_999_999)
    while True:
        try:
            store.set(b"short%d" % len(store), b"x", expiry=1001)
        except Refused:
            break
    now = 1002.0
    for number in range(200):
        store.set(b"new%d" % number, b"x")
    assert store.get(b"long7") == b"x"


KEYS = st.sampled_from([b"a", b"b", b"c"])
ITEMS = st.sampled_from([b"", b"x", b"yy", b"12"])
CHANGES = st.one_of(
    *(
        st.tuples(st.just(name), KEYS, *arguments)
        for name, *arguments in (
            (b"SET", ITEMS), (b"APPEND", ITEMS), (b"INCR",), (b"DEL",), (b"SETRANGE", st.just(b"3"), ITEMS),
            (b"RPUSH", ITEMS, ITEMS), (b"LPUSH", ITEMS), (b"LPOP",), (b"RPOP", st.just(b"2")),
            (b"HSET", ITEMS, ITEMS, ITEMS, ITEMS), (b"HDEL", ITEMS, ITEMS), (b"HINCRBY", ITEMS, st.just(b"5")),
            (b"SADD", ITEMS, ITEMS), (b"SREM", ITEMS), (b"PEXPIRE", st.sampled_from([b"-1", b"0", b"100000"])), (b"PERSIST",),
            (b"MSET", ITEMS, KEYS, ITEMS), (b"GETDEL",),
        )
    )
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANGES, max_size=40))
def test_the_books_of_the_store_are_right_after_any_commands(changes: list[tuple[bytes, ...]]) -> None:
    store = Store()
    session = Session(store, Hub(), 1, deliver=lambda push: None)
    for change in changes:
        execute(session, list(change))
    wanted = 0
    for key in store.keys():
        value = store.get(key)
        if isinstance(value, bytes):
            wanted += weight(key, value)
        elif isinstance(value, dict):
            wanted += weight(key, *value, *value.values())
        elif value is not None:
            assert value, "an empty collection is no key"
            wanted += weight(key, *value)
    assert store.used == wanted


def test_all_of_mset_or_nothing_and_no_transaction_without_end() -> None:
    store = Store(most=10_000)
    session = Session(store, Hub(), 1, deliver=lambda push: None)
    assert "OOM" in str(execute(session, [b"MSET", b"a", b"1", b"b", b"x" * 20_000]))
    assert len(store) == 0
    execute(session, [b"MULTI"])
    big = [b"SET", b"k", b"x" * (MAX_QUEUED // 3)]
    replies = [execute(session, big) for _ in range(4)]
    assert isinstance(replies[-1], Error)
    assert str(execute(session, [b"EXEC"])).startswith("EXECABORT")


@pytest.fixture
def session() -> Iterator[Connection]:
    SERVER.store.clear()
    server, client = connection_pair()
    serving = gevent.spawn(SERVER, server)
    yield client
    client.close()
    serving.get(timeout=5)
    server.finish()


def ask(client: Connection, *lines: str) -> str:
    client.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"ECHO the-end\r\n")
    received = b""
    with gevent.Timeout(5):
        while not received.endswith(b"$7\r\nthe-end\r\n"):
            received += client.recv()
    return received.decode().removesuffix("$7\r\nthe-end\r\n").replace("\r\n", " ").strip()


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        (["SET k v", "GET k", "GET none"], "+OK $1 v $-1"),
        (["SET k v NX", "SET k w NX", "SET k w XX GET", "GET k"], "+OK $-1 $1 v $1 w"),
        (["SET k v EX 0", "SET k v EX x", "SET k v NX XX", "SET k v WHAT"], None),
        (["SET k v EX 100", "TTL k", "PERSIST k", "TTL k", "TTL none"], "+OK :100 :1 :-1 :-2"),
        (["SET k v EX 100", "SET k w KEEPTTL", "TTL k", "SET k x", "TTL k"], "+OK +OK :100 +OK :-1"),
        (["SETNX k 1", "SETNX k 2", "INCR k", "INCRBY k 5", "DECR k", "DECRBY k 2", "GET k"], ":1 :0 :2 :7 :6 :4 $1 4"),
        (["SET k 9223372036854775807", "INCR k"], "+OK -ERR increment or decrement would overflow"),
        (["SET k x", "INCR k", "INCRBYFLOAT k 1"], None),
        (["INCRBYFLOAT f 0.5", "INCRBYFLOAT f 1e2"], "$3 0.5 $5 100.5"),
        (["MSET a 1 b 2", "MGET a none b", "DEL a b none", "EXISTS a b"], "+OK *3 $1 1 $-1 $1 2 :2 :0"),
        (["APPEND k ab", "APPEND k cd", "STRLEN k", "GETRANGE k 1 -2", "SETRANGE k 1 XY", "GET k"], ":2 :4 :4 $2 bc :4 $4 aXYd"),
        (["RPUSH l a b", "LPUSH l c", "LRANGE l 0 -1", "LLEN l", "LPOP l", "RPOP l 5", "EXISTS l"], ":2 :3 *3 $1 c $1 a $1 b :3 $1 c *2 $1 b $1 a :0"),
        (["HSET h a 1 b 2", "HSET h a 3", "HGET h a", "HLEN h", "HEXISTS h b", "HINCRBY h a 4", "HDEL h a b x", "EXISTS h"], ":2 :0 $1 3 :2 :1 :7 :2 :0"),
        (["SADD s a b a", "SCARD s", "SISMEMBER s a", "SREM s a c", "SMEMBERS s"], ":2 :2 :1 :1 *1 $1 b"),
        (["SET k v", "LPUSH k x", "HGET k x", "SADD k x", "TYPE k"], None),
        (["MULTI", "SET k v", "GET k", "EXEC"], "+OK +QUEUED +QUEUED *2 +OK $1 v"),
        (["MULTI", "SET k", "EXEC"], "+OK -ERR wrong number of arguments for 'set' command -EXECABORT Transaction discarded because of previous errors."),
        (["MULTI", "SET k v", "DISCARD", "GET k"], "+OK +QUEUED +OK $-1"),
        (["NOSUCH", "GET", "GET a b"], None),
        (["INCRBYFLOAT f 0.1", "INCRBYFLOAT f 0.2", "INCRBYFLOAT f nan", "INCRBYFLOAT f -0.3"], "$3 0.1 $3 0.3 -ERR value is not a valid float $1 0"),
        (["SET k 007", "INCR k", "SET k 1", "INCRBY k +1"], None),
        (["SET k v EX 9223372036854775807", "SET k v", "PEXPIRE k 9223372036854775807"], None),
        (["SETEX k 0 v"], "-ERR invalid expire time in 'setex' command"),
        (["SET k v", "EXPIRE k 100 XX", "EXPIRE k 100 NX", "EXPIRE k 50 GT", "EXPIRE k 50 LT", "TTL k"], "+OK :0 :1 :0 :1 :50"),
        (["SET k v", "EXPIRE k -1", "EXISTS k", "TTL k"], "+OK :1 :0 :-2"),
        (["HELLO 3 AUTH default any SETNAME me", "CLIENT GETNAME", "HELLO 2 AUTH other any", "CLIENT SETNAME a\x01b"], None),
        (["MULTI", "SUBSCRIBE a", "EXEC"], None),
        (["SETRANGE k 500000000 x", "STRLEN k"], None),
        (["LRANGE none 0 -1", "RPUSH l a b c", "LRANGE l -2 -1", "LRANGE l 1 0", "LRANGE l -100 100"], "*0 :3 *2 $1 b $1 c *0 *3 $1 a $1 b $1 c"),
        (["SET a 1", "SET b 2", "SCAN 0 MATCH a", "DBSIZE", "FLUSHDB", "DBSIZE"], "+OK +OK *2 $1 0 *1 $1 a :2 +OK :0"),
        (["SELECT 0", "SELECT 1", "PING", "PING x"], "+OK -ERR DB index is out of range +PONG $1 x"),
        (["SET k v", "GETDEL k", "GETDEL k", "SET k v", "GETEX k EX 100", "TTL k"], "+OK $1 v $-1 +OK $1 v :100"),
    ],
)
def test_commands_answer_as_redis_does(session: Connection, lines: list[str], replies: str | None) -> None:
    answer = ask(session, *lines)
    if replies is None:
        assert "-ERR" in answer or "-WRONGTYPE" in answer
    else:
        assert answer == replies


def test_hello_changes_the_version(session: Connection) -> None:
    assert ask(session, "HSET h a 1", "HELLO 4", "HELLO 3", "HGETALL h", "GET none").endswith("%1 $1 a $1 1 _")


def test_a_protocol_error_is_told_and_ends_the_connection(session: Connection) -> None:
    session.sendall(b"*1\r\n:1\r\n")
    assert session.recv() == b"-ERR Protocol error: expected '$', got ':'\r\n"


def test_messages_reach_who_listens() -> None:
    (listener, a), (speaker, b) = connection_pair(), connection_pair()
    serving = [gevent.spawn(SERVER, listener), gevent.spawn(SERVER, speaker)]
    with gevent.Timeout(5):
        a.sendall(b"SUBSCRIBE news\r\n")
        assert a.recv() == b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        b.sendall(b"PUBLISH news hi\r\nPUBLISH other hi\r\n")
        assert b.recv() == b":1\r\n:0\r\n"
        assert a.recv() == b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n"
        a.sendall(b"GET k\r\n")
        assert a.recv().startswith(b"-ERR Can't execute 'get'")
        a.close()
        gevent.sleep(0.01)
        b.sendall(b"PUBLISH news hi\r\n")
        assert b.recv() == b":0\r\n"
        b.close()
        gevent.joinall(serving, raise_error=True)
    listener.finish()
    speaker.finish()


def test_a_subscriber_that_does_not_read_is_let_go_and_delays_nobody() -> None:
    (listener, a), (speaker, b) = connection_pair(), connection_pair()
    serving = [gevent.spawn(SERVER, listener), gevent.spawn(SERVER, speaker)]
    with gevent.Timeout(10):
        a.sendall(b"SUBSCRIBE news\r\n")
        a.recv()
        listened = []
        for _ in range(20):
            b.sendall(as_array([b"PUBLISH", b"news", b"x" * 1_000_000]))
            listened.append(b.recv())
        assert listened[0] == b":1\r\n" and listened[-1] == b":0\r\n"
        serving[0].get()
        b.close()
        serving[1].get()
    for connection in (a, listener, speaker):
        connection.finish()


def test_replies_nobody_reads_are_not_piled_up() -> None:
    server, client = connection_pair()
    serving = gevent.spawn(SERVER, server)
    ask(client, "SETRANGE big 1000000 x")
    tracemalloc.start()
    try:
        client.sendall(b"GET big\r\n" * 2000)  # two gigabytes, if all replies were made first
        gevent.sleep(0.1)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    client.close()
    with pytest.raises(BrokenPipeError):  # the peer's fault, which the server counts and does not log
        serving.get(timeout=5)
    server.finish()


def test_one_client_s_pipeline_lets_others_have_their_turn() -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0)
            turns += 1

    server, client = connection_pair()
    counting = gevent.spawn(count)
    serving = gevent.spawn(SERVER, server)
    client.sendall(b"PING\r\n" * 5000)
    received = 0
    with gevent.Timeout(5):
        while received < 5000 * 7:
            received += len(client.recv())
    assert turns >= 10
    counting.kill()
    client.close()
    serving.get(timeout=5)
    server.finish()


def test_the_operator_bounds_the_memory() -> None:
    hijacker: Any = hijacker_of(muxwsgi_resp.resp)
    small = hijacker.made({"max_memory": "2K"}, "the file")
    commands = as_array([b"SET", b"a", b"x" * 1000]) + as_array([b"SET", b"b", b"x" * 5000]) + as_array([b"GET", b"b"])
    assert feed(small, commands) == b"+OK\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n$-1\r\n"
    for wrong in ("1", "much"):
        with pytest.raises(OperatorError, match=r"the file: max_memory|max_memory: "):
            hijacker.made({"max_memory": wrong}, "the file")


def test_the_matcher_takes_redis_and_leaves_http() -> None:
    hijacker: Any = hijacker_of(muxwsgi_resp.resp)
    for first, verdict in (
        (b"*1\r\n", Match.YES),
        (b"*", Match.MORE),
        (b"*0\r\n", Match.NO),
        (b"PING\r\n", Match.YES),
        (b"get key\r\n", Match.YES),
        (b"GET key", Match.MORE),
        (b"GET / HTTP/1.1\r\n", Match.NO),
        (b"SET /x HTTP/1.1\r\n", Match.NO),
        (b"HELO mail\r\n", Match.NO),
        (b"\x16\x03\x01", Match.NO),
    ):
        assert hijacker.match(first) is verdict, first
    for name in COMMANDS:
        assert hijacker.match(f"{name} x\r\n".encode()) is Match.YES, name
