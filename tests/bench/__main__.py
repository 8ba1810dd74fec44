"""`make bench`.

python -m tests.bench [--group NAME] [--load NAME] [--peer NAME] [--rounds N] [--seconds S] [--minutes M] [--json FILE]
python -m tests.bench --list
python -m tests.bench report FILE.json      tables and plots into docs/
python -m tests.bench install               the peers, into the environment of this Python
"""

import argparse
import os
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from muxwsgi.build import BUILD
from tests.bench.loads import GROUPS, LOADS, Load
from tests.bench.packages import install
from tests.bench.processes import LOAD_CPU, SERVER_CPU
from tests.bench.registry import PEERS, why_not
from tests.bench.report import write
from tests.bench.results import Results
from tests.bench.run import Plan, machine, run
from tests.bench.table import ours, text

#: Debian package of each program without which nothing can be measured.
PROGRAMS = {"wrk": "wrk", "openssl": "openssl", "nginx": "nginx"}
#: Descriptors of a server with 10,000 idle connections and some beside.
DESCRIPTORS = 12_000


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "install":
        install()
        return 0
    if options.command == "report":
        for path in write(Results.read(Path(options.file)), Path(options.docs)):
            print(path)
        return 0
    loads = _chosen(options)
    if options.list:
        _list(loads)
        return 0
    if not loads:
        print("make bench: no load is both in that group and of that name (--list shows them)", file=sys.stderr)
        return 2
    if fault := _fault(loads):
        print(f"make bench: {fault}", file=sys.stderr)
        return 2
    # Servers and loads are processes in sessions of their own: whoever ends this one wants them ended too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    results = Results(machine(f"{options.rounds} rounds of {options.seconds} s"))
    names = options.peer and [name for name in PEERS if name in options.peer or ours(name)]
    plan = Plan.of(loads, names or [], options.rounds, options.seconds, options.minutes, results)
    print(f"bench: {len(plan.turns())} turns, about {plan.estimate() / 60:.0f} minutes, at most {options.minutes:g}", file=sys.stderr)
    if BUILD != "compiled":
        print("bench: this muxwsgi is not compiled, so its requests/s and CPU are not those that users get", file=sys.stderr)
    faults = run(plan, results)
    if options.json:
        results.write(Path(options.json))
    print(text(results))
    for fault in faults:
        print(f"bench: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _chosen(options: argparse.Namespace) -> list[Load]:
    return [
        load for load in LOADS if (not options.group or load.group in options.group) and (not options.load or load.name in options.load)
    ]


def _fault(loads: Sequence[Load]) -> str | None:
    """What keeps anything from being measured, in a line. Raises the limit of descriptors as far as it may be."""
    if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        return f"missing Debian package {', '.join(missing)}"
    if not {SERVER_CPU, LOAD_CPU} <= os.sched_getaffinity(0):
        return f"needs processors {SERVER_CPU} and {LOAD_CPU}: one for the server, one for the load"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max((load.idle for load in loads), default=0) + DESCRIPTORS - 10_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return f"needs {wanted} file descriptors, the limit is {hard} (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(wanted, 20_000), hard))
    return None


def _list(loads: Sequence[Load]) -> None:
    for group, title in GROUPS.items():
        if members := [load for load in loads if load.group == group]:
            print(f"{group}: {title}")
            for load in members:
                print(f"  {load.name:<15} {load.title}")
                if load.note:
                    print(f"      {load.note}")
                for name in load.peers:
                    reason = why_not(PEERS[name], load)
                    print(f"      {name:<18} {PEERS[name].title}{f'  (not: {reason})' if reason else ''}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Servers in turn under the same load.")
    parser.add_argument("--list", action="store_true", help="show loads and peers, and measure nothing")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="only the loads of this group (repeatable)")
    parser.add_argument(
        "--load", action="append", choices=[load.name for load in LOADS], metavar="NAME", help="only this load (repeatable)"
    )
    parser.add_argument("--peer", action="append", choices=list(PEERS), metavar="NAME", help="only this peer beside muxwsgi (repeatable)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each peer under each load (default 3)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a turn's load (default 2)")
    parser.add_argument("--minutes", type=float, default=25, help="begin no turn after this time (default 25)")
    parser.add_argument("--json", metavar="FILE", help="write every single figure there")
    commands = parser.add_subparsers(dest="command", metavar="")
    report = commands.add_parser("report", help="write tables and plots of a run into the documents")
    report.add_argument("file", metavar="FILE", help="what --json wrote")
    report.add_argument("--docs", default="docs", metavar="FOLDER", help="default docs")
    commands.add_parser("install", help="install the peers")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
