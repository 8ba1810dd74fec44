"""Connections to upstreams: dialling, TLS, the pool, and their entries in flows."""
