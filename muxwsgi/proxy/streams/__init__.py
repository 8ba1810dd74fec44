"""Relays that pass bytes and WebSocket frames through hooks."""
