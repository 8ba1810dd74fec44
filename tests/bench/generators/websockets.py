"""Messages to a WebSocket server that echoes them: python -m tests.bench.generators.websockets PORT CONNECTIONS SECONDS BYTES IN_FLIGHT plain|deflate

A connection has always IN_FLIGHT messages under way: for each that has come back, the next one is sent. The messages are made beforehand.
With `deflate` they are compressed, each by itself, and the server must compress what it sends. The first message must come back as it was.
"""

import base64
import json
import os
import select
import socket
import sys
import time
import zlib

from muxwsgi.http.websocket.frame import COMPRESSED, Frame, FrameParser, Opcode, encode_frame
from tests.bench.generators.wire import WrongAnswer

__all__ = ["Client", "payload"]

#: Seconds without a byte after which the server is taken for stuck.
STUCK = 10.0
BLOCK = 1 << 20
TAIL = b"\0\0\xff\xff"


def payload(size: int) -> bytes:
    """Text of JSON objects, as applications send it."""
    rows = b"".join(
        b'{"entry": %d, "name": "guest %d", "checked": true}, ' % (number, number * 7919 % 1009) for number in range(size // 40 + 1)
    )
    return rows[:size]


class Client:
    """One connection to 127.0.0.1:`port`."""

    def __init__(self, port: int, size: int, in_flight: int, deflate: bool) -> None:
        data = payload(size)
        self.sock = socket.create_connection(("127.0.0.1", port), STUCK)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        offer = (
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" if deflate else ""
        )
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{offer}"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise WrongAnswer(f"the connection ended behind {head!r}")
            head += byte
        if b" 101 " not in head.partition(b"\r\n")[0] or (b"permessage-deflate" in head) is not deflate:
            raise WrongAnswer(f"the handshake was answered with {head!r}")
        sent, rsv = data, 0
        if deflate:
            compressor = zlib.compressobj(wbits=-15)
            sent, rsv = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL), COMPRESSED
        self._frame = encode_frame(Frame(Opcode.BINARY, sent, rsv=rsv), masked=True)
        self._buffer = bytearray(BLOCK)
        self._head = b""  # of a frame that is not complete
        self._left = 0  # bytes of a payload that have not come
        self._last = False  # the frame of which they are ends a message
        self.sock.sendall(self._frame)
        self._check(data)
        self.sock.setblocking(False)
        self._window = memoryview(self._frame * in_flight)
        self._unsent = in_flight * len(self._frame)
        self.number = 0
        self.sent_at = time.monotonic()

    def _check(self, data: bytes) -> None:
        parser = FrameParser(from_client=False, extensions=True)
        content, compressed = b"", False
        while True:
            received = self.sock.recv(65536)
            if not received:
                raise WrongAnswer("the connection ended before the first message had come back")
            for frame in parser.feed(received):
                compressed = compressed or frame.rsv == COMPRESSED
                content += frame.data
                if frame.fin:
                    if compressed:
                        content = zlib.decompressobj(-15).decompress(content + TAIL)
                    if content != data:
                        raise WrongAnswer(f"the message came back as {content[:100]!r} ({len(content)} bytes)")
                    return

    def move(self) -> int:
        """Send and read what is possible; how many messages have come back."""
        done = self._read()
        self._unsent += done * len(self._frame)
        while self._unsent > 0:
            # All frames are equal, so the window is the bytes that follow, wherever the last write has ended.
            begin = -self._unsent % len(self._frame)
            try:
                self._unsent -= self.sock.send(self._window[begin : begin + self._unsent])
            except BlockingIOError:
                break
        return done

    @property
    def sends(self) -> bool:
        return self._unsent > 0

    def _read(self) -> int:
        done = 0
        try:
            count = self.sock.recv_into(self._buffer)
        except BlockingIOError:
            return 0
        if not count:
            raise WrongAnswer("the connection has ended")
        at = 0
        while at < count:
            if self._left:
                step = min(self._left, count - at)
                self._left -= step
                at += step
                done += not self._left and self._last
                continue
            self._head += bytes(self._buffer[at : at + 1])
            at += 1
            if len(self._head) < 2:
                continue
            length = self._head[1]
            size = 2 if length < 126 else 4 if length == 126 else 10
            missing = size - len(self._head)
            if missing > 0:
                self._head += bytes(self._buffer[at : at + missing - 1])
                at += max(0, min(missing - 1, count - at))
                if len(self._head) < size:
                    continue
            if self._head[0] & 15 > 2:
                raise WrongAnswer(f"a frame begins with {self._head!r}")
            self._left = int.from_bytes(self._head[2:size]) if size > 2 else length
            self._last = self._head[0] >= 128
            self._head = b""
        return done


def main() -> None:
    port, connections, seconds, size, in_flight, how = (int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:7])
    clients = [Client(port, int(size), int(in_flight), how == "deflate") for _ in range(connections)]
    poll = select.poll()
    by_number = {client.sock.fileno(): client for client in clients}
    latencies: list[float] = []
    number = 0
    began = time.monotonic()
    end = began + seconds
    for client in clients:
        client.move()
        poll.register(client.sock, select.POLLIN | (select.POLLOUT if client.sends else 0))
    while (now := time.monotonic()) < end:
        events = poll.poll(min(STUCK, end - now) * 1000 + 1)
        if not events and end - now > STUCK:
            raise WrongAnswer(f"nothing moved for {STUCK:g} seconds")
        for descriptor, _ in events:
            client = by_number[descriptor]
            sent = client.sends
            done = client.move()
            if done:
                now = time.monotonic()
                latencies.append(now - client.sent_at)
                client.sent_at = now
                number += done
            if client.sends != sent:
                poll.modify(client.sock, select.POLLIN | (select.POLLOUT if client.sends else 0))
    passed = time.monotonic() - began
    if not number:
        raise WrongAnswer("no message has come back in time")
    ordered = sorted(latencies)
    # With several in flight there are no times of single messages.
    p50, p99 = (ordered[len(ordered) // 2] * 1e3, ordered[len(ordered) * 99 // 100] * 1e3) if int(in_flight) == 1 else (None, None)
    print(json.dumps({"requests": number, "seconds": passed, "p50": p50, "p99": p99}))


if __name__ == "__main__":
    main()
