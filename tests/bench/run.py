"""The rounds: peers take turns within each load, loads within each round, so that a machine that grows slow or fast meets all alike."""

import platform
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muxwsgi import __version__
from muxwsgi.build import BUILD
from tests.bench.loads import Load
from tests.bench.measure import Certificates, make_certificates, measure
from tests.bench.packages import versions
from tests.bench.peers import HTTP_PEERS, Peer
from tests.bench.processes import BenchError
from tests.bench.registry import PEERS, why_not
from tests.bench.results import Figures, Results

__all__ = ["Plan", "machine", "run"]

#: Seconds of a turn beside its load, before any was measured: start, warm-up, end.
OVERHEAD = 2.2
#: Seconds of the loads whose length is not that of the command line.
LENGTHS = {"start": 5.0, "reload": 75.0}


@dataclass(frozen=True)
class Plan:
    """`rounds` turns of `seconds` for each of `pairs`, and no turn that would begin after `minutes`."""

    pairs: Sequence[tuple[Load, Peer]]
    rounds: int
    seconds: int
    minutes: float

    @classmethod
    def of(cls, loads: Sequence[Load], names: Sequence[str], rounds: int, seconds: int, minutes: float, results: Results) -> "Plan":
        """Whoever can take part; the reasons of the others go to `results`."""
        pairs: list[tuple[Load, Peer]] = []
        without: dict[tuple[str, str], list[str]] = {}
        for load in loads:
            for name in _candidates(load, names):
                reason = why_not(PEERS[name], load)
                if reason is None:
                    pairs.append((load, PEERS[name]))
                else:
                    without.setdefault((name, reason), []).append(load.name)
        results.missing.update({f"{name} ({', '.join(where)})": reason for (name, reason), where in without.items()})
        return cls(pairs, rounds, seconds, minutes)

    def turns(self) -> list[tuple[int, Load, Peer]]:
        return [(number, load, peer) for number in range(1, self.rounds + 1) for load, peer in self.pairs if number <= load.rounds]

    def estimate(self) -> float:
        """Seconds."""
        return sum((LENGTHS.get(load.group, self.seconds) + OVERHEAD) for _, load, _ in self.turns())


def _candidates(load: Load, names: Sequence[str]) -> list[str]:
    """The load's own peers; those in `names`, if there are any, and then every HTTP server among them where HTTP is served."""
    if not names:
        return list(load.peers)
    anybody = {peer.name for peer in HTTP_PEERS} if load.group in ("http", "idle", "memory") else set()
    return [name for name in names if name in load.peers or name in anybody]


def run(plan: Plan, results: Results) -> list[str]:
    """Every turn, with a line for each on standard error. Returns what went wrong; who went wrong once has no further turn."""
    began = time.monotonic()
    failed: dict[tuple[str, str], str] = {}
    turns = plan.turns()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        certificates = make_certificates(Path(folder))
        for done, (number, load, peer) in enumerate(turns, 1):
            passed = time.monotonic() - began
            if passed > plan.minutes * 60:
                print(f"bench: {plan.minutes:g} minutes have passed: {len(turns) - done + 1} turns are left out", file=sys.stderr)
                results.machine["options"] += f", ended after {plan.minutes:g} minutes in round {number}"
                break
            if (load.name, peer.name) in failed:
                continue
            said = _turn(load, peer, certificates, plan.seconds, results, failed)
            per_turn = (time.monotonic() - began) / done
            left = min(per_turn * (len(turns) - done), max(0.0, plan.minutes * 60 - passed))
            print(
                f"[{done}/{len(turns)}] round {number}, {_clock(left)} left  {load.name:<14} {peer.name:<18} {said}",
                file=sys.stderr,
                flush=True,
            )
    return [f"{peer}, {load}: {reason}" for (load, peer), reason in failed.items()]


def _turn(load: Load, peer: Peer, certificates: Certificates, seconds: int, results: Results, failed: dict[tuple[str, str], str]) -> str:
    try:
        figures = measure(peer, load, certificates, seconds)
    except BenchError as error:
        failed[load.name, peer.name] = str(error)
        return f"FAILED: {str(error)[:200]}"
    results.add(load.name, peer.name, figures)
    return _summary(figures)


def _summary(figures: Figures) -> str:
    if "connection" in figures.more:
        return f"{figures.more['connection']:>10,.1f} KiB/connection"
    if "first" in figures.more:
        return f"{figures.more['first']:>10,.0f} ms {figures.more['first_cpu']:>9.0f} ms CPU"
    if "reloads" in figures.more:
        return f"{figures.more['lost']:>10,.0f} lost of {figures.more['requests']:,.0f}  p99 {figures.p99 or 0:.1f} ms"
    latency = "" if figures.p99 is None else f"  p99 {figures.p99:.2f} ms"
    return f"{figures.speed:>10,.0f} req/s {figures.cpu:>9.1f} us{latency}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def machine(options: str) -> dict[str, str]:
    """What the figures were measured on and with."""
    processor = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    # Without optimisations Python code is slower, and servers in C and Rust are not. Debian's Python has them, and is not configured so.
    flags = [flag for flag in ("--enable-optimizations", "--with-lto") if flag in (sysconfig.get_config_var("CONFIG_ARGS") or "")]
    return {
        "when": time.strftime("%Y-%m-%d"),
        "processor": processor,
        "system": f"Linux {platform.release()}",
        "python": " ".join([platform.python_version(), f"({platform.python_compiler()})", *flags]),
        "options": options,
        "muxwsgi": f"{__version__} ({BUILD})",
        **versions(),
    }
