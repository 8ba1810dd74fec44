"""The hooks of a worker, from its fork to its end. Imports no gevent, because the master makes it."""

import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from muxwsgi.cli.hook_objects import HookRequest, HookResponse, HookServer, HookWorker
from muxwsgi.cli.hooks import Hooks
from muxwsgi.errors import OperatorError
from muxwsgi.server.proxy_application import ProxyApplication

if TYPE_CHECKING:
    from muxwsgi.http.exchange import Exchange
    from muxwsgi.server.server import Server

__all__ = ["WorkerHooks"]

#: The exit status of a worker that was aborted, as in gunicorn.
ABORTED = 1


class WorkerHooks:
    """Calls the hooks of one worker. Each method is called in that worker."""

    def __init__(self, hooks: Hooks, server: HookServer, worker: HookWorker) -> None:
        self._hooks = hooks
        self._server = server
        self._worker = worker
        self._ended = False

    def forked(self) -> None:
        """The process is patched, and has loaded nothing. Raises `OperatorError`."""
        self._worker.pid = os.getpid()
        if "worker_abort" in self._hooks:
            signal.signal(signal.SIGABRT, lambda number, frame: self._aborted())
        self._hooks.require("post_fork", self._server, self._worker)

    def loaded(self, app: Any) -> Any:
        """The application is loaded. Returns the one to serve. Raises `OperatorError`."""
        self._worker.wsgi = app
        self._worker.booted = True
        self._hooks.require("post_worker_init", self._worker)
        before = self._hooks.get("pre_request")
        if before is None:
            return app
        if isinstance(app, ProxyApplication):
            raise OperatorError("pre_request: a proxy has rules instead (on_request)")
        return _WithPreRequest(app, before, self._worker)

    def serving(self, server: "Server") -> None:
        """`server` is about to start."""
        if "post_request" in self._hooks:
            server.events.subscribe(exchange=self._answered)

    def _answered(self, exchange: "Exchange") -> None:
        if exchange.environ is not exchange.request:  # the application was called
            request = HookRequest(exchange.request)
            self._hooks.tell("post_request", self._worker, request, exchange.environ, HookResponse(exchange))

    def interrupted(self) -> None:
        """SIGINT or SIGQUIT has come."""
        self._hooks.tell("worker_int", self._worker)

    def _aborted(self) -> None:
        """SIGABRT has come, perhaps in the middle of any code, which does not go on."""
        self._worker.aborted = True
        self._hooks.tell("worker_abort", self._worker)
        self.ended()
        os._exit(ABORTED)

    def ended(self) -> None:
        """The process is about to end. The second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._worker.alive = False
        self._hooks.tell("worker_exit", self._server, self._worker)


class _WithPreRequest:
    """Calls the hook before the application. What the hook raises is the application's error."""

    def __init__(self, app: Any, before: Callable[[HookWorker, HookRequest], object], worker: HookWorker) -> None:
        self.app = app
        self._before = before
        self._worker = worker

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self._before(self._worker, HookRequest(environ))
        result: Iterable[bytes] = self.app(environ, start_response)
        return result
