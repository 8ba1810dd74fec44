"""What first bytes look like that no route wants, in words for the error log. A guess: nothing is decided by it."""

import re

__all__ = ["looks_like"]

#: First bytes that are shown where nothing better is known.
_SHOWN = 24

_KNOWN = (
    (re.compile(rb"[\x14-\x17]\x03|[\x80-\xff].\x01\x03", re.DOTALL), "TLS"),
    (re.compile(rb"\r\n\r\n\0\r\nQUIT\n|PROXY "), "a PROXY protocol header"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"\x05[\x01-\x09]|\x04[\x01\x02]..", re.DOTALL), "SOCKS"),
    (re.compile(rb"\x03\0.{2}[\x02-\x7f]\xe0", re.DOTALL), "RDP"),
    (re.compile(rb"\0\0.{2}(?:\x04\xd2\x16[\x2e-\x30]|\0\x03\0\0)", re.DOTALL), "PostgreSQL"),
    (re.compile(rb"\x10.{1,4}\0(?:\x04MQTT|\x06MQIsdp)", re.DOTALL), "MQTT"),
    (re.compile(rb"\*[0-9]+\r"), "Redis"),
    (re.compile(rb"AMQP"), "AMQP"),
    (re.compile(rb".{4}[\xff\xfe]SMB", re.DOTALL), "SMB"),
    (re.compile(rb"(?i:EHLO|HELO) "), "SMTP"),
    (re.compile(rb"[^\r\n]* RTSP/[0-9]"), "RTSP"),
    (re.compile(rb"[^\r\n]* SIP/[0-9]"), "SIP"),
    (re.compile(rb"HTTP/[0-9]"), "an HTTP response"),
    (re.compile(rb"<\?xml|<stream:"), "XML"),
    (re.compile(rb"\s*\{\s*\""), "JSON"),
)


def looks_like(data: bytes) -> str:
    """The protocol that `data` begins, or its first bytes."""
    for pattern, name in _KNOWN:
        if pattern.match(data):
            return name
    more = "..." if len(data) > _SHOWN else ""
    return f"no known protocol, {data[:_SHOWN]!r}{more}"
