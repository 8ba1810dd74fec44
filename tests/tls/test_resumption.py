"""Sessions that are resumed: over names, reloads and processes; and those that must not be."""

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from muxwsgi.wire.tls import info
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import VERSIONS, Refused, client_context, handshake, settings

CLIENTS = ["none", "optional", "required"]


def test_the_fast_way_is_the_one_in_use() -> None:
    assert info._session_reused is info._session_reused_direct, "pyOpenSSL has changed"
    assert info._cipher is info._cipher_direct, "pyOpenSSL has changed"


def both_sides(authority: Authority, version: ssl.TLSVersion, wanted: str) -> tuple[ServerContext, ssl.SSLContext]:
    server = ServerContext(
        settings(authority.leaf("other.example"), authority.leaf("a.example"), client_certificates=wanted, client_ca=authority.root)
    )
    return server, client_context(authority, version, None if wanted == "none" else authority.leaf("client.example"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", CLIENTS)
def test_sessions_are_resumed_also_after_a_reload(authority: Authority, version: ssl.TLSVersion, wanted: str) -> None:
    server, client = both_sides(authority, version, wanted)
    first, info = handshake(server, client)
    assert not info.resumed and not first.session_reused
    certificate = info.peer_certificate
    assert (certificate is not None) == info.peer_verified == (wanted != "none")
    second, info = handshake(server, client, session=first.session)
    assert second.session_reused and info.resumed
    server.reload()
    third, info = handshake(server, client, session=second.session)
    assert third.session_reused and info.resumed
    assert info.peer_certificate == certificate and info.peer_verified == (certificate is not None)
    assert info.peer_chain == ((certificate,) if certificate else ())
    assert info.sni == "a.example"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", CLIENTS)
def test_processes_that_were_forked_after_the_context_was_made_resume_each_others_sessions(
    authority: Authority, version: ssl.TLSVersion, wanted: str
) -> None:
    server, client = both_sides(authority, version, wanted)
    workers = [Worker(server), Worker(server)]
    try:
        first = workers[0].connect(client, None)
        assert first.recv(10) == b"new"
        second = workers[1].connect(client, first.session)
        assert second.recv(10) == b"resumed" and second.session_reused
        first.close()
        second.close()
    finally:
        statuses = [worker.end() for worker in workers]
    assert statuses == [0, 0]


class Worker:
    """A process of its own that serves one connection and tells whether its session was resumed."""

    def __init__(self, server: ServerContext) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                signal.alarm(20)
                ours.close()
                tls = server.connection(theirs)
                tls.do_handshake()
                tls.send(b"resumed" if TLSInfo.of(tls).resumed else b"new")
                theirs.recv(1)  # the end
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def connect(self, client: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        self._socket.settimeout(20)
        return client.wrap_socket(self._socket, server_hostname="a.example", session=session)

    def end(self) -> int:
        self._socket.close()
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_whose_ca_was_taken_out_does_not_come_back_by_resumption(
    authority: Authority, stranger: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(Path(authority.root).read_bytes() + Path(stranger.root).read_bytes())
    server = ServerContext(settings(authority.leaf("a.example"), client_certificates="required", client_ca=str(trusted)))
    staying = client_context(authority, version, authority.leaf("client.example"))
    leaving = client_context(authority, version, stranger.leaf("client.example"))
    of_staying, of_leaving = (handshake(server, client)[0].session for client in (staying, leaving))
    trusted.write_bytes(Path(authority.root).read_bytes())
    assert handshake(server, leaving, session=of_leaving)[1].resumed, "nothing changes before the reload"
    server.reload()
    with pytest.raises(Refused, match="certificate verify failed"):
        handshake(server, leaving, session=of_leaving)
    again, info = handshake(server, staying, session=of_staying)
    assert not info.resumed and info.peer_verified, "verified anew"
    assert handshake(server, staying, session=again.session)[1].resumed


@pytest.mark.parametrize("version", VERSIONS)
def test_another_bind_does_not_take_a_session(authority: Authority, version: ssl.TLSVersion) -> None:
    server, client = both_sides(authority, version, "none")
    session = handshake(server, client)[0].session
    another, _ = both_sides(authority, version, "none")
    assert not handshake(another, client, session=session)[1].resumed
