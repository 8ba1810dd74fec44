"""Chromium without a window, with a profile of its own."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.proxy.clients.proxy_process import Trust, environment, run

__all__ = ["Chromium"]

# It is to speak to nobody but the page's server. QUIC would go past the proxy.
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-features=OptimizationHints,MediaRouter",
)


class Chromium:
    """Opens `url`. A context manager, at whose end the browser is ended.

    trust       is put into the store that it reads on Linux, as users do it (`muxwsgi ca init` says how)
    options     say which proxy to use
    """

    def __init__(self, folder: Path, trust: Trust, url: str, *options: str) -> None:
        store = folder / ".pki" / "nssdb"
        store.mkdir(parents=True)
        believed = (("-A", "-t", "C,,", "-n", path.parent.name, "-i", path) for path in (trust.ca, trust.root))
        for command in (("-N", "--empty-password"), *believed):
            done = run("certutil", "-d", f"sql:{store}", *command)
            assert done.returncode == 0, done.stderr
        self._log = folder / "chromium.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["chromium", *_QUIET, f"--user-data-dir={folder / 'profile'}", *options, url],
                env=environment(HOME=str(folder), XDG_CONFIG_HOME=str(folder / "config"), XDG_CACHE_HOME=str(folder / "cache")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """End the browser, which then has written its logs."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
