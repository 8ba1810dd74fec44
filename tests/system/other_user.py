"""An interpreter that any user can run: that of the tests may lie in root's home."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.system.server_process import ROOT

__all__ = ["NOBODY", "NOGROUP", "interpreter"]

#: Debian's users nobody and nogroup.
NOBODY, NOGROUP = 65534, 65534


def run_alone(python: str, program: str) -> str:
    """What it prints."""
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@cache
def interpreter() -> tuple[str, dict[str, str]]:
    """The command, and variables for it."""
    debian = tuple(int(part) for part in run_alone("/usr/bin/python3", "import sys; print(*sys.version_info[:2])").split())
    site = str(Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages"))
    for python, variables in ((sys.executable, {}), ("/usr/bin/python3", {"PYTHONPATH": f"{ROOT}:{site}"})):
        used = run_alone(python, "import os; print(os.__file__)")
        program = f"import sys, gevent, muxwsgi.cli; open({used!r}); assert sys.version_info[1] == {sys.version_info.minor}"
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups", python, "-B", "-c", program]
        if subprocess.run(as_nobody, cwd=ROOT, env={**os.environ, **variables}, capture_output=True).returncode == 0:
            return python, {**variables, "PYTHONDONTWRITEBYTECODE": "1", "MUXWSGI_HIJACK": "none"}  # no .pth file is read
    reason = f"no interpreter of version 3.{sys.version_info.minor} can be run by another user"
    if (sys.version_info.major, sys.version_info.minor) != debian:  # a newer one that lies in root's home: Debian has none to use instead
        pytest.skip(reason)
    raise AssertionError(f"{reason}: the tests need Debian's python3 then")
