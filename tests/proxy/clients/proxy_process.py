"""The proxy as users start it, in a process of its own, with what it writes; and programs that use it."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muxwsgi.settings import CertificateFiles
from tests import warm
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

__all__ = ["FlowReader", "ProxyProcess", "Trust", "curl", "environment", "requested", "run"]

#: Nothing that a client does here takes longer, unless it hangs.
PATIENCE = 40.0

#: What would send a program, or the proxy itself, through some other proxy.
_VARIABLES = tuple(name for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (each, each.upper()))

#: What would have programs trust others than they are told to.
_TRUST = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE")


def environment(**more: str) -> dict[str, str]:
    """This process's environment as a program has it that was told of no proxy and of no certificate."""
    without = {*_VARIABLES, *_TRUST}
    return {name: value for name, value in os.environ.items() if name not in without} | more


def run(*arguments: str | Path, timeout: float = PATIENCE, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end; its output as text."""
    more.setdefault("env", environment())
    return warm.run([str(each) for each in arguments], capture_output=True, text=True, timeout=timeout, check=False, **more)


def curl(proxy: str, *arguments: str | Path, ca: Path | None = None, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run curl with `proxy` as its proxy, trusting `ca`. Nothing goes past the proxy, not even to this machine."""
    trust = ("--cacert", ca) if ca else ()
    return run("curl", "-sS", "-m", "30", "--noproxy", "", "--proxy", proxy, *trust, *arguments, **more)


@dataclass(frozen=True)
class Trust:
    """Whom everybody believes here.

    ca_folder   the proxy's CA, made by `muxwsgi ca init`
    ca          its certificate, for clients
    root        the certificate that servers are verified with, by the proxy and by clients that see them
    leaf        of the servers
    """

    ca_folder: Path
    ca: Path
    root: Path
    leaf: CertificateFiles


class FlowReader:
    """Reads the flow log of a proxy that runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> list[dict[str, Any]]:
        """All flows so far."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text("utf-8").split("\n")[:-1]]

    def first(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first flow that fits, once it is in the log."""
        return wait_for(
            lambda: next((flow for flow in self() if fits(flow)), None),
            lambda: "it was never logged; what was:\n" + "\n".join(map(_in_short, self())),
            PATIENCE,
        )


def _in_short(flow: dict[str, Any]) -> str:
    asked = flow["request"]["url"] if flow["request"] is not None else flow["destination"]
    return f"{flow['kind']} {flow['door']} {asked} {flow['error'] or ''}"


def requested(url: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a flow is a request for that."""
    return lambda flow: flow["request"] is not None and flow["request"]["url"] == url


class ProxyProcess(ServerProcess):
    """`muxwsgi proxy OPTIONS`, or `muxwsgi run APP OPTIONS` of an app that is a proxy.

    trust   as given: inspecting (`mitm`) it mints with that CA
    flows   what it has logged
    """

    def __init__(self, trust: Trust, folder: Path, *options: str, app: str | None = None, mitm: bool = True, bind_options: str = "") -> None:
        self.trust = trust
        self.flows = FlowReader(folder / "flows.jsonl")
        own = ["--graceful-timeout=2"]
        if app is None:
            own += [f"--flows={folder / 'flows.jsonl'}", f"--ca-folder={trust.ca_folder}", f"--upstream-ca={trust.root}", *(["--mitm"] if mitm else [])]
        super().__init__(app, *own, *options, bind_options=bind_options, environment=dict.fromkeys(_VARIABLES, ""))

    @property
    def url(self) -> str:
        return f"http://{self.address}"
