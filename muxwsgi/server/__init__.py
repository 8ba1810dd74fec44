"""The server: listening sockets, what is served on them, and how it starts, drains and ends."""
