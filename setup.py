"""Packaging. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "muxwsgi" / "__init__.py").read_text("utf-8"), re.M)
assert VERSION is not None

setup(
    name="muxwsgi",
    version=VERSION[1],
    description="One port, every protocol, any WSGI app: a gevent server that looks at the first bytes and decides",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["muxwsgi", "muxwsgi.*"]),
    package_data={"muxwsgi": ["py.typed"]},
    install_requires=[
        "gevent>=24.10",
        "pyopenssl>=25.1",
        "cryptography>=44",
        "service-identity>=24.1",
        "werkzeug>=3.0",
        "httptools>=0.6.4",
        "click>=8.1",
        "libpass>=1.9",
        "bcrypt>=4.2",
    ],
    extras_require={
        "apps": ["flask>=3.0", "flask-sock>=0.7", "django>=5.1"],
        "decode": ["brotli>=1.2", "backports.zstd>=1.0; python_version < '3.14'"],
        "tests": [
            "brotli>=1.2",
            "backports.zstd>=1.0; python_version < '3.14'",
            "pypac>=0.17",
            "pytest>=8",
            "hypothesis>=6.100",
            "mypy>=1.13",
            "ruff>=0.9",
            "requests>=2.32",
            "httpx>=0.28",
            "urllib3>=2.2",
            "redis>=5.2",
            "simple-websocket>=1.1",
            "types-requests",
        ],
    },
    entry_points={"console_scripts": ["muxwsgi = muxwsgi.cli:main"]},
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
