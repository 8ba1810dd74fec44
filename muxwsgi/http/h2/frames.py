"""Frames (RFC 9113 sections 4 and 6): types, flags, settings, and how they are written."""

from muxwsgi.protocols.http2 import PREFACE

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_AT_MOST",
    "GOAWAY",
    "HEADERS",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITIZED",
    "PRIORITY_FRAME",
    "PRIORITY_UPDATE",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SENT_AT_MOST",
    "SETTINGS",
    "WINDOW_AT_MOST",
    "WINDOW_UPDATE",
    "WINDOW_WITHOUT_SETTINGS",
    "data_head",
    "frame",
    "head_and_data",
    "setting",
]

#: Types of frames. PRIORITY_UPDATE is that of RFC 9218 section 7.1.
DATA, HEADERS, PRIORITY_FRAME, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10

#: Flags.
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20

#: Bytes of a frame's payload that every peer takes (section 4.2), and that ours may have.
FRAME_AT_MOST = 16384

#: Bytes of the frames that we send to a peer that takes larger ones. Between two of them, frames of other streams may be sent.
SENT_AT_MOST = 65536

#: Flow control (section 6.9): windows before SETTINGS, and the largest.
WINDOW_WITHOUT_SETTINGS = 65535
WINDOW_AT_MOST = (1 << 31) - 1


def _frame_plain(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _head(len(payload), kind, flags, stream) + payload


def _head(size: int, kind: int, flags: int, stream: int) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def _data_head_plain(size: int, flags: int, stream: int) -> bytes:
    return _head(size, DATA, flags, stream)


def _head_and_data_plain(stream: int, block: bytes, data: bytes, end: bool) -> bytes:
    return _frame_plain(HEADERS, END_HEADERS, stream, block) + _frame_plain(DATA, END_STREAM if end else 0, stream, data)


# In the compiled build these are C functions (frames.pxd), and an assignment to one would be an error: hence by this way around.
globals().update(_frame=_frame_plain, _data_head=_data_head_plain, _head_and_data=_head_and_data_plain)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return _frame(kind, flags, stream, payload)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def data_head(size: int, flags: int, stream: int) -> bytes:
    """The head of a DATA frame whose payload of `size` bytes is sent behind it."""
    return _data_head(size, flags, stream)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def head_and_data(stream: int, block: bytes, data: bytes, end: bool) -> bytes:
    """A HEADERS frame with the whole field block, and a DATA frame; `end` sets END_STREAM there."""
    return _head_and_data(stream, block, data, end)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def setting(identifier: int, value: int) -> bytes:
    """One setting in a SETTINGS frame (section 6.5.1)."""
    return identifier.to_bytes(2, "big") + value.to_bytes(4, "big")
