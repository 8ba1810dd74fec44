"""A TLS connection per request: python -m tests.bench.generators.handshakes PORT CONNECTIONS SECONDS full|resumed

Latency is from `connect` to the last byte of the answer.
"""

import ssl
import sys
import time
from collections.abc import Generator

from tests.bench.applications.hello import BODY
from tests.bench.generators.wire import Load, Wire, client_context

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> None:
    port, connections, seconds, resume = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "resumed"
    context = client_context()

    def behaviour(load: Load, wire: Wire) -> Generator[None, None, None]:
        session: ssl.SSLSession | None = None
        while True:
            began = time.monotonic()
            yield from wire.connect()
            yield from wire.start_tls(context, session)
            yield from wire.exchange(REQUEST, BODY)
            load.latencies.append(time.monotonic() - began)
            if resume:
                session = wire.session()
            wire.close()

    Load(port, connections, seconds, behaviour).run()


if __name__ == "__main__":
    main()
