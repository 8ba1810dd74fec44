"""A WebSocket echo for granian's own interface, which is its fastest."""

from typing import Any


async def application(scope: Any, protocol: Any) -> None:
    websocket = await protocol.accept()
    while True:
        message = await websocket.receive()
        if message.kind == 0:
            return
        if message.kind == 1:
            await websocket.send_bytes(message.data)
        else:
            await websocket.send_str(message.data)
