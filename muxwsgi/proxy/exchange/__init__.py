"""Forwards one request to the upstream, and its response back to the client."""
