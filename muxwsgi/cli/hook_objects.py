"""What hooks are given: the server, a worker, the configuration, a request and its response. They have the attributes of gunicorn's objects
that configuration files use."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from muxwsgi.cli.options import ALL
from muxwsgi.cli.system import shown_name

if TYPE_CHECKING:
    from muxwsgi.http.exchange import Exchange
    from muxwsgi.server.binds import Listening

__all__ = ["Configuration", "HookRequest", "HookResponse", "HookServer", "HookWorker"]

log = logging.getLogger("muxwsgi.error")


class Configuration:
    """`server.cfg`: the value of each option, by its name or gunicorn's. `settings` has all by our names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.settings = {each.name: values[each.name] for each in ALL}

    def __getattr__(self, name: str) -> Any:
        if name == "settings":  # while the object is copied
            raise AttributeError(name)
        from muxwsgi.cli.gunicorn import SETTINGS, hint_for, option_for

        theirs = SETTINGS.get(name)
        option = None if theirs is None else option_for(theirs, ALL)
        known = name if option is None else option.name
        if known in self.settings:
            return self.settings[known]
        raise AttributeError(f"there is no setting {name!r}" + (f": {hint_for(theirs)}" if theirs is not None else ""))

    @property
    def env(self) -> dict[str, str]:
        """The variables of `--env`."""
        return dict(pair.split("=", 1) for pair in self.settings["raw_env"])


class HookServer:
    """`server`: the master.

    log             the logger of the error log
    cfg             the configuration of the newest generation
    pid             of the master
    address         what it listens on, as an operator writes it; LISTENERS are the sockets
    WORKERS         the workers that run, by their pid
    num_workers     how many there should be
    worker_age      how many workers were started so far
    """

    def __init__(self, values: Mapping[str, Any], num_workers: int) -> None:
        self.log = log
        self.cfg = Configuration(values)
        self.pid = os.getpid()
        self.address: list[str] = []
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, HookWorker] = {}
        self.num_workers = num_workers
        self.worker_age = 0

    @property
    def timeout(self) -> float:
        """Seconds that a worker may be blocked."""
        timeout: float = self.cfg.settings["timeout"]
        return timeout

    @property
    def proc_name(self) -> str:
        """The name that `ps` shows in brackets."""
        return shown_name(self.cfg.settings)

    def listens_on(self, listening: "Iterable[Listening]") -> None:
        """Set `address` and `LISTENERS`."""
        self.address = [each.address for each in listening]
        self.LISTENERS = [each.socket for each in listening]

    def next_worker(self) -> "HookWorker":
        """The object of the worker that is about to be forked."""
        self.worker_age += 1
        return HookWorker(self)


class HookWorker:
    """`worker`.

    log, cfg    as those of the server, when it was forked
    pid         None before it is forked; ppid is the master's
    age         how many workers were started before it and with it
    sockets     that it listens on
    wsgi        the application, in the worker, once it is loaded
    alive       false once it is told to end
    booted      whether it has loaded the application
    aborted     whether it is killed because its event loop is blocked
    """

    def __init__(self, server: HookServer) -> None:
        self.log = server.log
        self.cfg = server.cfg
        self.age = server.worker_age
        self.pid: int | None = None
        self.ppid = server.pid
        self.sockets = list(server.LISTENERS)
        self.timeout = server.timeout
        self.max_requests: int = server.cfg.settings["max_requests"]
        self.wsgi: Any = None
        self.alive = True
        self.booted = False
        self.aborted = False

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"


class HookRequest:
    """`req`. It is made of the environ, as the server gives it to the application."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    @property
    def method(self) -> str:
        """As it was sent."""
        method: str = self._environ["REQUEST_METHOD"]
        return method

    @property
    def uri(self) -> str:
        """The request-target, as it was sent."""
        uri: str = self._environ["RAW_URI"]
        return uri

    @property
    def path(self) -> str:
        """The path of the request-target, as it was sent."""
        return self.uri.partition("?")[0]

    @property
    def query(self) -> str:
        """Without its question mark."""
        query: str = self._environ["QUERY_STRING"]
        return query

    @property
    def version(self) -> tuple[int, int]:
        """As in (1, 1)."""
        major, _, minor = self._environ["SERVER_PROTOCOL"].partition("/")[2].partition(".")
        return int(major), int(minor or 0)

    @property
    def scheme(self) -> str:
        """http or https."""
        scheme: str = self._environ["wsgi.url_scheme"]
        return scheme

    @property
    def remote_addr(self) -> tuple[str, int]:
        """Address and port of the client."""
        return self._environ.get("REMOTE_ADDR", ""), int(self._environ.get("REMOTE_PORT") or 0)

    @property
    def peer_addr(self) -> tuple[str, int]:
        """As `remote_addr`."""
        return self.remote_addr

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Name in capitals, and value, as in gunicorn."""
        return list(self._headers())

    def _headers(self) -> Iterator[tuple[str, str]]:
        for key, value in self._environ.items():
            if key.startswith("HTTP_"):
                yield key[5:].replace("_", "-"), value
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                yield key.replace("_", "-"), value


class HookResponse:
    """`resp`.

    status          as in "200 OK"; "" if none was sent
    headers         as the application gave them
    sent            bytes of the body that were sent
    """

    def __init__(self, exchange: "Exchange") -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self.sent = exchange.body_bytes
        self.headers_sent = bool(exchange.status)

    @property
    def status_code(self) -> int | None:
        """As a number; None if no status was sent."""
        return int(self.status[:3]) if self.status else None

    @property
    def response_length(self) -> int | None:
        """The Content-Length that the application gave, None without one."""
        value = next((value for name, value in self.headers if name.lower() == "content-length"), None)
        return int(value) if value is not None and value.isdigit() else None
