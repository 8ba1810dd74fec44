"""WebSocket (RFC 6455) as bytes: frames, messages, permessage-deflate and the handshake. No I/O, for servers, clients and relays."""
