"""The protocol of the hijacker that is measured.

An echo whose messages are HTTP responses, so that `wrk`, which is in C and costs the load's processor little, can be its client: it sends
one and reads the same one back. To the server these are bytes that begin as no HTTP request does.
"""

__all__ = ["MAGIC", "message"]

MAGIC = b"HTTP/1.1 200 OK\r\n"


def message(close: bool) -> bytes:
    """128 bytes. `close` makes `wrk` end the connection behind it and open another one."""
    head = MAGIC + b"Connection: %s\r\nContent-Length: " % (b"close" if close else b"keep-alive")
    padding = 128 - len(head) - len(b"NN\r\n\r\n")
    return head + b"%02d\r\n\r\n" % padding + b"." * padding
