"""The hijackers of apps/ keep the laws that `muxwsgi.testing.laws` has for those of others."""

import muxwsgi_echo
import muxwsgi_resp

from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.testing.laws import hijacker_laws, matcher_laws

PING, SET, GET = b"*1\r\n$4\r\nPING\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nab\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

echo, resp = hijacker_of(muxwsgi_echo.echo), hijacker_of(muxwsgi_resp.resp)
assert echo is not None
assert resp is not None

TestEchoMatcher = matcher_laws(echo.match, begins=[b"ECHO hello"], not_begins=[b"ECHOES", b"GET / HTTP/1.1\r\n"])
TestEcho = hijacker_laws(echo, dialogues=[(b"ECHO hello\nand more", b"ECHO hello\nand more")])
# An inline command of Redis may be one of FTP (`AUTH TLS`) or of Memcached (`get key`).
TestRespMatcher = matcher_laws(
    resp.match, begins=[PING, b"PING\r\n", b"get key\r\n"], not_begins=[b"GET / HTTP/1.1\r\n", b"SSH-2.0-x"], also=["Redis", "FTP", "Memcached"]
)
TestResp = hijacker_laws(resp, dialogues=[(PING, b"+PONG\r\n"), (SET + GET + b"GET k\r\n", b"+OK\r\n$2\r\nab\r\n$2\r\nab\r\n")])
