"""`Checker`: sees again and again whether a server is up: by connecting, by a TLS handshake, by bytes that are sent and expected.

Each worker checks for itself. What it finds out is what its own connections would meet, no worker depends on another one, and nothing is
lost with one that ends. The price is that N workers send N checks in each interval. `inter` is there for servers to which this is too much.

A server without `check` is checked only while it is down: it went down by failures of connections, and no client's connection is used to
find out whether it is up again.
"""

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.dial.errors import DialError
from muxwsgi.upstreams.errors import CheckFailed
from muxwsgi.upstreams.state import Readiness

if TYPE_CHECKING:
    from muxwsgi.upstreams.server import UpstreamServer

__all__ = ["Checker"]

log = logging.getLogger("muxwsgi.upstream")

#: Bytes of an answer that are looked at.
ANSWER = 16384

#: Seconds within which the first check comes, so that many servers are not checked at once.
FIRST_WITHIN = 0.2


class Checker:
    """The checks of one server, in a greenlet that runs only while there is something to check."""

    def __init__(self, server: "UpstreamServer", report: Callable[["UpstreamServer", str | None], None]) -> None:
        """`report` is called after each check, with the failure in words, None without."""
        self._server = server
        self._report = report
        self._started = False
        self._running: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Check from now on."""
        self._started = True
        self.wake()

    def stop(self) -> None:
        """Check no more. Idempotent."""
        self._started = False
        if self._running is not None:
            self._running.kill()
            self._running = None

    def wake(self) -> None:
        """Begin if there is something to check now."""
        if self._started and self._is_wanted() and self._running is None:
            self._running = gevent.spawn(self._run)

    def _is_wanted(self) -> bool:
        server = self._server
        return (server.settings.check or not server.state.up) and server.state.readiness is not Readiness.MAINT

    def _run(self) -> None:
        server = self._server
        try:
            gevent.sleep(random.random() * min(FIRST_WITHIN, server.settings.inter) if server.state.up else self._pause())
            while self._is_wanted():
                self._report(server, self._check())
                gevent.sleep(self._pause())
        finally:
            if self._running is gevent.getcurrent():
                self._running = None

    def _pause(self) -> float:
        settings = self._server.settings
        spread = settings.spread_checks / 100
        return settings.inter * random.uniform(1 - spread, 1 + spread)

    def _check(self) -> str | None:
        """One check: the failure in words, None without."""
        try:
            self._ask()
        except DialError as error:
            return f"{error.phase}: {error.reason}"
        except Exception as error:  # a fault of ours must not end the checks
            log.exception("%s could not be checked", self._server)
            return f"check: {error!r}"
        return None

    def _ask(self) -> None:
        settings = self._server.settings
        until = monotonic() + settings.check_timeout
        connection = self._server.connect_for_check(settings.check_timeout)
        try:
            connection.settimeout(max(until - monotonic(), 0.001))
            if settings.check_send:
                connection.sendall(settings.check_send.encode("latin-1"))
            expected = settings.check_expect.encode("latin-1")
            answer = b""
            while expected not in answer:
                if len(answer) >= ANSWER:
                    raise CheckFailed(f"the first {ANSWER} bytes of the answer do not have {settings.check_expect!r}")
                connection.settimeout(max(until - monotonic(), 0.001))
                data = connection.recv(ANSWER - len(answer))
                if not data:
                    raise CheckFailed(f"the answer {answer[:60]!r} does not have {settings.check_expect!r}")
                answer += data
        except TimeoutError:
            raise CheckFailed(f"no answer with {settings.check_expect!r} in {settings.check_timeout:g} s") from None
        except OSError as error:
            raise CheckFailed(error.strerror or str(error)) from error
        finally:
            connection.finish()
