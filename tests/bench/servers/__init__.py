"""Servers that have no command line of their own: `python -m tests.bench.servers.NAME PORT ...`."""
