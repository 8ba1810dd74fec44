"""Who a client is by its address, between real machines: `muxwsgi proxy` on the router, and curl on the client."""

import socket
import sys
from pathlib import Path

import gevent
import pytest

from tests.proxy.doors.netns import ROUTER, Lab, Namespace

SECRET = "for this machine alone"

#: Addresses of the client, all of which carry 127.0.0.1 in one way or another.
CARRYING = {"isatap": "fd77:1::5efe:7f00:1", "6to4": "2002:7f00:1::1", "teredo": "2001:0:7f00:1::80ff:fffe", "nat64": "64:ff9b::7f00:1"}


def serve(there: Namespace, host: str, port: int, *program: str) -> None:
    """Run a server there, until it can be connected to."""
    running = there.popen(sys.executable, *program)
    while True:
        assert running.poll() is None, program
        try:
            there.connect(host, port).close()
        except OSError:
            gevent.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("way", sorted(CARRYING))
def test_a_client_whose_address_carries_127_0_0_1_gets_to_no_loopback_service(lab: Lab, tmp_path: Path, way: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    client = CARRYING[way]
    lab.client.ip(f"addr add {client}/128 dev uplink nodad")
    lab.router.ip(f"route add {client}/128 dev to-client", version=6)
    proxy = ROUTER[socket.AF_INET6]
    serve(lab.router, "127.0.0.1", 8000, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "8000")
    serve(lab.router, proxy, 8080, "-m", "muxwsgi", "proxy", "--allow=::/0", f"--bind=[{proxy}]:8080")
    for scheme in ("http", "socks5h"):
        for destination in ("127.0.0.1", "[::ffff:127.0.0.1]", "localhost"):
            url = f"http://{destination}:8000/secret"
            done = lab.client.run("curl", "-s", "-m", "20", "--noproxy", "", "--interface", client, "--proxy", f"{scheme}://[{proxy}]:8080", url)
            assert SECRET not in done.stdout, url
            if scheme == "http":
                assert "clients elsewhere are not connected to it" in done.stdout, done
            else:
                assert done.returncode == 97, done  # CURLE_PROXY: not allowed
    here = lab.router.run("curl", "-s", "-m", "20", "--noproxy", "", "--proxy", f"http://[{proxy}]:8080", "http://127.0.0.1:8000/secret")
    assert "clients elsewhere" in here.stdout  # by an address that other machines could have too
