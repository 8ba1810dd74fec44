"""Real clients against everything on one port, plain and in TLS."""

import io
import json
import re
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import simple_websocket

from tests.system.server_process import ServerProcess, insecure_context

only_tls = pytest.mark.parametrize("server", [True], indirect=True, ids=["tls"])


def run(*command: str, input: bytes = b"", timeout: float = 30) -> bytes:
    done = subprocess.run(command, input=input, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done
    return done.stdout


def url(server: ServerProcess, path: str = "/") -> str:
    return f"{'https' if server.tls else 'http'}://{server.address}{path}"


def redis_cli(server: ServerProcess, *arguments: str, input: bytes = b"") -> str:
    tls = ["--tls", "--insecure"] if server.tls else []
    return run("redis-cli", *tls, "-p", str(server.port), *arguments, input=input).decode().strip()


@pytest.fixture
def browser(server: ServerProcess) -> Any:
    session = requests.Session()
    session.verify = False
    session.trust_env = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib3.connectionpool.warnings.warn", lambda *args, **kwargs: None)
        yield session
    session.close()


# curl and openssl


def test_curl_gets_both_applications(server: ServerProcess) -> None:
    assert b"<h1>Guest book</h1>" in run("curl", "-sSk", url(server))
    assert b"<h1>Polls</h1>" in run("curl", "-sSk", url(server, "/polls/"))
    head = run("curl", "-sSkI", url(server))
    assert head.startswith(b"HTTP/2 200" if server.tls else b"HTTP/1.1 200 OK\r\n") and b"content-length: " in head.lower()


def test_curl_reuses_its_connection_and_uploads(server: ServerProcess) -> None:
    out = run("curl", "-sSkv", "--stderr", "-", url(server), url(server, "/api/entries"))
    assert b"Re-using existing connection" in out
    upload = run("curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}", "-F", "name=curl", "-F", "text=hello", "-F", "picture=@-;type=image/png",
                 url(server, "/sign"), input=b"\x89PNG" * 1000)
    assert upload == b"303"
    chunked = run("curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Transfer-Encoding: chunked", "-d", "name=a&text=b", url(server, "/sign"))
    assert chunked == b"303"


def test_openssl_s_client_talks_http_and_echo(server: ServerProcess) -> None:
    client = f"openssl s_client -quiet -no_ign_eof -connect {server.address}" if server.tls else f"nc -N 127.0.0.1 {server.port}"
    # s_client ends with its input: it is held open while the answer comes.
    assert run("sh", "-c", f"(cat; sleep 1) | {client}", input=b"ECHO one\nECHO two\n") == b"ECHO one\nECHO two\n"
    request = b"GET /api/entries HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert run("sh", "-c", f"(cat; sleep 1) | {client}", input=request).startswith(b"HTTP/1.1 200 OK\r\n")


# Redis


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli(server: ServerProcess, version: str) -> None:
    assert redis_cli(server, version, "flushall") == "OK"
    assert redis_cli(server, version, "set", "greeting", "hello world") == "OK"
    assert redis_cli(server, version, "get", "greeting") == "hello world"
    assert redis_cli(server, version, "hset", "h", "a", "1", "b", "2") == "2"
    assert redis_cli(server, version, "hgetall", "h").replace("\n", " ") in ("a 1 b 2",)
    assert "redis_mode:standalone" in redis_cli(server, version, "info")
    assert redis_cli(server, version, "nosuch").startswith("ERR unknown command")
    assert redis_cli(server, version, input=b"multi\nincr n\nincr n\nexec\n").split() == ["OK", "QUEUED", "QUEUED", "1", "2"]


def test_redis_cli_mass_insertion(server: ServerProcess) -> None:
    commands = b"".join(b"SET key%d value%d\r\n" % (n, n) for n in range(3000))
    assert "errors: 0, replies: 3000" in redis_cli(server, "--pipe", input=commands)
    assert redis_cli(server, "get", "key2999") == "value2999"
    commands = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\nraw%d\r\n$100\r\n%b\r\n" % (len(str(n)) + 3, n, b"\r\n" * 50) for n in range(3000))
    assert "errors: 0, replies: 3000" in redis_cli(server, "--pipe", input=commands)
    assert redis_cli(server, "strlen", "raw2999") == "100"


@only_tls
def test_redis_cli_verifies_the_certificate_it_was_given(server: ServerProcess, tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_text(ssl.get_server_certificate(("127.0.0.1", server.port)))
    arguments = ("--tls", "--cacert", str(trusted), "--sni", "localhost", "-p", str(server.port))
    assert run("redis-cli", *arguments, "-h", "localhost", "ping").strip() == b"PONG"


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(server: ServerProcess, protocol: int) -> None:
    tls = {"ssl": True, "ssl_cert_reqs": None, "ssl_check_hostname": False} if server.tls else {}
    with redis.Redis(port=server.port, protocol=protocol, socket_timeout=10, **tls) as db:
        db.flushdb()
        assert db.set("k", b"\x00\r\n" * 100_000) and db.get("k") == b"\x00\r\n" * 100_000
        assert db.set("x", 1, ex=100) and 90 < db.ttl("x") <= 100
        db.rpush("l", *range(100))
        assert db.lrange("l", -2, -1) == [b"98", b"99"]
        db.hset("h", mapping={"a": 1, "b": 2})
        assert db.hgetall("h") == {b"a": b"1", b"b": b"2"}
        db.sadd("s", "a", "b")
        assert db.smembers("s") == {b"a", b"b"}
        pipeline = db.pipeline()
        for _ in range(50):
            pipeline.incr("n")
        assert pipeline.execute() == list(range(1, 51))
        assert sorted(db.scan_iter("[hl]")) == [b"h", b"l"]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            db.lpush("k", 1)
        listener = db.pubsub()
        listener.subscribe("news")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        assert db.publish("news", "hello") == 1
        message = listener.get_message(timeout=5)
        assert message["type"] == "message" and message["data"] == b"hello"
        listener.close()


# The guest book


def test_the_guest_book_keeps_a_session_and_a_picture(server: ServerProcess, browser: Any) -> None:
    picture = bytes(range(256)) * 2000
    answer = browser.post(
        url(server, "/sign"), data={"name": "Ada", "text": "I was <here>"}, files={"picture": ("a.png", io.BytesIO(picture), "image/png")}
    )
    assert answer.status_code == 200 and "I was &lt;here&gt;" in answer.text
    assert 'value="Ada"' in browser.get(url(server)).text
    found = re.search(r"/picture/\w+", answer.text)
    assert found is not None
    assert browser.get(url(server, found[0])).content == picture
    assert browser.get(url(server, "/api/entries")).json()[-1]["name"] == "Ada"


def test_bad_input_is_answered_by_the_application(server: ServerProcess, browser: Any) -> None:
    assert browser.post(url(server, "/sign"), data={"name": ""}).status_code == 400
    assert browser.get(url(server, "/nothing")).status_code == 404
    assert browser.post(url(server, "/sign"), data=b"x" * 3_000_000, headers={"Content-Type": "application/x-www-form-urlencoded"}).status_code == 413


def test_news_are_streamed_while_they_happen(server: ServerProcess, browser: Any) -> None:
    with browser.get(url(server, "/news"), stream=True, timeout=20) as news:
        lines = news.iter_lines()
        assert next(lines).startswith(b":")
        threading.Timer(0.2, lambda: run("curl", "-sSk", "-d", "name=Bo&text=news", url(server, "/sign"))).start()
        entry = next(json.loads(line[6:]) for line in lines if line.startswith(b"data: "))
        assert entry["name"] == "Bo"


def test_a_websocket_answers(server: ServerProcess) -> None:
    context = insecure_context() if server.tls else None
    address = f"{'wss' if server.tls else 'ws'}://{server.address}/parrot"
    ws = simple_websocket.Client.connect(address, ssl_context=context)
    for text in ("hello", "x" * 100_000):
        ws.send(text)
        assert ws.receive(timeout=10) == text + "!"
    ws.close()
    # It closes its socket under its reading thread, which may then read from the next socket of the same number.
    ws.thread.join(10)


# The polls


def token(text: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text)
    assert found is not None
    return found[1]


def test_polls_are_asked_and_voted_once_per_session(server: ServerProcess, browser: Any) -> None:
    page = browser.get(url(server, "/polls/"))
    headers = {"Referer": page.url}
    asked = browser.post(
        url(server, "/polls/ask"),
        data={"csrfmiddlewaretoken": token(page.text), "text": "Tabs or spaces?", "choices": "Tabs\nSpaces"},
        headers=headers,
    )
    assert asked.status_code == 200 and "Tabs or spaces?" in asked.text
    found = re.search(r'action="(/polls/(\d+)/vote)".*?value="(\d+)" required> Tabs', asked.text, re.S)
    assert found is not None
    for _ in range(2):
        voted = browser.post(
            url(server, found[1]), data={"csrfmiddlewaretoken": token(asked.text), "choice": found[3]}, headers=headers
        )
        assert "Tabs: 1" in voted.text
    assert browser.post(url(server, "/polls/ask"), data={"text": "no token"}, headers=headers).status_code == 403
    for choice in ("", "x", "-1", "9" * 30):
        other = {"csrfmiddlewaretoken": token(asked.text), "choice": choice}
        browser.cookies.pop("sessionid", None)
        assert browser.post(url(server, found[1]), data=other, headers=headers).status_code == 404


def test_polls_take_a_file_and_stream_the_results(server: ServerProcess, browser: Any) -> None:
    page = browser.get(url(server, "/polls/"))
    lines = "".join(f"Question {number}?|yes|no\n" for number in range(300))
    done = browser.post(
        url(server, "/polls/import"), data={"csrfmiddlewaretoken": token(page.text)}, files={"file": ("q.txt", lines)}, headers={"Referer": page.url}
    )
    assert done.text == "300 questions\n"
    results = browser.get(url(server, "/polls/results.csv"))
    assert results.headers["Transfer-Encoding"] == "chunked"
    assert results.text.count("\r\n") >= 601 and "Question 299?,no,0" in results.text


@only_tls
def test_python_verifies_the_development_certificate_when_told_to_trust_it(server: ServerProcess) -> None:
    pem = ssl.get_server_certificate(("127.0.0.1", server.port))
    context = ssl.create_default_context(cadata=pem)
    with context.wrap_socket(server.connect(), server_hostname="localhost") as sock:
        assert sock.version() == "TLSv1.3"
