"""Python functions that web pages, JSON-RPC and MessagePack-RPC call, all on one port."""

from muxwsgi_rpc.procedures import CallError, Procedures

__all__ = ["CallError", "Procedures"]
