"""picows, in uvloop, as its own benchmark runs it."""

import sys

import picows
import uvloop


class Echo(picows.WSListener):  # type: ignore[misc]
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def main() -> None:
    server = await picows.ws_create_server(lambda request: Echo(), "127.0.0.1", int(sys.argv[1]), max_frame_size=1 << 26)
    await server.serve_forever()


uvloop.run(main())
