"""The gateway as a process, with the clients that people have: mosquitto_pub and mosquitto_sub, paho-mqtt, browsers' fetch and WebSockets."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import bcrypt
import paho.mqtt.client as paho
import pytest
import requests
import websocket
from muxwsgi_iot.mqtt import Connect, Version, Will, encode
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.apps.iot_client import Client
from tests.system.server_process import ServerProcess
from tests.tls.authority import Authority

V311, V5 = Version.V311, Version.V5


class Gateway:
    """The server, which takes TLS and plain connections on one port."""

    def __init__(self, process: ServerProcess, root: str) -> None:
        self.process = process
        self.port = process.port
        self.root = root

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def web(self, user: str = "", password: str = "") -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = self.root
        if user:
            session.auth = (user, password)
        return session

    def where(self, tls: bool) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), *(["--cafile", self.root] if tls else [])]

    def publish(self, *arguments: str, tls: bool = False) -> "subprocess.CompletedProcess[str]":
        command = ["mosquitto_pub", *self.where(tls), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    @contextmanager
    def subscribed(self, *arguments: str, tls: bool = False) -> Iterator["subprocess.Popen[str]"]:
        """mosquitto_sub, once it is subscribed. Its lines are read from `stdout`."""
        command = ["stdbuf", "-oL", "mosquitto_sub", *self.where(tls), "-d", "-W", "60", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Subscribed"):
                    break
                assert "denied" not in line, line
            yield process
        finally:
            process.kill()
            process.communicate()

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)


def messages(process: "subprocess.Popen[str]", number: int) -> list[str]:
    """The next lines that are messages: the others tell of packets."""
    assert process.stdout is not None
    found: list[str] = []
    while len(found) < number:
        line = process.stdout.readline()
        assert line, found
        if not line.startswith(("Client ", "Subscribed")):
            found.append(line.rstrip("\n"))
    return found


@contextmanager
def gateway(packages: Path, folder: Path, options: dict[str, Any], *more: str) -> Iterator[Gateway]:
    authority = Authority(folder)
    leaf = authority.leaf("127.0.0.1", "localhost")
    arguments = ("--hijack-options", json.dumps({"mqtt": options}), "--graceful-timeout", "2", *more)
    bind = f",tls=optional,certfile={leaf.certfile},keyfile={leaf.keyfile}"
    environment = {"PYTHONPATH": str(packages)}
    with ServerProcess("muxwsgi_iot:app", *arguments, bind_options=bind, environment=environment, cold=True) as process:
        yield Gateway(process, authority.root)
        assert process.tracebacks() == [], process.log


@pytest.fixture(scope="module")
def open_gateway(iot_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(iot_packages, tmp_path_factory.mktemp("open"), {"allow_anonymous": True}) as served:
        yield served


versions = pytest.mark.parametrize("version", [V311, V5])
ways = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


# mosquitto's clients


@ways
@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_pub_and_sub(open_gateway: Gateway, version: str, qos: str, tls: bool) -> None:
    topic = f"m/{version}/{qos}/{tls}"
    with open_gateway.subscribed("-V", version, "-q", qos, "-t", f"{topic}/#", "-v", tls=tls) as reader:
        for text in ("one", "two", "é" * 2000):
            done = open_gateway.publish("-V", version, "-q", qos, "-t", f"{topic}/x", "-m", text, tls=tls)
            assert done.returncode == 0, done
        assert messages(reader, 3) == [f"{topic}/x {text}" for text in ("one", "two", "é" * 2000)]


def test_mosquitto_request_and_response(open_gateway: Gateway) -> None:
    with open_gateway.subscribed("-V", "5", "-t", "ask", "-F", "%R %D %P %p") as service:
        command = ["mosquitto_rr", *open_gateway.where(False), "-t", "ask", "-e", "answer/7", "-m", "?", "-V", "5", "-W", "10"]
        asking = subprocess.Popen(
            [*command, "-D", "publish", "correlation-data", "id7", "-D", "publish", "user-property", "k", "v"], stdout=subprocess.PIPE, text=True
        )
        assert messages(service, 1) == ["answer/7 id7 k:v ?"]
        assert open_gateway.publish("-V", "5", "-t", "answer/7", "-m", "42").returncode == 0
        assert asking.communicate(timeout=20)[0].strip() == "42"


def test_a_will_comes_when_mosquitto_sub_is_killed(open_gateway: Gateway) -> None:
    with open_gateway.subscribed("-t", "will/#", "-v") as watcher:
        with open_gateway.subscribed("-t", "none", "--will-topic", "will/x", "--will-payload", "gone"):
            pass  # killed
        assert messages(watcher, 1) == ["will/x gone"]


def test_a_session_of_mosquitto_sub_is_kept(open_gateway: Gateway) -> None:
    session = ("-c", "-i", "keeper", "-q", "1", "-t", "kept/#")
    with open_gateway.subscribed(*session):
        pass
    for n in range(5):
        open_gateway.publish("-q", "1", "-t", "kept/x", "-m", str(n))
    command = ["mosquitto_sub", *open_gateway.where(False), *session, "-C", "5", "-W", "20"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split() == ["0", "1", "2", "3", "4"]


# paho


@versions
@pytest.mark.parametrize("way", ["tcp", "tls", "ws", "wss"])
def test_paho(open_gateway: Gateway, version: Version, way: str) -> None:
    queue: Queue[Any] = Queue()
    client = paho.Client(
        CallbackAPIVersion.VERSION2, f"paho-{way}-{version}", protocol=paho.MQTTv5 if version is V5 else paho.MQTTv311,
        transport="websockets" if way.startswith("ws") else "tcp",
    )  # fmt: skip
    if way.startswith("ws"):
        client.ws_set_options(path="/mqtt")
    if way in ("tls", "wss"):
        client.tls_set(ca_certs=open_gateway.root)
    client.on_message = lambda client, data, message: queue.put((message.topic, message.payload, message.qos))
    client.on_subscribe = lambda client, data, mid, codes, properties: queue.put([code.value for code in codes])
    client.connect("127.0.0.1", open_gateway.port)
    client.loop_start()
    try:
        client.subscribe([(f"p/{way}/+", 2)])
        assert queue.get(timeout=10) == [2]
        big = bytes(range(256)) * 1000
        for qos in (0, 1, 2):
            properties = None
            if version is V5:
                properties = Properties(PacketTypes.PUBLISH)
                properties.UserProperty = ("a", "b")
            client.publish(f"p/{way}/x", big, qos, properties=properties).wait_for_publish(10)
            assert queue.get(timeout=10) == (f"p/{way}/x", big, qos)
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_websocket_carries_packets_in_any_cut(open_gateway: Gateway) -> None:
    url = f"ws://127.0.0.1:{open_gateway.port}/mqtt"
    ws = websocket.create_connection(url, subprotocols=["mqtt"], timeout=10)
    assert ws.getsubprotocol() == "mqtt"  # [MQTT-6.0.0-4]
    for byte in encode(Connect("cut"), V5):
        ws.send_binary(bytes((byte,)))
    assert ws.recv()[:1] == b"\x20"
    ws.send("text")  # [MQTT-6.0.0-1]
    assert ws.recv() in (b"", "")
    ws.close()
    with pytest.raises(websocket.WebSocketBadStatusException, match="400"):
        websocket.create_connection(url, timeout=10)  # [MQTT-6.0.0-3]


def test_a_websocket_that_is_gone_leaves_its_will(open_gateway: Gateway) -> None:
    with open_gateway.subscribed("-t", "ws-will") as watcher:
        for ends in ("cut", "close"):
            ws = websocket.create_connection(f"ws://127.0.0.1:{open_gateway.port}/mqtt", subprotocols=["mqtt"], timeout=10)
            ws.send_binary(encode(Connect("gone", will=Will("ws-will", ends.encode())), V5))
            assert ws.recv()[:1] == b"\x20"
            if ends == "close":
                ws.close()
            else:
                ws.shutdown()
            assert messages(watcher, 1) == [ends]


# The page and the API


def test_the_api_and_the_page(open_gateway: Gateway) -> None:
    web, url = open_gateway.web(), open_gateway.url
    assert "<h1>MQTT gateway</h1>" in web.get(url("/"), timeout=10).text
    with open_gateway.subscribed("-i", "lamp", "-t", "lamp/set") as lamp, web.get(url("/api/events?filter=lamp/%23"), stream=True, timeout=20) as events:
        lines = events.iter_lines()
        assert next(lines).startswith(b":")
        answer = web.post(url("/api/publish"), json={"topic": "lamp/set", "payload": "on", "retain": True}, timeout=10)
        assert answer.json() == {"subscribers": 3}  # the lamp, the events, and the last values
        assert messages(lamp, 1) == ["on"]
        open_gateway.publish("-i", "sensor", "-t", "lamp/raw", "-s", "-q", "1")
        assert next(json.loads(line[6:]) for line in lines if line.startswith(b"data: ")) == {"topic": "lamp/set", "payload": "on", "qos": 0, "retain": True, "client_id": ""}
        lamp_device = next(each for each in web.get(url("/api/devices"), timeout=10).json() if each["client_id"] == "lamp")
        assert lamp_device["connected"] and lamp_device["subscriptions"] == ["lamp/set"]
    web.post(url("/api/publish"), json={"topic": "lamp/bytes", "base64": "/w=="}, timeout=10)
    topics = {each["topic"]: each for each in web.get(url("/api/topics?filter=lamp/%2B"), timeout=10).json()}
    assert topics["lamp/set"]["payload"] == "on" and topics["lamp/bytes"]["base64"] == "/w=="
    assert web.get(url("/api/status"), timeout=10).json()["retained"] >= 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"topic": "a/#"}, 400), ({}, 400), ([], 400), ({"topic": "a", "qos": 3}, 400), ({"topic": "a", "qos": True}, 400),
        ({"topic": "a", "base64": "%"}, 400), ({"topic": "a", "payload": 1}, 400), ({"topic": "a", "nothing": 1}, 400),
        ({"topic": ""}, 400), ({"topic": "$SYS/a"}, 403), ("{", 415), ({"topic": "a", "payload": "x" * (3 << 20)}, 413),
    ],
)  # fmt: skip
def test_what_the_api_refuses(open_gateway: Gateway, body: Any, status: int) -> None:
    web = open_gateway.web()
    if isinstance(body, str):
        answer = web.post(open_gateway.url("/api/publish"), data=body, timeout=10)
    else:
        answer = web.post(open_gateway.url("/api/publish"), json=body, timeout=10)
    assert answer.status_code == status
    assert web.get(open_gateway.url("/api/topics?filter=a%23"), timeout=10).status_code == 400


# Hostile clients


def test_a_server_that_was_fed_rubbish_goes_on(open_gateway: Gateway) -> None:
    good = encode(Connect("rubbish", V5), V5)
    for data in (b"\x10\xff\xff\xff\x7f\0\4MQTT", good + b"\xff" * 100, good + b"\x30\xff\xff\xff\x7f", good[:9], good + good, good + b"\x30\x05\0\x09a"):
        with open_gateway.socket() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    assert open_gateway.publish("-t", "alive", "-m", "x").returncode == 0


def test_a_reader_that_stands_still_delays_nobody(open_gateway: Gateway) -> None:
    with open_gateway.socket() as still, open_gateway.socket() as fast, open_gateway.socket() as writer:
        clients = [Client(sock) for sock in (still, fast, writer)]
        for n, client in enumerate(clients):
            client.connect(f"still-{n}")
        clients[0].subscribe("flood")
        clients[1].subscribe("flood")
        payload = b"x" * 100_000
        received = []
        reading = threading.Thread(target=lambda: received.extend(clients[1].receive().payload for _ in range(300)))
        reading.start()
        for _ in range(300):
            clients[2].publish("flood", payload)
        reading.join(30)
        assert received == [payload] * 300
        dropped = open_gateway.web().get(open_gateway.url("/api/status"), timeout=10).json()["messages"]["dropped"]
        assert dropped["slow"] > 100


# Logins


@pytest.fixture(scope="module")
def guarded(iot_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("guarded")
    hashed = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
    (folder / "passwords").write_text(f"ann:{hashed}\nbob:{hashed}\n")
    (folder / "acl").write_text(
        "topic read public/#\n\nuser ann\ntopic readwrite house/#\ntopic deny house/safe\npattern readwrite devices/%u/#\npattern write by-id/%c\npattern deny by-id/never/%c\n"
    )
    options = {
        "password_file": str(folder / "passwords"), "acl_file": str(folder / "acl"), "use_identity_as_username": True,
    }  # fmt: skip
    client_authority = Authority(folder, "clients")
    leaf = client_authority.leaf("device.example", common_name="ann")
    with gateway(iot_packages, folder, options, "--client-certificates=optional", f"--ca-certs={client_authority.root}") as served:
        served.leaf = leaf  # type: ignore[attr-defined]
        yield served


ANN = ("-u", "ann", "-P", "sesame")


@pytest.mark.parametrize("version", ["311", "5"])
def test_logins(guarded: Gateway, version: str) -> None:
    assert guarded.publish("-V", version, *ANN, "-t", "house/a", "-m", "x").returncode == 0
    for wrong in (("-u", "ann", "-P", "wrong"), ("-u", "nobody", "-P", "sesame"), ("-u", "ann"), ()):
        done = guarded.publish("-V", version, *wrong, "-t", "house/a", "-m", "x")
        assert done.returncode != 0 and "onnection" in done.stderr, done


def test_a_client_certificate_is_a_login(guarded: Gateway) -> None:
    leaf: Any = guarded.leaf  # type: ignore[attr-defined]
    certificate = ("--cert", leaf.certfile, "--key", leaf.keyfile)
    with guarded.subscribed(*ANN, "-t", "house/#") as reader:
        assert guarded.publish(*certificate, "-t", "house/b", "-m", "by certificate", tls=True).returncode == 0
        assert messages(reader, 1) == ["by certificate"]
    assert guarded.publish("-t", "house/b", "-m", "x", tls=True).returncode != 0


def test_access_by_topic(guarded: Gateway) -> None:
    with guarded.socket() as first, guarded.socket() as second:
        ann, bob = Client(first), Client(second)
        ann.connect("ann-1", username="ann", password=b"sesame")
        bob.connect("b/+", username="bob", password=b"sesame")
        assert ann.subscribe("#", "house/safe", "house/a", "devices/bob/x", qos=1) == (1, 0x87, 1, 0x87)
        assert bob.subscribe("house/a", "devices/bob/#", "house/+", qos=1) == (0x87, 1, 1)
        assert bob.publish("house/a", b"no", 1).reason == 0x87
        assert bob.publish("devices/ann/x", b"no", 1).reason == 0x87
        assert ann.publish("house/safe", b"no", 1).reason == 0x87
        message = ann.publish("house/a", b"yes", 1)  # she has subscribed too
        assert (message.topic, message.payload) == ("house/a", b"yes")
        assert ann.receive().reason == 0


def test_the_web_has_the_same_users_and_access(guarded: Gateway) -> None:
    assert guarded.web().get(guarded.url("/api/devices"), timeout=10).status_code == 401
    assert guarded.web("ann", "wrong").get(guarded.url("/"), timeout=10).status_code == 401
    ann = guarded.web("ann", "sesame")
    for topic, status in (("house/safe", 403), ("house/web", 200), ("devices/bob/x", 403)):
        assert ann.post(guarded.url("/api/publish"), json={"topic": topic, "payload": "x"}, timeout=10).status_code == status
    bob = guarded.web("bob", "sesame")
    assert "house/web" in [each["topic"] for each in ann.get(guarded.url("/api/topics"), timeout=10).json()]
    assert bob.get(guarded.url("/api/topics"), timeout=10).json() == []


# The server


def test_a_server_that_stops_tells_clients_and_publishes_no_wills(iot_packages: Path, tmp_path: Path) -> None:
    with gateway(iot_packages, tmp_path, {"allow_anonymous": True}) as served, served.socket() as sock:
        client = Client(sock)
        client.connect("c", will=Will("gone", b"c"))
        ws = websocket.create_connection(f"ws://127.0.0.1:{served.port}/mqtt", subprotocols=["mqtt"], timeout=10)
        ws.send_binary(encode(Connect("w", will=Will("gone", b"w")), V5))
        assert ws.recv()[:1] == b"\x20"
        client.subscribe("gone")
        assert served.process.stop() == 0
        assert client.receive().reason == 0x8B  # and no will came before
        assert client.receive() is None
        ws.close()


def test_several_workers_are_warned_about_and_wrong_options_are_one_line(iot_packages: Path, tmp_path: Path) -> None:
    with gateway(iot_packages, tmp_path, {}, "-w", "2") as served:
        assert "each worker has a broker of its own" in served.process.log
        assert "nobody can log in" in served.process.log
    for options, said in (
        ({"password_file": "/nowhere"}, "htpasswd: /nowhere: No such file"),
        ({"acl_file": "/nowhere"}, "acl_file: /nowhere: No such file"),
        ({"max_inflight_messages": 70000}, "max_inflight_messages: 70000 is more than 65535"),
        ({"nothing": 1}, "there is no option 'nothing'"),
    ):
        command = [sys.executable, "-m", "muxwsgi", "run", "muxwsgi_iot:app", "-b", "127.0.0.1:0", "--hijack-options", json.dumps({"mqtt": options})]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(iot_packages)}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
