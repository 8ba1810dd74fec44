"""HTTPS through a forward proxy: python -m tests.bench.generators.tunnels PORT CONNECTIONS SECONDS UPSTREAM_PORT kept|fresh

`kept` makes CONNECT and handshake once a connection and counts the requests inside; `fresh` makes them for every request, and its
latency is from `connect` to the last byte of the answer.
"""

import sys
import time
from collections.abc import Generator

from tests.bench.applications.hello import BODY
from tests.bench.generators.wire import Load, Wire, client_context


def main() -> None:
    port, connections, seconds, upstream, fresh = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        float(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5] == "fresh",
    )
    context = client_context()
    connect = b"CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % (upstream, upstream)
    request = b"GET / HTTP/1.1\r\nHost: localhost:%d\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n" % upstream

    def behaviour(load: Load, wire: Wire) -> Generator[None, None, None]:
        while True:
            began = time.monotonic()
            yield from wire.connect()
            yield from wire.exchange(connect, None)
            yield from wire.start_tls(context)
            while not wire.ended:
                if not fresh:
                    began = time.monotonic()
                yield from wire.exchange(request, BODY)
                load.latencies.append(time.monotonic() - began)
                if fresh:
                    break
            wire.close()

    Load(port, connections, seconds, behaviour).run()


if __name__ == "__main__":
    main()
