"""A Squid of our own: another proxy to go through, that nobody of us has written."""

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import gevent
import gevent.subprocess

from muxwsgi.settings import CertificateFiles
from tests.ports import free_ports

USER, PASSWORD = "user", "secret word: 100%"

# Squid asks it with a line "USER PASSWORD" (percent-encoded) and reads OK or ERR.
_CHECK = f"-u -e s/^{USER}.secret%20word:%20100%25$/OK/ -e t -e s/^.*$/ERR/"


class Squid:
    """http_port `plain` and https_port `secure`, both for `USER` alone; 127.0.0.99 is forbidden to everybody."""

    def __init__(self, folder: Path, certificate: CertificateFiles) -> None:
        self.plain, self.secure = free_ports(2)
        command = shutil.which("squid", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        sed = shutil.which("sed")
        assert command is not None, "squid is missing (Debian package squid-openssl), and the tests need it"
        assert sed is not None
        self._log = folder / "squid.log"
        configuration = folder / "squid.conf"
        configuration.write_text(
            f"""
            http_port 127.0.0.1:{self.plain}
            https_port 127.0.0.1:{self.secure} tls-cert={certificate.certfile} tls-key={certificate.keyfile}
            visible_hostname squid.test
            pid_filename none
            cache deny all
            access_log none
            cache_log /dev/null
            coredump_dir none
            shutdown_lifetime 0 seconds
            auth_param basic program {sed} {_CHECK}
            auth_param basic children 1
            auth_param basic realm test
            acl known proxy_auth REQUIRED
            acl forbidden dst 127.0.0.99
            http_access deny forbidden
            http_access allow known
            http_access deny all
            """,
            encoding="utf-8",
        )
        with self._log.open("wb") as log:
            self._process = gevent.subprocess.Popen([command, "-N", "-d", "1", "-f", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait((self.plain, self.secure))

    def _wait(self, ports: Sequence[int]) -> None:
        with gevent.Timeout(60):
            for port in ports:
                while True:
                    assert self._process.poll() is None, self._log.read_text("utf-8", "replace")
                    with suppress(ConnectionRefusedError), gevent.socket.create_connection(("127.0.0.1", port)):
                        break
                    gevent.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
