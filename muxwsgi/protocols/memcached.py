"""Memcached: a command of the text protocol, of meta commands in it, and of the binary protocol."""

from muxwsgi.mux.matchers import all_of, any_of, named, not_, regex
from muxwsgi.protocols import Protocol, Speaks
from muxwsgi.protocols.http1 import http1_line

__all__ = ["PROTOCOL", "memcached", "memcached_binary", "memcached_text"]

_KEY = rb"[^\x00-\x20\x7f]+"

#: A line of a command, without `stats` and `quit`, which other protocols have too.
_line = regex(
    rb"(?:(?:get|gets|gat|gats)(?: %(key)b)+|(?:set|add|replace|append|prepend|cas) %(key)b [0-9]+ -?[0-9]+ [0-9]+(?: [0-9]+)?(?: noreply)?"
    rb"|(?:incr|decr|touch) %(key)b -?[0-9]+(?: noreply)?|delete %(key)b(?: noreply)?|version|mn|m[gdae] %(key)b(?: [!-~]+)*"
    rb"|ms %(key)b [0-9]+(?: [!-~]+)*)\r?\n" % {b"key": _KEY},
    limit=2048,
)

#: `get / HTTP/1.0` is HTTP.
memcached_text = named("memcached_text")(all_of(_line, not_(http1_line)))

#: Magic 80, an opcode, a key of at most 250 bytes, extras, data type 0, the virtual bucket, and a body of less than 16 MiB.
memcached_binary = named("memcached_binary")(regex(rb"(?s)\x80[\x00-\x3d]\x00[\x00-\xfa][\x00-\x20]\x00..\x00"))

memcached = named("memcached")(any_of(memcached_text, memcached_binary))

PROTOCOL = Protocol(
    name="Memcached",
    defined_in="memcached, doc/protocol.txt and doc/protocol-binary.xml",
    speaks_first=Speaks.CLIENT,
    match=memcached,
    begins=(
        b"get key\r\n",
        b"set key 0 0 1\r\nv\r\n",
        b"mg key v\r\n",
        b"mn\r\n",
        b"version\r\n",
        b"\x80\x0b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ),
    not_begins=(b"GET key\r\n", b"get / HTTP/1.0\r\n", b"\x80\x2e\1\3\1", b"set key\r\n"),
)
