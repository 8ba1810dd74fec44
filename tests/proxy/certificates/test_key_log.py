"""The file with the secrets: what Wireshark reads, for the owner alone."""

import os
import re
import ssl
import stat
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import Leaves
from muxwsgi.settings import CertificateFiles
from tests.tls.authority import Authority as OtherAuthority
from tests.tls.handshakes import VERSIONS, client_context, handshake

LINE = re.compile(rb"[A-Z0-9_]+ [0-9a-f]{64} [0-9a-f]{64,96}\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.log"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return OtherAuthority(tmp_path_factory.mktemp("own")).leaf("own.example")


@pytest.mark.parametrize("version", VERSIONS)
def test_both_sides_log_the_same_secrets(leaves: Leaves, own: CertificateFiles, path: Path, tmp_path: Path, version: ssl.TLSVersion) -> None:
    log = KeyLog(path)
    context = LeafContext(leaves, own={"own.example": own}, key_log=log)
    theirs = client_context(None, version)
    theirs.keylog_filename = str(tmp_path / "client.log")
    for host in ("a.example", "own.example"):
        handshake(context.for_host(host), theirs, host)
    lines = path.read_bytes().splitlines(keepends=True)
    secrets = {line for line in (tmp_path / "client.log").read_bytes().splitlines(keepends=True) if not line.startswith(b"#")}
    assert secrets and set(lines) >= secrets and all(LINE.fullmatch(line) for line in lines)
    assert (log.written, log.lost) == (len(lines), 0)
    log.close()


def test_nothing_is_logged_unless_asked(leaves: Leaves, path: Path) -> None:
    log = KeyLog(path)
    handshake(LeafContext(leaves).for_host("a.example"), client_context())
    assert path.read_bytes() == b"" and log.written == 0
    log.close()


def test_the_file_is_for_its_owner_alone_and_is_appended_to(path: Path) -> None:
    before = os.umask(0)
    try:
        log = KeyLog(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log(None, b"A B C")  # type: ignore[arg-type]
    another = KeyLog(path)
    another(None, b"D E F")  # type: ignore[arg-type]
    log(None, b"G H I")  # type: ignore[arg-type]
    assert path.read_bytes() == b"A B C\nD E F\nG H I\n"
    log.close()
    another.close()


def test_a_file_that_others_can_read_a_link_and_a_device_are_refused(path: Path, tmp_path: Path) -> None:
    path.touch(mode=0o644)
    path.chmod(0o644)
    with pytest.raises(OperatorError, match=r"keys\.log: others can read it \(mode 644\)"):
        KeyLog(path)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo", "none/keys.log", "."):
        with pytest.raises(OperatorError, match="key log: "):
            KeyLog(tmp_path / name)
    with pytest.raises(OperatorError, match="it is not a regular file"):
        KeyLog("/dev/null")


def test_what_cannot_be_written_is_counted_and_the_traffic_goes_on(leaves: Leaves, path: Path) -> None:
    log = KeyLog(path)
    context = LeafContext(leaves, key_log=log)
    log.close()
    handshake(context.for_host("a.example"), client_context())
    assert log.lost > 0 and log.written == 0


def test_a_line_that_was_cut_off_by_a_full_disk_does_not_spoil_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = KeyLog(path)
    write = os.write
    room = [3, 0, 100]
    monkeypatch.setattr("muxwsgi.proxy.certificates.key_log.os.write", lambda fd, data: write(fd, data[: room.pop(0)]))
    for line in (b"A B C", b"D E F", b"G H I"):
        log(None, line)  # type: ignore[arg-type]
    assert path.read_bytes() == b"A B\nG H I\n" and (log.written, log.lost) == (1, 2)
    log.close()
