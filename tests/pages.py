"""The commands that the pages tell a reader to type, and a reader who types them.

`blocks()` collects them: every `console` block, and every indented block. `Reader` runs the commands of one block in a folder of their own,
with bash and with a home of their own. Two things are changed in what is written, in the commands and in the stated output alike: ports
become free ones, and 0.0.0.0 becomes 127.0.0.1. All else that has to differ here is said by variables of the environment.
"""

import errno
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import wait_for

__all__ = ["PAGES", "ROOT", "Block", "Command", "Reader", "blocks", "copy_of_the_sources", "own_environment", "quoted_commands"]

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for pattern in ("*.md", "docs/*.md", "apps/*/README.md") for path in ROOT.glob(pattern))

#: Programs that quoted text like `make run` tells a reader to run.
_PROGRAMS = r"bash|curl|git|htpasswd|make|muxwsgi|openssl|pip|pytest|python|twine"

#: Ports that the pages write. Others stand in text that nobody runs.
_PORTS = re.compile(r"\b(8000|8080|8081|8443)\b")

#: Seconds within which a command ends, a server serves, a file gets its text.
PATIENCE = 60.0


@dataclass(frozen=True)
class Command:
    """One line to type, without the comment behind it, and what the page says that it prints ("" for nothing stated)."""

    text: str
    output: str = ""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    commands: tuple[Command, ...]

    @property
    def first(self) -> str:
        return self.commands[0].text


def blocks() -> dict[tuple[str, str], Block]:
    """Every block of commands of all pages, by page and first command."""
    return {(block.page, block.first): block for page in PAGES for block in _blocks(page, (ROOT / page).read_text())}


def _blocks(page: str, text: str) -> Iterator[Block]:
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
    for match in fenced.finditer(text):
        if match[1] in ("console", "sh", "bash", "shell"):
            yield Block(page, text[: match.start()].count("\n") + 2, tuple(_commands(match[2])))
    # The lines of fenced blocks become empty ones, so that lines keep their numbers.
    rest = fenced.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in re.finditer(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", rest):
        if not match[0].strip().startswith("entry_points="):  # a line of a setup.py
            yield Block(page, rest[: match.start()].count("\n") + 1, tuple(_commands(re.sub("^    ", "", match[0], flags=re.M))))


def _commands(text: str) -> Iterator[Command]:
    """Of a block with prompts, the lines behind them with what stands below; of one without, every line."""
    if not text.startswith("$ "):
        for line in text.splitlines():
            if line.strip():
                yield Command(_without_comment(line))
        return
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, _, output = part.partition("\n")
        yield Command(_without_comment(line), output)


def _without_comment(line: str) -> str:
    return re.sub(r"\s+# .*$", "", line).strip()


def quoted_commands() -> Iterator[tuple[str, str]]:
    """(page, command) for each command that stands in backquotes within text, such as `make run`."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for match in re.finditer(rf"`((?:MUXWSGI_\w+=\S+ )?(?:{_PROGRAMS}) [^`]+)`", text):
            yield page, " ".join(match[1].split())


def own_environment(folder: Path) -> Path:
    """Make a virtual environment in `folder` that has what this one has, but neither muxwsgi nor its plugins; its `bin`.

    Its `pip` installs without the network: nothing is asked for but what is named, and builds use what is here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"muxwsgi|__editable__|__pycache__", path.name):
            (packages / path.name).symlink_to(path)
    pip = folder / "bin" / "pip"
    pip.write_text(
        "#!/bin/sh\n"
        'command="$1"; shift\n'
        f'exec "{folder}/bin/python" -m pip "$command" --quiet --no-deps --no-build-isolation --no-index "$@"\n'
    )
    pip.chmod(0o755)
    pytest = folder / "bin" / "pytest"
    pytest.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m pytest "$@"\n')
    pytest.chmod(0o755)
    return folder / "bin"


