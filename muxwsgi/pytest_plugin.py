"""Fixtures for tests of hijackers. pytest finds them where muxwsgi is installed.

```python
@pytest.mark.muxwsgi(hijackers=[shout])
def test_it_shouts(muxwsgi_way):  # runs five times: plain, TLS, unix socket, tunnel of a proxy, TLS in a tunnel
    with muxwsgi_way.connect() as client:
        client.sendall(b"SHOUT hello\\n")
        assert client.recv(100) == b"SHOUT HELLO\\n"
```

pytest imports this module in every run, so it imports nothing of muxwsgi before a test needs it: a `conftest.py` may still patch first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from muxwsgi.mux.hijack import Hijacker
    from muxwsgi.mux.route import Handler, Route
    from muxwsgi.settings import ServerSettings
    from muxwsgi.testing import Served, Way

__all__ = ["muxwsgi_serve", "muxwsgi_served", "muxwsgi_way"]

#: As `muxwsgi.testing.WAYS`.
_WAYS = ("plain", "tls", "unix", "tunnel", "tls-tunnel")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "muxwsgi(hijackers=[...], settings=None): what muxwsgi_served and muxwsgi_way serve, as muxwsgi.testing.serve"
    )


@pytest.fixture
def muxwsgi_serve() -> "Iterator[Callable[..., Served]]":
    """`muxwsgi.testing.serve` without a `with`: each call serves until the test ends."""
    from muxwsgi.testing import serve

    with ExitStack() as stack:
        yield lambda *hijackers, **settings: stack.enter_context(serve(*hijackers, **settings))


@pytest.fixture(scope="module")
def _muxwsgi_servers() -> "Iterator[Callable[..., Served]]":
    """As `muxwsgi_serve`, but one server for all tests of a module that serve the same."""
    from muxwsgi.testing import serve

    with ExitStack() as stack:
        started: dict[Any, Served] = {}

        def served(hijackers: "Sequence[Handler | Hijacker | Route]", settings: "ServerSettings | None" = None) -> "Served":
            key = (*map(id, hijackers), id(settings))
            if key not in started:
                started[key] = stack.enter_context(serve(*hijackers, settings=settings))
            return started[key]

        yield served


@pytest.fixture
def muxwsgi_served(request: pytest.FixtureRequest, _muxwsgi_servers: "Callable[..., Served]") -> "Iterator[Served]":
    """A running server with the hijackers of the mark `muxwsgi`. If one of them raises, the test fails; `failures.clear()` forgives it."""
    mark = request.node.get_closest_marker("muxwsgi")
    if mark is None or mark.args or not mark.kwargs.get("hijackers"):
        raise pytest.UsageError("muxwsgi_served serves what a mark names: @pytest.mark.muxwsgi(hijackers=[...])")
    served = _muxwsgi_servers(**mark.kwargs)
    served.failures.clear()
    yield served
    failures = "\n".join(served.failures)
    served.failures.clear()
    assert not failures, failures


@pytest.fixture(params=_WAYS)
def muxwsgi_way(request: pytest.FixtureRequest, muxwsgi_served: "Served") -> "Way":
    """Each `Way` to the hijackers in turn."""
    return muxwsgi_served[request.param]
