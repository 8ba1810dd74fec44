"""Connections that are opened to others: where they may lead, how the address is found, and which proxies they go through."""