@dataclass
class Reader:
    """Types the commands of one block, and knows which. Leaving it asserts that none was left out, and ends what still runs.

    `folder` is the working directory, `home` has what the commands keep for their user, and `programs` stands first in PATH. A command that ends has `patience` seconds for it.
    """

    block: Block
    folder: Path
    programs: Path = field(default_factory=lambda: Path(sys.executable).parent)
    left_out: frozenset[str] = frozenset()
    replaced: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    typed: set[str] = field(default_factory=set)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self.running):
            self._end(process)
        if kind is None:
            assert self.typed == {command.text for command in self.block.commands} - self.left_out

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def port(self, written: int) -> int:
        """The free port that stands for the one that is written."""
        if str(written) not in self.ports:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.ports[str(written)] = probe.getsockname()[1]
        return self.ports[str(written)]

    def here(self, text: str) -> str:
        """What is written, as it has to be here."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return _PORTS.sub(lambda match: str(self.port(int(match[1]))), text).replace("0.0.0.0", "127.0.0.1")

    def command(self, beginning: str) -> Command:
        """The command of the block that begins so."""
        (found,) = [command for command in self.block.commands if command.text.startswith(beginning)]
        return found

    def run(self, beginning: str, cwd: Path | None = None) -> str:
        """Type it and wait for its end, which has to be a good one, with the output that the page states; its output."""
        command = self.command(beginning)
        process, terminal = self._on_terminal(command, cwd)
        shown = b""
        give_up = time.monotonic() + self.patience
        with terminal:
            while (part := _read(terminal)) or process.poll() is None:
                shown += part
                if time.monotonic() > give_up:
                    self._end(process)
                    raise AssertionError(f"{command.text} does not end:\n{shown.decode()}")
                if not part:
                    time.sleep(0.02)
            shown += _read(terminal)
        output = shown.decode().replace("\r\n", "\n")
        assert process.returncode == 0, f"{self.block.page}: {command.text}\n{output}"
        if command.output:
            expected = _pattern(self.here(command.output))
            assert re.fullmatch(expected, output), f"{self.block.page}: {command.text}\nstated:\n{self.here(command.output)}\nis:\n{output}"
        return output

    def serve(self, beginning: str, written_port: int, cwd: Path | None = None) -> None:
        """Type it and wait until it serves on the port that stands for `written_port`. It is ended on leaving."""
        command = self.command(beginning)
        log = self.folder / f"log-{len(self.running)}"
        with log.open("w") as stream:
            process = self._start(command, cwd, stdout=stream, stderr=subprocess.STDOUT)
        self.running.append(process)

        def serves() -> bool:
            assert process.poll() is None, f"{self.block.page}: {command.text}\n{log.read_text()}"
            try:
                socket.create_connection(("127.0.0.1", self.port(written_port)), timeout=5).close()
            except OSError:
                return False
            return True

        wait_for(serves, f"{command.text} does not serve", PATIENCE)

    def follow(self, beginning: str, shows: str, cwd: Path | None = None) -> None:
        """Type a command that goes on for ever, such as `tail -f`, until `shows` stands in its output."""
        command = self.command(beginning)
        process, terminal = self._on_terminal(command, cwd)
        self.running.append(process)
        shown = b""

        def does() -> bool:
            nonlocal shown
            shown += _read(terminal)
            return shows.encode() in shown

        with terminal:
            wait_for(does, f"{command.text} does not show {shows!r}", PATIENCE)

    def _on_terminal(self, command: Command, cwd: Path | None) -> "tuple[subprocess.Popen[str], io.FileIO]":
        """Readers sit at a terminal: redis-cli quotes values there, and jq keeps nothing back. The process, and the terminal to read from."""
        terminal, its_end = os.openpty()
        os.set_blocking(terminal, False)
        try:
            return self._start(command, cwd, stdout=its_end, stderr=its_end), io.FileIO(terminal, "r+")
        finally:
            os.close(its_end)

    def _start(self, command: Command, cwd: Path | None, **streams: object) -> "subprocess.Popen[str]":
        self.typed.add(command.text)
        self.home.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MUXWSGI_", "XDG_", "PYTEST"))}
        environment |= {"HOME": str(self.home), "PATH": f"{self.programs}:{environment['PATH']}", **self.environment}
        environment.pop("EXPECT_BUILD", None)
        # A session of its own, so that a whole pipeline can be ended.
        return subprocess.Popen(
            ["bash", "-c", self.here(command.text)],
            cwd=cwd or self.folder,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **{"stdout": subprocess.PIPE, **streams},  # type: ignore[call-overload]
        )

    def _end(self, process: "subprocess.Popen[str]") -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20)
                return
            except ProcessLookupError:
                process.wait(20)
                return
            except subprocess.TimeoutExpired:
                continue


def _read(terminal: io.FileIO) -> bytes:
    """What is there, b"" for nothing yet and where no process has the terminal any more (Linux says EIO)."""
    try:
        return terminal.read(65536) or b""
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _pattern(output: str) -> str:
    """Stated output as a regular expression: a line `...` stands for any lines, digits of fingerprints for any."""
    lines = []
    for line in output.splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*")
            continue
        # Fingerprints and serial numbers differ from one CA to the next.
        line = re.escape(line)
        line = re.sub(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", "(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", line)
        line = re.sub(r"(?<=\\ )[0-9a-f]{8}(?=,)", "[0-9a-f]{8}", line)
        lines.append(line + r"\s*\n")
    return "".join(lines)


def copy_of_the_sources(folder: Path) -> Path:
    """What `pip install .` builds from, so that a build leaves nothing in the checkout."""
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "muxwsgi", folder / "muxwsgi", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return folder
