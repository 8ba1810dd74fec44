"""ZooKeeper: the ConnectRequest of a client, and the four-letter words of administrators."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "zookeeper"]

#: Length, version 0, zxid, timeout, session id and the length of the password. Of the words, `stat` is left out: Memcached has `stats`.
zookeeper = regex(rb"(?s)\x00\x00\x00[\x2c\x2d]\x00{4}.{8}.{4}.{8}\x00\x00\x00\x10|ruok|srvr|mntr|isro")

PROTOCOL = Protocol(
    name="ZooKeeper",
    defined_in="Apache ZooKeeper, zookeeper.jute (ConnectRequest); ZooKeeper Commands",
    speaks_first=Speaks.CLIENT,
    match=zookeeper,
    begins=(b"\0\0\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x27\x10\0\0\0\0\0\0\0\0\0\0\0\x10" + bytes(17), b"ruok", b"mntr\n"),
    not_begins=(b"\0\0\0\x2e\0\0\0\0", b"stats\r\n"),
)
