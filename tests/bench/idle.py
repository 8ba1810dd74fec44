"""Connections that sit idle while others are busy, or while memory is looked at."""

import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.clients import Target
from tests.bench.processes import LOAD_CPU, BenchError, pinned

__all__ = ["held"]

#: Seconds that 10,000 connections may take to open, and to be counted at the end.
PATIENCE = 120.0


@contextmanager
def held(target: Target, number: int, relayed: bool = False) -> Iterator[None]:
    """`number` connections of which each has had one answer, through a relay if they are `relayed`. Raises `BenchError` where one was ended by the server meanwhile."""
    if not number:
        yield
        return
    kind = "tls" if target.tls else "plain"
    command = [sys.executable, "-m", "tests.bench.generators.hold", str(target.port), str(number), kind]
    if relayed:
        command = [sys.executable, "-m", "tests.bench.generators.relayed", str(target.port), "hold", str(number), "0", kind]
    holder = pinned(command, LOAD_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        _await_open(holder, number)
        yield
        output, _ = holder.communicate(timeout=PATIENCE)
        left = int(output)
        if left != number:
            raise BenchError(f"{number - left} of {number} idle connections were ended by the server")
    finally:
        if holder.poll() is None:
            holder.kill()
            holder.communicate()


def _await_open(holder: "subprocess.Popen[bytes]", number: int) -> None:
    assert holder.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(holder.stdout, selectors.EVENT_READ)
        if not selector.select(PATIENCE):
            raise BenchError(f"{number} connections did not open within {PATIENCE:g} seconds")
    if not holder.stdout.readline().startswith(b"open "):
        _, errors = holder.communicate(timeout=PATIENCE)
        raise BenchError(f"{number} idle connections could not be opened: {errors.decode(errors='replace').strip()[-300:]}")
