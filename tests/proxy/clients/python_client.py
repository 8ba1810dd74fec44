"""What the Python libraries do with a proxy, each in a process of its own: prints what has come of each task at each origin as JSON.

python -m tests.proxy.clients.python_client requests|httpx|urllib3 PROXY CA ORIGINS TASKS

ORIGINS are scheme://host:port, and with the tasks' names separated by commas. The tasks are:

    keep-alive    ten requests, one after the other: what each has been told
    stream        a download of 200 blocks, in pieces: how many bytes, and their SHA-256
    events        the lines of an event stream whose second event is sent only when the first one was confirmed
    upload        a generator's pieces, in chunks
    refused       the status of a request whose proxy wants to know who it is, or what was raised
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

BODY = [b"%d" % number * 10_000 for number in range(50)]


class Client(Protocol):
    """One of the libraries: what is the same about them."""

    def get(self, url: str) -> tuple[int, bytes]: ...
    def post(self, url: str, pieces: Iterator[bytes]) -> bytes: ...
    def stream(self, url: str) -> Iterator[bytes]: ...


class Requests:
    def __init__(self, proxy: str, ca: str) -> None:
        import requests

        self.session = requests.Session()
        self.session.trust_env = False
        self.session.proxies = {"http": proxy, "https": proxy}
        self.session.verify = ca

    def get(self, url: str) -> tuple[int, bytes]:
        response = self.session.get(url, timeout=20)
        return response.status_code, response.content

    def post(self, url: str, pieces: Iterator[bytes]) -> bytes:
        return bytes(self.session.post(url, data=pieces, timeout=20).content)

    def stream(self, url: str) -> Iterator[bytes]:
        with self.session.get(url, stream=True, timeout=20) as response:
            yield from response.iter_content(None)


class HTTPX:
    def __init__(self, proxy: str, ca: str) -> None:
        import ssl

        import httpx

        self.client = httpx.Client(proxy=proxy, verify=ssl.create_default_context(cafile=ca), trust_env=False, timeout=20)

    def get(self, url: str) -> tuple[int, bytes]:
        response = self.client.get(url)
        return response.status_code, response.content

    def post(self, url: str, pieces: Iterator[bytes]) -> bytes:
        return bytes(self.client.post(url, content=pieces).content)

    def stream(self, url: str) -> Iterator[bytes]:
        with self.client.stream("GET", url) as response:
            yield from response.iter_bytes()


class URLlib3:
    def __init__(self, proxy: str, ca: str) -> None:
        import urllib3

        credentials, at, host = proxy.removeprefix("http://").rpartition("@")
        headers = urllib3.make_headers(proxy_basic_auth=credentials) if at else {}
        self.pool = urllib3.ProxyManager(f"http://{host}", proxy_headers=headers, ca_certs=ca, timeout=20, retries=False)

    def get(self, url: str) -> tuple[int, bytes]:
        response = self.pool.request("GET", url)
        return response.status, response.data

    def post(self, url: str, pieces: Iterator[bytes]) -> bytes:
        return bytes(self.pool.request("POST", url, body=pieces).data)

    def stream(self, url: str) -> Iterator[bytes]:
        response = self.pool.request("GET", url, preload_content=False)
        yield from response.stream()
        response.release_conn()


def keep_alive(client: Client, origin: str) -> Any:
    return [json.loads(client.get(f"{origin}/seen?{number}")[1]) for number in range(10)]


def stream(client: Client, origin: str) -> Any:
    size, digest = 0, hashlib.sha256()
    for piece in client.stream(f"{origin}/blocks?200"):
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def events(client: Client, origin: str) -> Any:
    name = f"{type(client).__name__}-{origin[:5]}"
    heard = b""
    for piece in client.stream(f"{origin}/events?{name}"):
        heard += piece
        if heard == b"data: first\n\n":
            client.post(f"{origin}/confirm?{name}", iter(()))
    return heard.decode()


def upload(client: Client, origin: str) -> Any:
    return json.loads(client.post(f"{origin}/seen", iter(BODY)))


def refused(client: Client, origin: str) -> Any:
    try:
        return client.get(f"{origin}/")[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


CLIENTS: dict[str, Callable[[str, str], Client]] = {"requests": Requests, "httpx": HTTPX, "urllib3": URLlib3}
TASKS = {"keep-alive": keep_alive, "stream": stream, "events": events, "upload": upload, "refused": refused}

if __name__ == "__main__":
    library, proxy, ca, origins, tasks = sys.argv[1:]
    made = CLIENTS[library]
    told = {origin: {task: TASKS[task](made(proxy, ca), origin) for task in tasks.split(",")} for origin in origins.split(",")}
    print(json.dumps(told))
