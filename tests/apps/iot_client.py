"""A client of MQTT that does only what a test says: it encodes what is sent, and decodes what comes."""

from collections import deque
from typing import Any

from muxwsgi_iot.mqtt import (
    Ack,
    Connack,
    Connect,
    Decoder,
    Packet,
    Ping,
    Property,
    Publish,
    Suback,
    Subscribe,
    SubscribeTo,
    Version,
    encode,
)
from muxwsgi_iot.mqtt.properties import Kind


class Client:
    """Over any socket, or a `Connection` of a pair in memory."""

    def __init__(self, sock: Any, version: Version = Version.V5) -> None:
        self.sock = sock
        self.version = version
        self._decoder = Decoder(version=version)
        self._packets: deque[Packet] = deque()
        self.ended = False

    def send(self, *packets: Packet) -> None:
        self.sock.sendall(b"".join(encode(packet, self.version) for packet in packets))

    def receive(self) -> Any:
        """The next packet; None at the end of the stream."""
        while not self._packets:
            if self.ended:
                return None
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            self.ended = not data
            self._packets.extend(self._decoder.feed(data))
        return self._packets.popleft()

    def connect(self, client_id: str = "c", *, clean: bool = True, code: int = 0, **more: Any) -> Connack:
        self.send(Connect(client_id, self.version, clean, **more))
        answer = self.receive()
        assert isinstance(answer, Connack), answer
        assert answer.code == code, answer
        return answer

    def subscribe(self, *filters: str | SubscribeTo, qos: int = 0, packet_id: int = 1, identifier: int = 0) -> tuple[int, ...]:
        asked = tuple(SubscribeTo(each, qos) if isinstance(each, str) else each for each in filters)
        self.send(Subscribe(packet_id, asked, {Property.SUBSCRIPTION_IDENTIFIER: [identifier]} if identifier else {}))
        answer = self.receive()
        assert isinstance(answer, Suback) and answer.packet_id == packet_id, answer
        return answer.codes

    def publish(self, topic: str, payload: bytes = b"", qos: int = 0, **more: Any) -> Any:
        """With QoS 1 and 2, the first answer."""
        self.send(Publish(topic, payload, qos, packet_id=more.pop("packet_id", 1 if qos else 0), **more))
        return self.receive() if qos else None

    def nothing_comes(self) -> bool:
        """The answer to a ping is the next packet, so nothing was sent before."""
        self.send(Ping())
        return bool(self.receive() == Ping(is_response=True))

    def ack(self, kind: Kind, packet_id: int) -> None:
        self.send(Ack(kind, packet_id))

    def close(self) -> None:
        self.sock.close()
