"""`muxwsgi new-hijacker`: writes the package of a hijacker, which installs and passes its tests as it is."""

import keyword
import re
from collections.abc import Mapping
from pathlib import Path

import click

from muxwsgi.errors import OperatorError
from muxwsgi.mux.hijack import check_name
from muxwsgi.protocols import known

__all__ = ["new_hijacker", "package"]

#: The package of a hijacker called `shout`, file by file. The first word of its protocol is its name in capitals.
_FILES = {
    "muxwsgi_shout.py": '''\
from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix


@hijack(match=prefix(b"SHOUT "))
def shout(connection: Connection) -> None:
    """Sends each line back in capitals, until the client sends no more."""
    with connection.makefile("rb") as lines:
        while line := lines.readline(8192):
            connection.sendall(line.upper())
''',
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "muxwsgi-shout"
version = "1.0"
description = "The hijacker shout for muxwsgi"
readme = "README.md"
dependencies = ["muxwsgi"]

[project.optional-dependencies]
tests = ["muxwsgi[testing]"]

[project.entry-points."muxwsgi.hijack"]
shout = "muxwsgi_shout:shout"

[tool.setuptools]
py-modules = ["muxwsgi_shout"]
""",
    "test_shout.py": """\
import pytest

from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.testing import Way, feed, pieces
from muxwsgi.testing.laws import hijacker_laws, matcher_laws
from muxwsgi_shout import shout

TestMatcher = matcher_laws(hijacker_of(shout).match, begins=[b"SHOUT hello"], not_begins=[b"GET / HTTP/1.1"])
TestHijacker = hijacker_laws(shout, dialogues=[(b"SHOUT hello\\nand more\\n", b"SHOUT HELLO\\nAND MORE\\n")])


def test_a_line_that_comes_in_two_packets_comes_back_in_capitals() -> None:
    assert feed(shout, pieces(b"SHOUT hello\\n", 3)) == b"SHOUT HELLO\\n"


@pytest.mark.muxwsgi(hijackers=[shout])
def test_it_serves_on_every_kind_of_connection(muxwsgi_way: Way) -> None:
    with muxwsgi_way.connect() as client:
        client.sendall(b"SHOUT hello\\n")
        assert client.recv(100) == b"SHOUT HELLO\\n"
""",
    "README.md": """\
# muxwsgi-shout

A hijacker for [muxwsgi](https://pypi.org/project/muxwsgi/). Clients whose first bytes are `SHOUT ` get each line back in capitals, on every
port that muxwsgi serves.

    pip install muxwsgi-shout
    muxwsgi run module:app
    printf 'SHOUT hello\\n' | nc -N 127.0.0.1 8000
""",
}


def package(name: str) -> Mapping[str, str]:
    """The files of a new package, by name. Raises `OperatorError` where no hijacker can have the name."""
    try:
        check_name(name)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    own = re.sub(r"[.-]", "_", name)
    if not own.isidentifier() or keyword.iskeyword(own):
        raise OperatorError(f"{name!r}: {own!r} cannot be the name of a function in Python")
    word = own.upper()
    for protocol in known():
        if any(data.startswith(f"{word} ".encode()) for data in protocol.begins):
            raise OperatorError(f"{name!r}: what begins with {word!r} is {protocol.name}; choose another name")

    def renamed(text: str) -> str:
        for place in ("muxwsgi-shout", "hijacker shout", 'shout = "'):  # where it is the hijacker that is named, not a function or module
            text = text.replace(place, place.replace("shout", name))
        return text.replace("shout", own).replace("SHOUT", word)

    return {renamed(file): renamed(text) for file, text in _FILES.items()}


@click.command(short_help="Write the package of a new hijacker.")
@click.argument("name")
@click.option("--into", metavar="DIR", type=click.Path(path_type=Path), help="The folder to make. Default: ./muxwsgi-NAME.")
def new_hijacker(name: str, into: Path | None) -> None:
    """Write the package of a hijacker called NAME: the hijacker, its tests, what pip needs, and a README.

    It installs and passes its tests as it is, and is yours to change. A folder that exists is left as it is.
    """
    made = package(name)
    folder = into if into is not None else Path(f"muxwsgi-{name}")
    try:
        folder.mkdir(parents=True)
        for file, text in made.items():
            (folder / file).write_text(text)
    except OSError as error:
        raise OperatorError(f"{error.filename or folder}: {error.strerror}") from error
    click.echo(f"{folder}: {', '.join(sorted(made))}")
    click.echo(f"next: cd {folder} && pip install -e '.[tests]' && pytest -q")
