"""The WebSocket codec alone, beside those of wsproto and websockets: no sockets.

taskset -c 0 python -m tests.bench.websocket_codec [--rounds N]

Each codec, as a server, reads a masked binary message of a client and writes it back unmasked. They take turns, several times round: the
figures are medians of microseconds of processor time per message. Where muxwsgi is compiled, the same code uncompiled takes part too.
"""

import argparse
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable
from time import process_time
from types import ModuleType

from websockets.protocol import Protocol, Side, State
from wsproto.connection import Connection as Endpoint
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage

from muxwsgi.http.websocket import frame as codec

SIZES = (125, 65536, 1 << 20)

#: Bytes of messages in one turn, and messages at most.
BYTES_PER_TURN = 16 << 20
MESSAGES_PER_TURN = 20_000

Echo = Callable[[bytes], bytes]


def uncompiled(module: ModuleType) -> ModuleType:
    """The source of a compiled module, as plain Python."""
    path = os.path.join(os.path.dirname(str(module.__file__)), "frame.py")
    spec = importlib.util.spec_from_file_location("uncompiled_frame", path)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain


def ours(module: ModuleType) -> Echo:
    feed, encode = module.FrameParser(from_client=True).feed, module.encode_frame

    def echo(wire: bytes) -> bytes:
        answer: bytes = b""
        for frame in feed(wire):  # one: its message is no longer than a piece
            answer = encode(frame, masked=False)
        return answer

    return echo


def of_wsproto() -> Echo:
    endpoint = Endpoint(ConnectionType.SERVER)

    def echo(wire: bytes) -> bytes:
        endpoint.receive_data(wire)
        # A long message comes in several events, as its payload is read: the answer is one frame each.
        return b"".join([endpoint.send(BytesMessage(event.data, True, event.message_finished)) for event in endpoint.events()])

    return echo


def of_websockets() -> Echo:
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=None)

    def echo(wire: bytes) -> bytes:
        protocol.receive_data(wire)
        for frame in protocol.events_received():
            protocol.send_binary(frame.data)
        return b"".join(protocol.data_to_send())

    return echo


def codecs() -> dict[str, Echo]:
    compiled = not str(codec.__file__).endswith(".py")
    own = {"muxwsgi": ours(codec), "muxwsgi, plain": ours(uncompiled(codec))} if compiled else {"muxwsgi, plain": ours(codec)}
    return own | {"websockets": of_websockets(), "wsproto": of_wsproto()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.websocket_codec", description="WebSocket codecs in turn.")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each codec with each size (default 9)")
    rounds = parser.parse_args().rounds
    contenders = codecs()
    print(f"{'us per message':<20}", *(f"{name:>16}" for name in contenders))
    for size in SIZES:
        payload = os.urandom(size)
        wire = codec.encode_frame(codec.Frame(codec.Opcode.BINARY, payload), masked=True)
        count = max(1, min(MESSAGES_PER_TURN, BYTES_PER_TURN // size))
        figures: dict[str, list[float]] = {name: [] for name in contenders}
        for echo in contenders.values():
            assert echo(wire).endswith(payload[-100:])
        for _ in range(rounds):
            for name, echo in contenders.items():
                began = process_time()
                for _ in range(count):
                    echo(wire)
                figures[name].append((process_time() - began) / count * 1e6)
        print(f"{size:<20}", *(f"{statistics.median(figures[name]):>16.2f}" for name in contenders))


if __name__ == "__main__":
    main()
