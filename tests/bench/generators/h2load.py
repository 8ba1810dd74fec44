"""`h2load`, and what it says as JSON: python -m tests.bench.generators.h2load PORT CONNECTIONS STREAMS SECONDS plain|tls PATH BODY URIS

BODY is a file that is posted, and URIS a file with a path in each line, which are asked for in turn; `-` for none.
"""

import json
import re
import subprocess
import sys

from tests.bench.generators.wire import WrongAnswer


def main() -> None:
    port, connections, streams, seconds, scheme, path, body, uris = sys.argv[1:]
    authority = f"{'https' if scheme == 'tls' else 'http'}://127.0.0.1:{port}"
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", "--warm-up-time=0"]
    command += ["-d", body] if body != "-" else []
    # Windows of 1 MiB a stream, so that a long answer does not wait for them.
    command += ["-w20", "-W24"]
    if uris == "-":
        command.append(authority + path)
    else:
        command += [f"--base-uri={authority}", "-i", uris]
    done = subprocess.run(command, capture_output=True, text=True, timeout=float(seconds) + 20, check=True)
    said = done.stdout
    numbers = re.search(r"^requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said, re.M)
    times = re.search(r"^finished in ([\d.]+)(us|ms|s),", said, re.M)
    status = re.search(r"^status codes: (\d+) 2xx", said, re.M)
    if numbers is None or times is None or status is None:
        raise WrongAnswer(f"h2load said: {said[-600:]}")
    all_done, succeeded, failed, errored, late = map(int, numbers.groups())
    if not succeeded or failed or errored or late or all_done != succeeded or "Application protocol: h2" not in said:
        raise WrongAnswer(f"h2load said: {said[-600:]}")
    passed = float(times[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[times[2]]
    print(json.dumps({"requests": succeeded, "seconds": passed, "p50": None, "p99": None}))


if __name__ == "__main__":
    main()
