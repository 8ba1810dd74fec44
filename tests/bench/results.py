"""What comes out of a run: figures of each turn, their medians, a file."""

import json
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Figures", "Report", "Results"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a load generator says: `requests` in `seconds`, latencies in milliseconds where they are known, `cpu` seconds that it used.

    `more` has what only some loads know, as the p99 of each kind of mixed traffic.
    """

    requests: int
    seconds: float
    p50: float | None
    p99: float | None
    cpu: float
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One turn.

    speed             requests per second
    cpu               microseconds of the server's user + system time per request
    p50, p99          latency, milliseconds, where it is known
    server_busy       the part of its processor that the server used, 0 to 1
    load_busy         the same of the load generator
    rss, pss          KiB of the server's processes after the load
    more              what only some loads know. `connection` is KiB per idle connection; `first` and `first_cpu` are milliseconds from the
                      start to the first answer, and of processor time until then; `fewest` and `most` connections of one worker; in reloads
                      `lost`, each `lost_HOW` and `quiet_p99` (milliseconds)
    """

    speed: float = 0.0
    cpu: float = 0.0
    p50: float | None = None
    p99: float | None = None
    server_busy: float = 0.0
    load_busy: float = 0.0
    rss: float = 0.0
    pss: float = 0.0
    more: dict[str, float] = field(default_factory=dict)


@dataclass
class Results:
    """Every turn by load and peer; `missing` has the reason why a peer takes no part, by its name or by `load/peer`."""

    machine: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    turns: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)

    def add(self, load: str, peer: str, figures: Figures) -> None:
        self.turns.setdefault((load, peer), []).append(figures)

    def peers(self, load: str) -> list[str]:
        return [peer for name, peer in self.turns if name == load]

    def median(self, load: str, peer: str, name: str) -> float | None:
        """Of a field of `Figures` or of its `more`; None where there is no such figure."""
        values = [getattr(turn, name) if hasattr(turn, name) else turn.more.get(name) for turn in self.turns.get((load, peer), [])]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def lost_by(self, load: str, peer: str) -> str:
        """How requests were lost, in all turns: "502 12, reset 3"."""
        kinds: Counter[str] = Counter()
        for turn in self.turns.get((load, peer), []):
            kinds.update({name.removeprefix("lost_"): int(value) for name, value in turn.more.items() if name.startswith("lost_")})
        return ", ".join(f"{name} {number:,}" for name, number in kinds.most_common())

    def is_load_bound(self, load: str, peer: str) -> bool:
        """Whether the server waited for the load: its requests per second then say little, its CPU per request still counts."""
        busy, load_busy = self.median(load, peer, "server_busy"), self.median(load, peer, "load_busy")
        return busy is not None and load_busy is not None and busy < 0.85 and load_busy > busy

    def write(self, path: Path) -> None:
        rows = [{"load": load, "peer": peer, "turns": [asdict(turn) for turn in turns]} for (load, peer), turns in self.turns.items()]
        path.write_text(json.dumps({"machine": self.machine, "missing": self.missing, "results": rows}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        document: dict[str, Any] = json.loads(path.read_text())
        results = cls(document["machine"], document["missing"])
        for row in document["results"]:
            results.turns[row["load"], row["peer"]] = [Figures(**turn) for turn in row["turns"]]
        return results
