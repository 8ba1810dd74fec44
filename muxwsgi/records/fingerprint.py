"""JA3 and JA4: fingerprints of a ClientHello, which identify the client software.

JA3 is the MD5 digest of five lists (Althouse, Atkinson and Atkins, "TLS Fingerprinting with JA3 and JA3S"); JA4 is FoxIO's "JA4: TLS Client
Fingerprinting" in its version for TLS over TCP. GREASE values (RFC 8701) are left out of both.
"""

from hashlib import md5, sha256

from muxwsgi.protocols.tls import ALPN, SERVER_NAME, ClientHello

__all__ = ["ClientTLS", "ja3", "ja4"]

_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}


def _grease(value: int) -> bool:
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def _plain(values: tuple[int, ...]) -> list[int]:
    return [value for value in values if not _grease(value)]


def ja3(hello: ClientHello) -> str:
    """32 hexadecimal digits."""
    lists = (hello.ciphers, hello.extensions, hello.groups, hello.point_formats)
    text = ",".join([str(hello.legacy_version), *("-".join(map(str, _plain(values))) for values in lists)])
    return md5(text.encode("ascii"), usedforsecurity=False).hexdigest()


def ja4(hello: ClientHello) -> str:
    """As in `t13d1516h2_8daaf6152771_e5627efa2ab1`."""
    ciphers = [f"{value:04x}" for value in _plain(hello.ciphers)]
    extensions = _plain(hello.extensions)
    version = _VERSIONS.get(max(_plain(hello.versions), default=0), "00")
    name = "d" if hello.sni is not None else "i"
    first = f"t{version}{name}{min(len(ciphers), 99):02}{min(len(extensions), 99):02}{_alpn(hello)}"
    hashed = sorted(f"{value:04x}" for value in extensions if value not in (SERVER_NAME, ALPN))
    algorithms = [f"{value:04x}" for value in _plain(hello.signature_algorithms)]
    third = ",".join(hashed) + ("_" + ",".join(algorithms) if algorithms else "")
    return f"{first}_{_digest(','.join(sorted(ciphers)))}_{_digest(third if hashed or algorithms else '')}"


def _alpn(hello: ClientHello) -> str:
    """First and last character of the first protocol id; those of its hexadecimal form if one of them is not alphanumeric."""
    if not hello.alpn or not hello.alpn[0]:
        return "00"
    first = hello.alpn[0]
    ends = first[0] + first[-1]
    if not (ends.isascii() and ends.isalnum()):
        digits = first.encode("latin-1").hex()
        ends = digits[0] + digits[-1]
    return ends


def _digest(text: str) -> str:
    return sha256(text.encode("ascii")).hexdigest()[:12] if text else "0" * 12


class ClientTLS:
    """The ClientHello of the innermost TLS layer.

    sni     the server name, None without
    alpn    the protocol ids that it offers, in its order
    """

    __slots__ = ("_hello", "alpn", "sni")

    def __init__(self, hello: ClientHello) -> None:
        self._hello = hello
        self.sni = hello.sni
        self.alpn = hello.alpn

    @property
    def ja3(self) -> str:
        """MD5 hex digest of JA3. It is computed on first use, as `ja4` is."""
        return ja3(self._hello)

    @property
    def ja4(self) -> str:
        """JA4 as FoxIO defines it."""
        return ja4(self._hello)
