"""Where the peers come from: PyPI, in the environment of the benchmark or, where their requirements conflict, in one of their own."""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["PACKAGES", "install", "program_of", "versions", "why_missing"]

VENV = Path(sys.prefix)
#: Which could not be installed, and why.
RECORD = VENV / "bench-missing.json"
#: Seconds for one package to be fetched and built.
PATIENCE = 600

#: Peer, its requirement, and whether it gets an environment of its own.
PACKAGES: dict[str, tuple[str, bool]] = {
    "bjoern": ("bjoern>=3.2", False),
    "granian": ("granian>=2", False),
    "uwsgi": ("uwsgi>=2.0.28", False),
    "gunicorn": ("gunicorn[http2]>=26.2", False),
    "waitress": ("waitress>=3", False),
    "cheroot": ("cheroot>=10", False),
    "hypercorn": ("hypercorn>=0.17", False),
    "grpcio": ("grpcio>=1.60", False),
    "picows": ("picows>=2", False),
    "websockets": ("websockets>=15", False),
    "gevent-websocket": ("gevent-websocket>=0.10", False),
    "uvloop": ("uvloop>=0.21", False),
    "mitmproxy": ("mitmproxy>=11", True),
    "proxy.py": ("proxy.py>=2.4", True),
}
#: Programs with libpython inside. pip keeps what it has built per minor version, so that its cache may have one with the library of another
#: Python, which runs but finds few of this one's modules.
EMBEDDING = frozenset({"uwsgi"})
#: What the applications need.
APPLICATIONS = ("flask>=3.0", "django>=5.1")
#: Programs of Debian's, by the package that has them.
PROGRAMS = {"nginx": "nginx", "nghttpd": "nghttp2-server", "haproxy": "haproxy", "squid": "squid-openssl", "sslh": "sslh"}


def _own(package: str) -> Path:
    return VENV / "peers" / package


def program_of(package: str, program: str) -> str:
    """The path of a command of a package with an environment of its own."""
    return str(_own(package) / "bin" / program)


def install() -> None:
    """Install every package by itself, so that one that cannot be built costs only itself; why is kept for the table's footer."""
    _pip(Path(sys.executable), *APPLICATIONS, check=True)
    missing: dict[str, str] = {}
    for package, (requirement, own) in PACKAGES.items():
        print(f"   {requirement}", flush=True)
        python = Path(sys.executable)
        if own:
            python = _own(package) / "bin" / "python"
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(_own(package))], check=True)
        fresh = package in EMBEDDING and (_version(package) is None or _other_python(package) is not None)
        reason = _pip(python, requirement, *(("--no-cache-dir", "--force-reinstall") if fresh else ()))
        if reason:
            print(f"   {package} is left out: {reason}", file=sys.stderr, flush=True)
            missing[package] = reason
    RECORD.write_text(json.dumps(missing, indent=1) + "\n")


def _pip(python: Path, *arguments: str, check: bool = False) -> str:
    """Empty, or the reason in a line: what looks most like one in what pip and the compiler said."""
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=check,
        )
    except subprocess.TimeoutExpired:
        return f"not built within {PATIENCE} seconds"
    if not done.returncode:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
    telling = [line for line in lines if "fatal error:" in line or "not found" in line.lower()]
    return (telling or lines[-1:] or ["pip failed"])[0][:200]


def why_missing(needs: str) -> str | None:
    """None where it can be started."""
    if needs in PROGRAMS:
        return None if shutil.which(needs) else f"{needs} is not installed (Debian package {PROGRAMS[needs]})"
    if not needs:
        return None
    reasons: dict[str, str] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if needs in reasons:
        return f"could not be installed: {reasons[needs]}"
    if PACKAGES[needs][1]:
        return None if (_own(needs) / "bin" / "python").exists() else "not installed: python -m tests.bench install"
    if _version(needs) is None:
        return "not installed: python -m tests.bench install"
    return _other_python(needs) if needs in EMBEDDING else None


def _other_python(program: str) -> str | None:
    """Why a program with libpython inside cannot run this Python's modules; None where it can."""
    said = subprocess.run([VENV / "bin" / program, "--python-version"], capture_output=True, text=True, check=False).stdout.strip()
    if said == platform.python_version():
        return None
    return f"built with Python {said or 'that does not start'}, and this is {platform.python_version()}: python -m tests.bench install"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Of whatever is there, for the footer."""
    found = {package: _version(package) for package in ("gevent", "pyopenssl", "flask", "django", *PACKAGES)}
    for package, (_, own) in PACKAGES.items():
        if own:
            folders = _own(package).glob(f"lib/python*/site-packages/{package.replace('.', '_')}-*.dist-info")
            found[package] = next((folder.name.removesuffix(".dist-info").rpartition("-")[2] for folder in folders), None)
    for program, flag in (("nginx", "-v"), ("haproxy", "-v"), ("squid", "--version"), ("nghttpd", "--version"), ("wrk", "--version"), ("openssl", "version")):
        if shutil.which(program):
            said = subprocess.run([program, flag], capture_output=True, text=True, check=False)
            words = (said.stdout + said.stderr).replace("/", " ").split()
            found[program] = next((word for word in words if any(character.isdigit() for character in word)), None)
    return {name: version for name, version in found.items() if version}
