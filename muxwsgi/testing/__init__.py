"""For tests of handlers, matchers and hijackers.

- `connection_pair` is a connection whose other end the test holds: no socket, no server.
- `feed` gives a hijacker the bytes of a client, in any pieces, and returns what it answers. `verdicts` does it to a matcher.
- `serve` is a real server, for what only real sockets show: what a library does with a descriptor, TLS, half-close, a client that reads
  slowly.
- `muxwsgi.testing.laws` has what holds for each matcher and each hijacker, as tests that hypothesis runs.
- `muxwsgi.pytest_plugin` has `serve` as fixtures.
"""

from muxwsgi.testing.feeding import connection_pair, feed, pieces, verdicts
from muxwsgi.testing.serving import WAYS, Served, Way, serve

__all__ = ["WAYS", "Served", "Way", "connection_pair", "feed", "pieces", "serve", "verdicts"]
