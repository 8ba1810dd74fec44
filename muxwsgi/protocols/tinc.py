"""tinc: the ID line of its meta connections."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "tinc"]

#: Request 0, the name of a node (or `?` and the key of an invitation), and the version of the protocol.
tinc = regex(rb"0 (?:[A-Za-z0-9_]+|\?[A-Za-z0-9_\-]+) 17(?:\.[0-9]+)?\n")

PROTOCOL = Protocol(
    name="tinc",
    defined_in="tinc manual, The meta-protocol",
    speaks_first=Speaks.EITHER,
    match=tinc,
    begins=(b"0 office 17.7\n", b"0 office 17\n", b"0 ?aB3-_x 17.7\n"),
    not_begins=(b"0 office 18.1\n", b"1 94 64 0 0 ABCD\n", b"0  17\n"),
)
