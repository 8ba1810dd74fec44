"""Unary calls of gRPC through a forward proxy: python -m tests.bench.generators.grpc_calls PORT IN_FLIGHT SECONDS UPSTREAM_PORT CA

One channel, and IN_FLIGHT threads that call one after the other. CA is the file with the certificate that the proxy's leaves are signed by.
"""

import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

MESSAGE = b"Hello, World!"
#: Seconds for one call.
PATIENCE = 10.0


def main() -> None:
    port, in_flight, seconds, upstream, authority = sys.argv[1:]
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["http_proxy"] = f"http://127.0.0.1:{port}"  # it is read by the library, whatever the scheme is

    import grpc

    from tests.bench.servers.grpc_origin import METHOD

    channel = grpc.secure_channel(f"localhost:{upstream}", grpc.ssl_channel_credentials(Path(authority).read_bytes()))
    call = channel.unary_unary(METHOD)
    call(MESSAGE, timeout=PATIENCE)
    latencies: list[float] = []
    faults: list[str] = []
    began = time.monotonic()
    give_up = began + float(seconds)

    def work() -> None:
        try:
            while (start := time.monotonic()) < give_up and not faults:
                if call(MESSAGE, timeout=PATIENCE) != MESSAGE:
                    raise ValueError("the answer is another message")
                latencies.append(time.monotonic() - start)
        except Exception as error:
            faults.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(int(in_flight))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.monotonic() - began
    channel.close()
    if faults:
        raise SystemExit(faults[0])
    cuts = statistics.quantiles(latencies, n=100)
    print(json.dumps({"requests": len(latencies), "seconds": passed, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}))


if __name__ == "__main__":
    main()
