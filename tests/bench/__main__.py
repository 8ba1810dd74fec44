"""`make bench`: servers in turn under the same load, as ratios.

    python -m tests.bench [--rounds N] [--seconds S] [--load NAME ...] [--peer NAME ...] [--json FILE]

The server is pinned to the first processor and the load to the second. Peers take turns within each round (A B C A B C ...), so
that a machine that grows slow or fast meets all of them alike. Reported are medians over the rounds of requests per second and of the
server's user + system time per request, which is the figure that survives noise, and each peer's ratio to muxwsgi's.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.loads import LOADS, Load
from tests.bench.measure import BenchError, Figures, measure
from tests.bench.peers import PEERS, Peer, make_certificate

Results = dict[tuple[str, str], list[Figures]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    peers = [peer for peer in PEERS if not options.peer or peer.name in options.peer or peer.name == "muxwsgi"]
    loads = [load for load in LOADS if not options.load or load.name in options.load]
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="muxwsgi-bench-") as folder:
        certificate = make_certificate(Path(folder))
        total = options.rounds * len(loads) * len(peers)
        done = 0
        for round_number in range(1, options.rounds + 1):
            for load in loads:
                for peer in peers:
                    done += 1
                    try:
                        figures = measure(peer, load, certificate, options.seconds)
                    except BenchError as error:
                        print(f"bench: {peer.name}, {load.name}: {error}", file=sys.stderr)
                        return 1
                    results.setdefault((load.name, peer.name), []).append(figures)
                    print(
                        f"[{done}/{total}] round {round_number} {load.name:<10} {peer.name:<18} "
                        f"{figures.requests_per_second:>10,.0f} req/s {figures.cpu_per_request:>8.1f} us",
                        file=sys.stderr,
                        flush=True,
                    )
    print(table(results, peers, loads))
    if options.json:
        rows = [{"load": load, "peer": peer, "rounds": [asdict(f) for f in rounds]} for (load, peer), rounds in results.items()]
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return 0


def table(results: Results, peers: Sequence[Peer], loads: Sequence[Load]) -> str:
    """The medians as one table; `ratio` is muxwsgi's requests per second over the peer's."""
    lines = [f"{'load':<10} {'server':<18} {'req/s':>10} {'ratio':>7} {'CPU us/req':>11} {'p50 ms':>8} {'p99 ms':>8}"]
    for load in loads:
        ours = _median(results[load.name, "muxwsgi"], "requests_per_second")
        for peer in peers:
            rounds = results[load.name, peer.name]
            speed = _median(rounds, "requests_per_second")
            lines.append(
                f"{load.name:<10} {peer.name:<18} {speed:>10,.0f} {ours / speed:>7.2f} {_median(rounds, 'cpu_per_request'):>11.1f} "
                f"{_median(rounds, 'p50'):>8.2f} {_median(rounds, 'p99'):>8.2f}"
            )
    return "\n".join(lines)


def _median(rounds: Sequence[Figures], field: str) -> float:
    return statistics.median(getattr(figures, field) for figures in rounds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Servers in turn under the same load, as ratios.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server has its turn (default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="length of one turn (default 4)")
    parser.add_argument("--load", action="append", choices=[load.name for load in LOADS], help="only this load (repeatable)")
    parser.add_argument("--peer", action="append", choices=[peer.name for peer in PEERS], help="only this peer beside muxwsgi")
    parser.add_argument("--json", metavar="FILE", help="write every single figure there")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
