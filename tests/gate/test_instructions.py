"""What an exchange costs, in instructions: a figure that a busy machine cannot change.

The real server runs under callgrind, and a client outside says fixed sequences to it. The counts are divided by that of a reference, which
is Python code of the same kind, so that another build of the interpreter moves both (by up to 10 % differently, between one made with
profile-guided optimisation and one without). `BUDGETS` are the larger of those two plus 8 %: whoever makes an exchange dearer than that says
so here, and whoever makes it cheaper lowers its budget.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from muxwsgi.settings import CertificateFiles
from tests.gate.sequences import COUNTED, REFERENCE_ROUNDS, SEQUENCES, Client, Upstream
from tests.gate.test_build import EXPECTED, ROOT

#: Rounds of the reference that one exchange may cost, plain and compiled. Two plain ones were raised when HTTP was split into what all
#: versions share and what HTTP/1.1 has alone: a call more costs nothing compiled, and 3 to 6 % of an exchange in plain Python.
# Those of connections were raised by 5 % when each worker began to tell the others how many connections it has (`server/gate.py`), and three
# plain ones by 3 % when their counts of one commit had come to lie on both sides of them: counters, headers to add, `wsgi.early_hints`. Two plain
# ones were raised by 1 % when a connection began to call its socket's transport as C, which made the compiled ones cheaper by 3 %.
BUDGETS = {
    "hello": (2.55, 0.98),
    "browser": (2.6, 1.06),
    "browser, fields that change": (5.24, 1.48),
    "POST 1 KiB": (3.21, 1.34),
    "16 pipelined": (1.92, 0.65),
    "TLS hello": (3.18, 1.60),
    "connection per request": (9.40, 3.20),
    "connection to a hijacker": (5.35, 2.15),
    "relayed round trip": (2.30, 0.26),
    "relayed connection": (20.0, 10.0),
    "HTTP/2, 32 at once": (3.00, 0.62),
    "HTTP/2, one at a time": (4.40, 1.13),
    "HTTP/2, fields that change": (16.20, 1.90),
    "WebSocket, one at a time": (3.10, 0.63),
    "WebSocket, 16 at once": (1.85, 0.17),
    "hello again": (2.55, 0.98),
    "hello, counted": (2.66, 0.99),
}

#: Instructions that the counters of `observe/counters.py` may cost an exchange, compiled. They cost about 110; the difference of two
#: sequences varies by 200, because the loop turns and sweeps by the clock.
COUNTING = 350


#: What the server asks of callgrind. The header is in the Debian package valgrind.
REQUESTS = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void write_counts(void) { CALLGRIND_DUMP_STATS; }
"""


def count(folder: Path, certificate: CertificateFiles) -> dict[str, float]:
    """Instructions of one exchange of each sequence."""
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "valgrind is missing (Debian package valgrind)"
    (folder / "requests.c").write_text(REQUESTS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", f"{folder}/requests.so", f"{folder}/requests.c"], check=True, timeout=60)
    upstream = Upstream()
    command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
    command += [sys.executable, "-m", "tests.gate.served", certificate.certfile, certificate.keyfile, f"{folder}/requests.so", str(upstream.port)]
    server = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        ports = server.stdout.readline().split()
        assert len(ports) == 2, server.communicate()[1]
        Client(*map(int, ports)).say_all()
        server.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
        upstream.close()
    counts = {}
    for at, name in enumerate(SEQUENCES):
        part = (folder / f"out.{2 * at + 2}").read_text()  # each odd part is what lies before a sequence
        total = re.search(r"^(?:totals|summary): (\d+)", part, re.M)
        assert total is not None
        counts[name] = int(total[1]) / (REFERENCE_ROUNDS if name == "reference" else COUNTED)
    return counts


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory, make_certificate: Callable[[], CertificateFiles]) -> dict[str, float]:
    return count(tmp_path_factory.mktemp("callgrind"), make_certificate())


@pytest.mark.parametrize("sequence", SEQUENCES[1:])
def test_an_exchange_keeps_its_budget_of_instructions(sequence: str, counts: dict[str, float]) -> None:
    plain, compiled = BUDGETS[sequence]
    budget = compiled if EXPECTED == "compiled" else plain
    cost = counts[sequence] / counts["reference"]
    print(f"{EXPECTED} {sequence}: {counts[sequence]:,.0f} instructions, {cost:.2f} rounds of {counts['reference']:,.0f}, budget {budget}")
    assert cost <= budget, f"{sequence}: {counts[sequence]:,.0f} instructions are {cost / budget - 1:.0%} above the budget"


@pytest.mark.skipif(EXPECTED != "compiled", reason="the figure is for the compiled build")
def test_counting_an_exchange_costs_little(counts: dict[str, float]) -> None:
    cost = counts["hello, counted"] - counts["hello again"]
    print(f"{EXPECTED} counting an exchange: {cost:,.0f} instructions")
    assert cost < COUNTING
