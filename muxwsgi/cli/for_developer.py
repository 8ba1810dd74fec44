"""What a worker does with `--reload` and `--debug`."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import OperatorError
from muxwsgi.server.proxy_application import ProxyApplication

if TYPE_CHECKING:
    from muxwsgi.cli.workers import Role

__all__ = ["ForDeveloper"]

log = logging.getLogger("muxwsgi.error")


class ForDeveloper:
    """Loads the application, so that changes of its files are noticed, and its errors are shown. Without these options it only loads it."""

    def __init__(self, role: "Role") -> None:
        """Raises `OperatorError`."""
        self._role = role
        self._failed = False
        self._reloading = None
        if role.values["reload"]:
            from muxwsgi.cli.reloading import Reloading

            # A compiled file is taken for current if its source has the same second and size. Saved twice in a second, it may not be.
            sys.dont_write_bytecode = True
            self._reloading = Reloading(role.values, role.server.binds)
            if role.worker.announces:
                log.info("files are watched by %s", self._reloading.described)
        if role.values["debug"]:
            os.environ.setdefault("FLASK_DEBUG", "1")  # otherwise Flask answers errors itself

    def load(self, make: Callable[[Mapping[str, Any]], tuple[Any, list[Any]]], *, has_page: bool) -> tuple[Any, list[Any]]:
        """What `make` makes: the application, and its logs. With `has_page`, `--reload` has a page instead of an application that cannot be
        loaded. Raises `OperatorError`."""
        try:
            app, logs = make(self._role.values)
            app = self._role.hooks.loaded(app)
        except OperatorError as error:
            if self._reloading is None or not has_page:
                raise
            from muxwsgi.cli.error_page import ErrorPage

            self._failed = True
            log.error("the application cannot be loaded, and a page says so until a file changes: %s\n%s", error, error.detail.rstrip())
            return ErrorPage(str(error), error.detail), []
        if self._role.values["debug"]:
            if isinstance(app, ProxyApplication):
                raise OperatorError("debug: a proxy has no pages on which a debugger could be shown")
            from muxwsgi.cli.debugger import Debugged

            app = Debugged(app)
        return app, logs

    def start(self) -> None:
        """Watch files, once the worker serves."""
        if self._reloading is not None:
            self._reloading.start(self._role.worker.change, failed=self._failed)

    def stop(self) -> None:
        """End what `start` has begun."""
        if self._reloading is not None:
            self._reloading.stop()
