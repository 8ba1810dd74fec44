"""The server: opens listening sockets, serves connections on them, starts, drains and ends."""
