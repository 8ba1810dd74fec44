"""A TLS 1.3 client that goes on by hand after its handshake: no library sends KeyUpdates one after the other."""

import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

from muxwsgi.wire.connection import Connection

__all__ = ["HandmadeClient"]

#: RFC 8446 section 4.6.3: a handshake message of type 24 with one byte, which asks for no update in return.
KEY_UPDATE = bytes((24, 0, 0, 1, 0))

HANDSHAKE, APPLICATION_DATA = 22, 23


class HandmadeClient:
    """Does the handshake over `stream`, verifying nothing, and makes the records that follow (RFC 8446 sections 5.2, 7.1 to 7.3)."""

    def __init__(self, stream: Connection) -> None:
        self._secret = b""
        self._sequence = 0
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        context.set_keylog_callback(self._remember)
        client = SSL.Connection(context)
        client.set_connect_state()
        while True:
            try:
                client.do_handshake()
                done = True
            except SSL.WantReadError:
                done = False
            try:
                stream.sendall(client.bio_read(1 << 16))
            except SSL.WantReadError:
                pass
            if done:
                return
            client.bio_write(stream.recv())

    def _remember(self, client: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.split()
        if label == b"CLIENT_TRAFFIC_SECRET_0":
            self._secret = bytes.fromhex(secret.decode())

    def key_updates(self, count: int) -> bytes:
        """`count` records with a KeyUpdate each."""
        records = []
        for _ in range(count):
            records.append(self._record(KEY_UPDATE, HANDSHAKE))
            self._secret = self._expand(b"traffic upd", 32)
            self._sequence = 0
        return b"".join(records)

    def data(self, text: bytes) -> bytes:
        """A record with application data."""
        return self._record(text, APPLICATION_DATA)

    def _record(self, content: bytes, kind: int) -> bytes:
        inner = content + bytes((kind,))
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = int.from_bytes(self._expand(b"iv", 12), "big") ^ self._sequence
        self._sequence += 1
        return header + AESGCM(self._expand(b"key", 16)).encrypt(nonce.to_bytes(12, "big"), inner, header)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        return hmac.digest(self._secret, length.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0\1", "sha256")[:length]
