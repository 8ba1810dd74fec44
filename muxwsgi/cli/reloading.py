"""`--reload`: a greenlet of each worker that asks for a reload when a file of the worker has changed."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent

from muxwsgi.cli.watched import Watched
from muxwsgi.errors import OperatorError
from muxwsgi.settings import BindSettings

__all__ = ["Reloading", "watched_files"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at all files, and until a change counts as complete.
LOOK, SETTLE = 0.4, 0.1

#: With a watcher that the kernel tells of changes: seconds between two looks that it has not asked for. A file system that another machine
#: writes to, such as the folder of a container's host, has no such changes.
RARE_LOOK = 2.0

#: Options with files that a reload reads again.
_FILES = ("ca_certs", "log_config", "log_config_json")


def watched_files(values: Mapping[str, Any], binds: Iterable[BindSettings]) -> set[str]:
    """The files of the configuration: its own, certificates and keys, configurations of logging."""
    certificates = [each for bind in binds for each in bind.certificates]
    files = {each.certfile for each in certificates} | {each.keyfile for each in certificates}
    files |= {values[name] for name in _FILES if values.get(name)}
    if values["config"] and not values["config"].startswith("python:"):
        files.add(values["config"].removeprefix("file:"))
    return files


class Reloading:
    """Watches the files of one worker. Make it before the application is loaded."""

    def __init__(self, values: Mapping[str, Any], binds: Iterable[BindSettings]) -> None:
        """Raises `OperatorError` if the wanted watcher is not installed."""
        self._watched = Watched(watched_files(values, binds), values["reload_extra_files"])
        self._wait: Callable[[float], None] = gevent.sleep
        self._engine = values["reload_engine"]
        self._notices: _Notices | None = None
        if self._engine != "poll":
            try:
                self._notices = _Notices()
            except ImportError:
                if self._engine == "inotify":
                    raise OperatorError("reload_engine: inotify needs watchfiles: pip install 'muxwsgi[reload]'") from None
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def described(self) -> str:
        """How it watches."""
        if self._notices is not None:
            return "watchfiles"
        return f"a look at all of them each {LOOK:g} s" + ("" if self._engine == "poll" else "; pip install 'muxwsgi[reload]' for less")

    def start(self, report: Callable[[], None], *, failed: bool) -> None:
        """Call `report` after each change. `failed` means that the application could not be loaded, so that new modules matter too."""
        self._greenlet = gevent.spawn(self._watch, report, failed)

    def stop(self) -> None:
        """Watch no longer."""
        self._watched.stop()
        if self._notices is not None:
            self._notices.stop()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _watch(self, report: Callable[[], None], failed: bool) -> None:
        while True:
            try:
                changed = self._watched.look(failed=failed)
            except Exception:  # an import in another greenlet may have changed what it looks at; the next look may be well
                log.exception("reload: a look at the files failed")
                gevent.sleep(RARE_LOOK)
                continue
            if changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                log.info("changed: %s%s", ", ".join(changed[:3]), more)
                report()
            self._rest()

    def _rest(self) -> None:
        if self._watched.is_settling:
            gevent.sleep(SETTLE)
        elif self._notices is None:
            gevent.sleep(LOOK)
        else:
            try:
                self._notices.wait(self._watched.folders, RARE_LOOK)
            except (OSError, RuntimeError) as error:  # no watches are left: fs.inotify.max_user_watches
                log.warning("watchfiles: %s: from now on all files are looked at each %g s", error, LOOK)
                self._notices = None


class _Notices:
    """The kernel's notices about folders, by way of watchfiles. It waits in a thread of gevent's pool, so that greenlets run."""

    def __init__(self) -> None:
        """Raises `ImportError` if watchfiles is not installed."""
        from watchfiles import watch

        self._make = watch
        self._folders: set[str] = set()
        self._changes: Any = None
        self._stopped = False

    def is_set(self) -> bool:
        """Called by watchfiles in its thread: whether to end."""
        return self._stopped

    def stop(self) -> None:
        """End the thread's wait, in a moment."""
        self._stopped = True

    def wait(self, folders: set[str], seconds: float) -> None:
        """Wait until something in `folders` has changed, or for `seconds`. Raises what watchfiles does."""
        if folders != self._folders or self._changes is None:
            self._folders = folders
            self._changes = self._make(
                *folders,
                watch_filter=None,
                debounce=50,
                step=50,
                stop_event=self,
                rust_timeout=int(seconds * 1000),
                yield_on_timeout=True,
                recursive=False,
                ignore_permission_denied=True,
            )
        pool = gevent.get_hub().threadpool
        if pool.apply(next, (self._changes, None)) is None:
            self._changes = None
