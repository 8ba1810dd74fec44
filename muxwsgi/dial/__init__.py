"""Outgoing connections: the allowed addresses, name resolution, and further proxies on the way."""
