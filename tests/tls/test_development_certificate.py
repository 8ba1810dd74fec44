"""The certificate that is made on first use: for whom, for how long, and who may read its key."""

import ipaddress
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from muxwsgi.errors import OperatorError
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls import development_certificate as module
from muxwsgi.wire.tls.development_certificate import development_certificate
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import handshake, settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "muxwsgi"


def certificate_of(files: CertificateFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(files.certfile).read_bytes())


def names_of(files: CertificateFiles) -> set[str]:
    names = certificate_of(files).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_it_is_for_this_machine_and_the_names_given_and_no_ca(folder: Path) -> None:
    files = development_certificate(["dev.example", "192.0.2.7", "BÜCHER.example"])
    expected = {"localhost", "127.0.0.1", "::1", "dev.example", "192.0.2.7", "xn--bcher-kva.example"}
    assert names_of(files) - {socket.gethostname().lower()} == expected
    certificate = certificate_of(files)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc < datetime.now(UTC) < certificate.not_valid_after_utc
    assert certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=91)
    assert Path(files.certfile).parent == folder


@pytest.mark.parametrize("flags", [ssl.VerifyFlags(0), ssl.VERIFY_X509_STRICT])
def test_a_client_that_is_told_to_trust_it_verifies_it(folder: Path, flags: ssl.VerifyFlags) -> None:
    files = development_certificate()
    client = ssl.create_default_context(cafile=files.certfile)
    client.verify_flags |= flags
    server = ServerContext(settings(files))
    for name in ("localhost", "127.0.0.1", "::1"):
        assert handshake(server, client, name)[0].version() == "TLSv1.3"


def test_the_key_is_private_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        files = development_certificate()
    finally:
        os.umask(before)
    assert (mode(files.keyfile), mode(folder)) == (0o600, 0o700)


def test_the_key_is_never_readable_for_others_not_even_for_a_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at every step that touches the file system."""
    seen: list[int] = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        seen.extend([mode(source), mode(folder)])
        replace(source, target)

    opened: list[tuple[int, int]] = []

    def audit(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "open" and isinstance(args[0], str) and "development.pem" in args[0] and isinstance(args[2], int):
            if args[2] & os.O_CREAT:
                opened.append((args[2] & os.O_EXCL, args[2] & os.O_ACCMODE))

    listening = [True]
    sys.addaudithook(audit)  # for ever, so that it is told when to stop listening
    monkeypatch.setattr(os, "replace", look)
    before = os.umask(0)
    try:
        development_certificate()
    finally:
        os.umask(before)
        listening.clear()
    assert seen == [0o600, 0o700]
    assert len(opened) == 1 and all(exclusive for exclusive, _ in opened), "made once, where nothing was"


def test_it_is_kept_until_a_week_before_it_expires(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path(development_certificate().certfile).read_bytes()
    assert Path(development_certificate().certfile).read_bytes() == first
    monkeypatch.setattr(module, "RENEW_BEFORE", timedelta(days=91))
    assert Path(development_certificate().certfile).read_bytes() != first


def test_a_missing_name_is_added_and_those_that_were_there_stay(folder: Path) -> None:
    development_certificate(["a.example"])
    both = Path(development_certificate(["b.example"]).certfile).read_bytes()
    for names in (["a.example"], ["b.example"], ["B.example", "a.example"], []):
        files = development_certificate(names)
        assert Path(files.certfile).read_bytes() == both
    assert {"a.example", "b.example", "localhost"} <= names_of(files)


def test_a_key_that_others_could_read_is_not_used_again(folder: Path) -> None:
    files = development_certificate()
    first = Path(files.certfile).read_bytes()
    os.chmod(files.keyfile, 0o644)
    development_certificate()
    assert mode(files.keyfile) == 0o600 and Path(files.certfile).read_bytes() != first


def test_a_folder_that_was_open_to_others_is_closed(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    development_certificate()
    assert mode(folder) == 0o700


def test_what_cannot_be_served_is_made_anew(folder: Path, tmp_path: Path) -> None:
    files = development_certificate()
    path = Path(files.certfile)
    whole = path.read_bytes()
    another = Authority(tmp_path).leaf("localhost")
    no_names = Authority(tmp_path).leaf(common_name="localhost")
    for broken in (
        b"",
        whole[: len(whole) // 2],
        whole[: whole.index(b"-----BEGIN PRIVATE KEY")],
        whole[: whole.index(b"-----BEGIN PRIVATE KEY")] + Path(another.keyfile).read_bytes(),
        Path(no_names.certfile).read_bytes() + Path(no_names.keyfile).read_bytes(),
    ):
        path.write_bytes(broken)
        assert handshake(ServerContext(settings(development_certificate())), ssl._create_unverified_context(), "localhost")
        assert mode(path) == 0o600 and {"localhost", "127.0.0.1"} <= names_of(files)
    assert sorted(each.name for each in folder.iterdir()) == ["development.lock", "development.pem"], "nothing is left behind"


def test_processes_that_start_at_once_serve_the_same_one(folder: Path) -> None:
    code = (
        "import sys; sys.stdin.read(1)\n"
        "from muxwsgi.wire.tls.development_certificate import development_certificate\n"
        "files = development_certificate(); print(hash(1)); print(open(files.certfile).read())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert len(outputs) == 1 and "BEGIN CERTIFICATE" in outputs.pop()
    assert all(process.returncode == 0 for process in processes)


def test_it_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    development_certificate()
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_is_the_operators_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(OperatorError, match="development certificate"):
        development_certificate()


def test_a_relative_data_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert development_certificate().certfile.startswith(str(tmp_path / "home" / ".local" / "share" / "muxwsgi"))
    assert not (tmp_path / "relative").exists()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OperatorError, match="HOME or XDG_DATA_HOME"):
        development_certificate()


@pytest.mark.parametrize("name", ["a..example", "x" * 64])
def test_a_name_that_is_none_is_the_operators_fault(folder: Path, name: str) -> None:
    with pytest.raises(OperatorError, match="not a host name"):
        development_certificate([name])


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64, "caf\udce9"])
def test_a_machine_with_a_strange_name_gets_one_without_it(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert names_of(development_certificate()) == {"localhost", "127.0.0.1", "::1"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_addresses_are_addresses_in_it(folder: Path) -> None:
    names = certificate_of(development_certificate()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(map(str, names.get_values_for_type(x509.IPAddress))) == {"127.0.0.1", "::1"}
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)


def test_the_fixture_of_other_tests_is_the_same_each_time(make_certificate: Callable[[], CertificateFiles]) -> None:
    assert make_certificate() == make_certificate()
